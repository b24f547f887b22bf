"""The stations of pruning, one by one: what a build runs over its store, and `fairdeploy.prune` in one go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fairdeploy.project import Budget, Prune
from fairdeploy.pruning import processes
from fairdeploy.pruning.base import Pruned
from fairdeploy.pruning.budget import Latency, groups_and_costs
from fairdeploy.pruning.checkpoint import Checkpoints, nowhere
from fairdeploy.pruning.fair import FairTraining
from fairdeploy.pruning.methods import make_pruner
from fairdeploy.pruning.problem import Problem
from fairdeploy.pruning.recover import Trained, fair_teacher, recover
from fairdeploy.pruning.scored import ByScore
from fairdeploy.pruning.training import Distillation, Means, Progress, Schedule, on_device


@dataclass(frozen=True)
class Stations:
    """What is done to a network, station by station.

    Attributes
    ----------
    dense : Module
        In evaluation mode, on the CPU; left as it is.
    example_inputs : tuple of Tensor
    problem : Problem
    options : Prune
    seed : int
    means : Means
    checkpoints : callable
        Where each training is kept, by its station.
    progress : callable, optional
    """

    dense: nn.Module
    example_inputs: tuple[Tensor, ...]
    problem: Problem
    options: Prune
    seed: int
    means: Means = Means()
    checkpoints: Checkpoints = nowhere
    progress: Callable[[Progress], None] | None = None

    def check(self, latency_ms: Latency | None = None) -> None:
        """Refuse levels out of reach before anything is trained.

        Parameters
        ----------
        latency_ms : callable, optional
            See `ByScore`.

        Raises
        ------
        StageError
            If no channel can be pruned, or a level asks for less than the least network costs.
        """
        assert self.options.keep is not None
        multiple = self.options.round_to if isinstance(self.options.round_to, int) else 1
        pruner, levels = ByScore(round_to=multiple, latency_ms=latency_ms), self.options.keep.levels
        for _ in pruner.prune(self.dense, self.example_inputs, budgets=levels, problem=None, seed=self.seed):
            pass

    def whole(self) -> dict[str, float]:
        """Return what the dense network costs: the budgets of smaller ones are fractions of it."""
        _, costs = groups_and_costs(self.dense, self.example_inputs)
        return {name: costs.of(name, {}) for name in ("macs", "parameters", "size")}

    def teach(self) -> Trained | None:
        """Make the dense network fair under the constraints; None where no teacher is wanted."""
        if not self.options.has_teacher:
            return None
        assert self.options.constraints is not None
        schedule = self._schedule("teacher")
        return fair_teacher(
            self.dense, self.problem, self.options.constraints, schedule, seed=self.seed, **self._watched(schedule)
        )

    def prune(self, start: nn.Module, level: Budget, **rounding: Any) -> Pruned:
        """Return what the method finds for a level; of several processes the first decides on the masks.

        Parameters
        ----------
        start : Module
            The fair teacher, or the dense network where there is none; or the network of the level above.
        level : Budget
        **rounding
            See `make_pruner`.
        """
        pruner = make_pruner(
            self.options,
            reference=self.dense,
            means=self.means,
            checkpoints=self.checkpoints,
            progress=self.progress,
            **rounding,
        )
        (found,) = pruner.prune(start, self.example_inputs, budgets=[level], problem=self.problem, seed=self.seed)
        return Pruned({name: _of_the_first(mask) for name, mask in found.masks.items()}, found.module, found.fair)

    def recover(
        self, module: nn.Module, level: Budget, source: nn.Module, start: NDArray[np.float64] | None
    ) -> Trained:
        """Fine-tune a compacted network, with the source as its teacher where it was made fair.

        `start` are the multipliers that pruning settled on while it did not learn the prune split; None where it did
        not train.
        """
        options, limits = self.options, self.options.constraints
        taught = options.has_teacher and options.recover.distillation > 0
        reference = on_device(self.dense, self.means.device)
        schedule = self._schedule(f"recover {level.name}")
        return recover(
            module,
            self.problem,
            schedule,
            seed=self.seed,
            fair=None if limits is None else FairTraining(limits, self.problem, reference, start),
            distillation=Distillation(source, options.recover.distillation) if taught else None,
            concentration=options.recover.concentration,
            example_inputs=self.example_inputs,
            **self._watched(schedule),
        )

    def _schedule(self, station: str) -> Schedule:
        return Schedule(self.options.recover.epochs, self.options.recover.learning_rate, self.means, station)

    def _watched(self, schedule: Schedule) -> dict[str, Any]:
        return {"checkpoint": self.checkpoints(schedule.station), "progress": self.progress}


def _of_the_first(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = processes.of_the_first(torch.from_numpy(mask)).numpy()
    return found
