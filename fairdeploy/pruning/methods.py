"""The methods by the names that a project gives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fairdeploy.project import Prune
from fairdeploy.pruning.base import Pruner
from fairdeploy.pruning.bilevel import Bilevel
from fairdeploy.pruning.checkpoint import Checkpoints, nowhere
from fairdeploy.pruning.scored import ByScore
from fairdeploy.pruning.training import Means, Progress, Schedule


def make_pruner(
    options: Prune,
    *,
    means: Means | None = None,
    checkpoints: Checkpoints = nowhere,
    progress: Callable[[Progress], None] | None = None,
    **rounding: Any,
) -> Pruner:
    """Return the method that a project names.

    Parameters
    ----------
    options : Prune
    means : Means, optional
        Of a method that trains.
    checkpoints : callable
        Where it keeps its trainings.
    progress : callable, optional
        Told how far it is.
    **rounding
        ``round_to``, ``last_word`` and ``latency_ms`` of `ByScore`.
    """
    if options.method != "bilevel":
        return ByScore(options.method, **rounding)
    return Bilevel(
        Schedule(options.search.epochs, options.search.learning_rate, means or Means(), station="prune"),
        limits=options.constraints,
        distillation=options.recover.distillation,
        checkpoints=checkpoints,
        progress=progress,
        **rounding,
    )
