"""The methods by the names that a project gives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fairdeploy.project import Prune
from fairdeploy.pruning.base import Pruner
from fairdeploy.pruning.bilevel import Bilevel
from fairdeploy.pruning.scored import ByScore
from fairdeploy.pruning.training import Progress, Schedule


def make_pruner(options: Prune, *, progress: Callable[[Progress], None] | None = None, **rounding: Any) -> Pruner:
    """Return the method that a project names.

    Parameters
    ----------
    options : Prune
    progress : callable, optional
        Told how far a method that trains is.
    **rounding
        ``round_to``, ``last_word`` and ``latency_ms`` of `ByScore`.
    """
    if options.method != "bilevel":
        return ByScore(options.method, **rounding)
    return Bilevel(
        Schedule(options.search.epochs, options.search.learning_rate, station="prune"),
        limits=options.constraints,
        distillation=options.recover.distillation,
        progress=progress,
        **rounding,
    )
