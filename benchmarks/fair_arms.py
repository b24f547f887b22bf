"""The ways of making a network small that `fair_pruning` compares, and what each of them is trained on.

An arm says which dense network it starts from, how channels are chosen, and how the rest is trained. All get the same
rows, epochs, learning rate and budget of multiply-accumulates.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from fair_data import Data, Split, Task
from torch import nn

from fairdeploy.compaction import CompactModel, compact
from fairdeploy.model import ModelSpec, TensorSpec
from fairdeploy.project import Budget, Constraints
from fairdeploy.pruning import (
    Batch,
    Bilevel,
    ByScore,
    Distillation,
    Problem,
    Pruner,
    Schedule,
    Trained,
    fair_teacher,
    recover,
)
from fairdeploy.pruning.fair import FairTraining
from fairdeploy.pruning.objectives import classification
from fairdeploy.pruning.training import fit

Sampling = Literal["natural", "balanced", "once"]
Source = Literal["dense", "control", "teacher"]

BATCH = 128
LOOK = 512
DENSE_TRAINING = Schedule(7, 4e-3, station="dense")
TUNED = 7  # epochs of the control's and the teacher's training
RATE = 1.2e-2  # of pruned networks
SEARCH = Schedule(1, 4e-3, station="prune")
SHARE = 0.5  # of the distance from the teacher in the loss
LIMIT = 0.02


class ArrayStream:
    """Batches of rows that lie in arrays; balanced ones hold each label, and each group within it, equally often."""

    def __init__(self, task: Task, splits: Sequence[Split], *, sampling: Sampling, seed: int) -> None:
        self._task, self._sampling, self._seed = task, sampling, seed
        self._inputs = np.concatenate([np.asarray(split.inputs) for split in splits])
        self._labels = np.concatenate([np.asarray(split.labels, np.int64) for split in splits])
        self._groups = np.concatenate([np.asarray(split.groups, np.int64) for split in splits])

    @property
    def steps(self) -> int:
        rows = len(self._labels)
        return -(-rows // LOOK) if self._sampling == "once" else rows // BATCH

    def epoch(self, number: int) -> Iterator[Batch]:
        random = np.random.default_rng([self._seed, number])
        order, size = self._order(random), LOOK if self._sampling == "once" else BATCH
        for step in range(self.steps):
            chosen = order[step * size : (step + 1) * size]
            inputs = self._inputs[chosen]
            if self._sampling != "once":
                inputs = self._task.augment(inputs, random)
            labels, groups = torch.from_numpy(self._labels[chosen]), torch.from_numpy(self._groups[chosen])
            yield Batch((self._task.feed(inputs),), labels, groups[None], labels)

    def _order(self, random: np.random.Generator) -> Any:
        rows = np.arange(len(self._labels))
        if self._sampling == "once":
            return rows
        if self._sampling == "natural":
            return random.permutation(rows)
        drawn = []
        for label in (0, 1):
            cells = [np.flatnonzero((self._labels == label) & (self._groups == one)) for one in range(-1, 99)]
            cells = [cell for cell in cells if len(cell)]
            quota = -(-len(rows) // (2 * len(cells)))
            drawn += [
                np.concatenate([random.permutation(cell) for _ in range(-(-quota // len(cell)))])[:quota]
                for cell in cells
            ]
        return random.permutation(np.concatenate(drawn))


@dataclass(frozen=True)
class Arm:
    """One way of making a network small.

    Attributes
    ----------
    name : str
    source : {"dense", "control", "teacher"}
        The dense network as given; trained on, balanced, on train and prune; the same under constraints.
    method : str
        Of `ByScore`, or ``bilevel``.
    sampling : {"natural", "balanced"}
    equal_data : bool
        Whether weights learn from the prune split too.
    limits : Constraints, optional
    watched : {"prune", "train"}
        The split on which violations are counted.
    distilled : bool
        From the source.
    rolled_back : bool
        Whether weights go back to the source's once channels are chosen.
    carried : bool
        Whether fine-tuning goes on from the multipliers that pruning settled on.
    """

    name: str
    source: Source = "teacher"
    method: str = "bilevel"
    sampling: Sampling = "balanced"
    equal_data: bool = True
    limits: Constraints | None = None
    watched: Literal["prune", "train"] = "prune"
    distilled: bool = True
    rolled_back: bool = False
    carried: bool = True


def limits_of(task: Task, limit: float = LIMIT) -> Constraints:
    """Return what the task's groups shall keep to: equal odds, or equal opportunity where negatives have no group."""
    if task.name == "presence":
        return Constraints(equal_opportunity_difference=limit)
    return Constraints(equalized_odds_difference=limit)


def arms(task: Task) -> dict[str, Arm]:
    """Return the core table's arms by name."""
    fair = limits_of(task)
    strong = Arm("strong control", method="magnitude", limits=fair)
    found = [
        Arm("magnitude", "dense", "magnitude", "natural", equal_data=False, distilled=False),
        Arm("control", "control", "magnitude", distilled=False),
        strong,
        Arm("prune then fair", "dense", "magnitude", limits=fair, distilled=False),
        Arm(
            "CEAG-like", "dense", "magnitude", "natural", equal_data=False, distilled=False, watched="train",
            limits=Constraints(excess_drop=0.01),
        ),
        Arm("bilevel", limits=fair),
    ]  # fmt: skip
    return {arm.name: arm for arm in found}


