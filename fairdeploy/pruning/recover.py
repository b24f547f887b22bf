"""Fine-tuning after removal, and the dense network made fair before it."""

from __future__ import annotations

from typing import Any

from torch import nn

from fairdeploy.compaction.bake import private_copy
from fairdeploy.compaction.training import is_trainable
from fairdeploy.errors import StageError
from fairdeploy.pruning.problem import Problem
from fairdeploy.pruning.training import Schedule, fit


def recover(module: nn.Module, problem: Problem, schedule: Schedule, *, seed: int, **options: Any) -> nn.Module:
    """Fine-tune a copy of a network; see `fit` for the options.

    Parameters
    ----------
    module : Module
        Left as it is.
    problem : Problem
        Of which the recover stream is learned.
    schedule : Schedule
        No epochs: `module` itself comes back.
    seed : int

    Raises
    ------
    StageError
        If the module is an exported graph without training mode, gives another number of classes, or training diverges.
    """
    if schedule.epochs == 0:
        return module
    if not is_trainable(module):
        raise StageError(
            "recover: an exported graph cannot be trained (its batch norms are frozen); give it what "
            "CompactModel.trainable() returns, or set prune.recover.epochs: 0"
        )
    tuned = private_copy(module).train()
    fit(tuned, problem.recover, problem.objective, schedule, seed=seed, **options)
    return tuned.eval()
