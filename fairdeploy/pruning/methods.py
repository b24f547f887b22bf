"""The methods by the names that a project gives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from fairdeploy.project import Prune
from fairdeploy.pruning.base import Pruner
from fairdeploy.pruning.bilevel import Bilevel
from fairdeploy.pruning.checkpoint import Checkpoints, nowhere
from fairdeploy.pruning.scored import ByScore
from fairdeploy.pruning.training import Means, Progress, Schedule


def make_pruner(
    options: Prune,
    *,
    reference: nn.Module | None = None,
    means: Means | None = None,
    checkpoints: Checkpoints = nowhere,
    progress: Callable[[Progress], None] | None = None,
    **rounding: Any,
) -> Pruner:
    """Return the method that a project names.

    Parameters
    ----------
    options : Prune
    reference : Module, optional
        The dense network as given, where what is pruned is another.
    means : Means, optional
        Of a method that trains.
    checkpoints : callable
        Where it keeps its trainings.
    progress : callable, optional
        Told how far it is.
    **rounding
        ``round_to``, ``last_word``, ``latency_ms`` and ``whole`` of `ByScore`.
    """
    if options.method != "bilevel":
        return ByScore(options.method, **rounding)
    return Bilevel(
        Schedule(options.search.epochs, options.search.learning_rate, means or Means(), station="prune"),
        limits=options.constraints,
        reference=reference,
        distillation=options.recover.distillation if options.has_teacher else 0.0,
        checkpoints=checkpoints,
        progress=progress,
        **rounding,
    )