def ablations(task: Task) -> dict[str, Arm]:
    """Return the bilevel arm with one part less, each."""
    whole = arms(task)["bilevel"]
    found = [
        replace(whole, name="bilevel, no teacher", source="dense", distilled=False),
        replace(whole, name="bilevel, no balance", sampling="natural"),
        replace(whole, name="bilevel, no multipliers", limits=None),
        replace(whole, name="bilevel, no distillation", distilled=False),
        replace(whole, name="bilevel, rolled back", rolled_back=True),
        replace(whole, name="bilevel, multipliers not carried", carried=False),
        replace(whole, name="bilevel, train split watched", watched="train"),
    ]
    return {arm.name: arm for arm in found}


def others(task: Task) -> dict[str, Arm]:
    """Return the other baselines: scores of channels, each trained as the strong control is."""
    strong = arms(task)["strong control"]
    scores = ("l1", "batch-norm-scale", "fpgm", "taylor", "fisher", "fairgrape", "random")
    found = [replace(strong, name=f"{score}, trained alike", method=score) for score in scores]
    found += [
        replace(strong, name="fair then prune", limits=None, distilled=False),
        replace(arms(task)["bilevel"], name="BiP-like", source="dense", limits=None, distilled=False),
    ]
    return {arm.name: arm for arm in found}


@dataclass
class Run:
    """One seed of a task: its rows, and its dense networks once they are trained."""

    task: Task
    data: Data
    seed: int

    def problem(self, arm: Arm) -> Problem:
        """Return what an arm may learn from."""
        data, seed = self.data, self.seed

        def stream(splits: list[Split], sampling: Sampling) -> ArrayStream:
            return ArrayStream(self.task, splits, sampling=sampling, seed=seed)

        return Problem(
            train=stream([data.train], arm.sampling),
            upper=stream([data.prune], arm.sampling),
            prune=stream([data.prune if arm.watched == "prune" else data.train], "once"),
            recover=stream([data.train, data.prune] if arm.equal_data else [data.train], arm.sampling),
            objective=classification(self.spec),
            groups={self.task.attribute: self.task.groups},
            classes=2,
        )

    @property
    def spec(self) -> ModelSpec:
        shape = ("batch", *self.example.shape[1:])
        return ModelSpec(task="binary-classification", inputs={"x": TensorSpec(shape=shape)})

    @property
    def example(self) -> torch.Tensor:
        return self.task.feed(self.data.tune.inputs[:64])

    def dense(self) -> nn.Module:
        """Train the dense network as ordinary people do: on the train split as it comes."""
        torch.manual_seed(self.seed)
        network = self.task.build()
        stream = ArrayStream(self.task, [self.data.train], sampling="natural", seed=self.seed)
        fit(network, stream, classification(self.spec), DENSE_TRAINING, seed=self.seed)
        return network

    def source(self, dense: nn.Module, kind: Source) -> nn.Module:
        """Train the dense network on, with or without constraints."""
        if kind == "dense":
            return dense
        problem = self.problem(Arm("source"))
        schedule = Schedule(TUNED, DENSE_TRAINING.learning_rate, station=kind)
        if kind == "control":
            return recover(dense, problem, schedule, seed=self.seed).module
        return fair_teacher(dense, problem, limits_of(self.task), schedule, seed=self.seed).module

    def pruned(self, arm: Arm, source: nn.Module, budget: Budget) -> tuple[CompactModel, Any]:
        """Choose channels and remove them; and return the multipliers that a method settled on meanwhile."""
        pruner: Pruner = ByScore(arm.method, round_to=1) if arm.method != "bilevel" else self.bilevel(arm)
        (found,) = pruner.prune(source, (self.example,), budgets=[budget], problem=self.problem(arm), seed=self.seed)
        start = found.fair.settled() if found.fair is not None and arm.carried else None
        return compact(source if arm.rolled_back else found.module, (self.example,), found.masks), start

    def bilevel(self, arm: Arm) -> Bilevel:
        """Return the bilevel method as an arm uses it."""
        return Bilevel(SEARCH, limits=arm.limits, distillation=SHARE if arm.distilled else 0.0, round_to=1)

    def tuned(
        self, arm: Arm, network: nn.Module, source: nn.Module, dense: nn.Module, epochs: int, start: Any
    ) -> Trained:
        """Fine-tune what is left."""
        problem = self.problem(arm)
        return recover(
            network,
            problem,
            Schedule(epochs, RATE),
            seed=self.seed,
            fair=None if arm.limits is None else FairTraining(arm.limits, problem, dense, start),
            distillation=Distillation(source, SHARE) if arm.distilled else None,
        )


def timed(what: Any, *arguments: Any) -> tuple[Any, float]:
    """Return what a call gives, and the seconds of this process's one thread that it took."""
    began = time.process_time()
    return what(*arguments), time.process_time() - began
