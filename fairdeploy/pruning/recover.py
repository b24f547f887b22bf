"""Fine-tuning after removal, and the dense network made fair before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from fairdeploy.compaction.bake import private_copy
from fairdeploy.compaction.training import is_trainable
from fairdeploy.errors import StageError
from fairdeploy.project import Constraints
from fairdeploy.pruning.batch_norm import reestimate
from fairdeploy.pruning.checkpoint import Checkpoint
from fairdeploy.pruning.concentration import discouraged
from fairdeploy.pruning.fair import FairTraining
from fairdeploy.pruning.problem import Problem
from fairdeploy.pruning.training import Distillation, Progress, Schedule, fit, on_device


@dataclass(frozen=True)
class Trained:
    """A network after training, on the CPU, and how its constraints went, if there were any."""

    module: nn.Module
    fair: FairTraining | None


def recover(
    module: nn.Module,
    problem: Problem,
    schedule: Schedule,
    *,
    seed: int,
    fair: FairTraining | None = None,
    distillation: Distillation | None = None,
    concentration: float = 0.0,
    example_inputs: tuple[Tensor, ...] = (),
    checkpoint: Checkpoint | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Trained:
    """Fine-tune a copy of a network on the recover stream; the same bytes for the same seed.

    Its batch norms are counted anew before, since its channels have changed.

    Parameters
    ----------
    module : Module
        Left as it is.
    problem : Problem
    schedule : Schedule
        No epochs: `module` itself comes back.
    seed : int
    fair : FairTraining, optional
        Weighs the rows under constraints.
    distillation : Distillation, optional
    concentration : float
        How strongly channels that one group alone depends on are discouraged (`discouraged`).
    example_inputs : tuple of Tensor
        By which the network's channels are found, where any are discouraged.
    checkpoint : Checkpoint, optional
    progress : callable, optional

    Raises
    ------
    StageError
        If the module is an exported graph without training mode, gives another number of classes, or training diverges.
    """
    if schedule.epochs == 0:
        return Trained(module, None)
    if not is_trainable(module):
        raise StageError(
            "recover: an exported graph cannot be trained (its batch norms are frozen); give it what "
            "CompactModel.trainable() returns, or set prune.recover.epochs: 0"
        )
    tuned = private_copy(module).to(schedule.means.device)
    reestimate(tuned, problem.recover)
    penalty = discouraged(tuned, module, example_inputs, problem.objective, concentration) if concentration else None
    fit(
        tuned,
        problem.recover,
        problem.objective,
        schedule,
        seed=seed,
        fair=fair,
        distillation=distillation,
        penalty=penalty,
        checkpoint=checkpoint,
        progress=progress,
    )
    return Trained(tuned.cpu(), fair)


def fair_teacher(
    dense: nn.Module,
    problem: Problem,
    limits: Constraints,
    schedule: Schedule,
    *,
    seed: int,
    checkpoint: Checkpoint | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Trained:
    """Make a dense network fair under the constraints that the pruned one will have; the same network where it is.

    A teacher hands its bias on (fairdeploy's docs/fair-pruning.md has figures), so it is mended before it teaches.

    Parameters
    ----------
    dense : Module
        Left as it is.
    problem : Problem
    limits : Constraints
    schedule : Schedule
    seed : int
    checkpoint : Checkpoint, optional
    progress : callable, optional
    """
    fair = FairTraining(limits, problem, on_device(dense, schedule.means.device))
    if not fair.violated():
        return Trained(dense, fair)
    return recover(dense, problem, schedule, seed=seed, fair=fair, checkpoint=checkpoint, progress=progress)
