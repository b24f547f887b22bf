"""What networks get right on the prune split, group by group, and which of several are worth keeping."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from fairdeploy.bundle import CompactionRecord, LogEntry
from fairdeploy.project import Budget, Constraints
from fairdeploy.pruning.cells import tally
from fairdeploy.pruning.fair import FairTraining
from fairdeploy.pruning.problem import Batch, Problem, Stream
from fairdeploy.records import Record

EVERYONE = ""  # an attribute that everybody has, also those whose group is not known


class CellRate(Record):
    """The share of a group's rows of one label that a network gets right; None where there are none."""

    attribute: str
    group: str
    label: int
    rows: int
    rate: float | None


class GroupAccuracy(Record):
    """The share of a group's rows that a network gets right."""

    attribute: str
    group: str
    rows: int
    accuracy: float


class Measured(Record):
    """A network on the prune split.

    Attributes
    ----------
    accuracy : float
        Of all rows, also of those whose group is not known.
    groups : tuple of GroupAccuracy
        Those that have rows.
    cells : tuple of CellRate
    missed : tuple of str
        The limits that it misses, and by how much.
    """

    accuracy: float
    groups: tuple[GroupAccuracy, ...]
    cells: tuple[CellRate, ...]
    missed: tuple[str, ...]

    @property
    def worst_group(self) -> GroupAccuracy | None:
        """The group of lowest accuracy; None where no row says its group."""
        return min(self.groups, key=lambda one: one.accuracy, default=None)


@dataclass(frozen=True)
class Option:
    """One of several networks to choose from.

    `costs` are what budgets limit: multiply-accumulates, parameters, bytes, and the latency that was allowed.
    """

    name: str
    costs: tuple[float, ...]
    measured: Measured


def costs_of(compacted: CompactionRecord, level: Budget) -> tuple[float, ...]:
    """Return what a network costs, for `Option`."""
    latency = 1.0 if level.latency is None else level.latency
    return compacted.macs_after, compacted.parameters_after, compacted.bytes_after, latency


def measure(
    module: nn.Module, problem: Problem, limits: Constraints | None = None, reference: nn.Module | None = None
) -> Measured:
    """Count what a network gets right on the prune split, and which limits it misses.

    Parameters
    ----------
    module : Module
    problem : Problem
    limits : Constraints, optional
    reference : Module, optional
        The dense network, which drops are counted from; `module` where it is left out.

    Raises
    ------
    DataError
        If every row has the same label: there is nothing to tell apart.
    StageError
        If a group has no rows, or none of a label that a limit needs.
    """
    everyone = {EVERYONE: ("everyone",), **problem.groups}
    everybody = replace(problem, prune=_WithEveryone(problem.prune), groups=everyone)
    cells, rates = tally(module, everybody)
    classes = cells.classes
    right = (cells.counts * np.nan_to_num(rates)).reshape(-1, classes).sum(1)
    rows = cells.counts.reshape(-1, classes).sum(1)
    names = [(attribute, group) for attribute, groups in everyone.items() for group in groups]
    groups = [
        GroupAccuracy(attribute=attribute, group=group, rows=int(count), accuracy=float(good / count))
        for (attribute, group), count, good in zip(names, rows, right, strict=True)
        if count
    ]
    each = [
        CellRate(attribute=attribute, group=group, label=label, rows=int(count), rate=float(rate) if count else None)
        for (attribute, group, label), count, rate in zip(cells.names, cells.counts, rates, strict=True)
    ]
    said: tuple[str, ...] = ()
    if limits is not None:
        fair = FairTraining(limits, problem, module if reference is None else reference)
        fair.look(module, 0)
        said = tuple(
            f"{one.name} <= {one.limit:g} is missed: {one.quantity} is {one.worst(fair.rates):.3f} on the prune split"
            for one in fair.violated()
        )
    return Measured(accuracy=groups[0].accuracy, groups=tuple(groups[1:]), cells=tuple(each[classes:]), missed=said)


def decide(options: Sequence[Option]) -> Iterator[LogEntry]:
    """Say of each network whether it is kept, and why.

    One that misses a limit is dropped, and one for which another that misses none costs no more and is as accurate for
    everybody and for the worst group, and better in one of these.
    """
    for one in options:
        better = next((other for other in options if not other.measured.missed and _dominates(other, one)), None)
        if one.measured.missed:
            decision, reason = "dropped", "; ".join(one.measured.missed)
        elif better is not None:
            decision, reason = "dropped", f"{better.name} costs no more and is at least as accurate"
        else:
            decision, reason = "kept", "no limit is missed, and no other costs less and is as accurate"
        yield LogEntry(station=f"front[{one.name}]", decision=decision, reason=reason)


def _dominates(one: Option, other: Option) -> bool:
    mine, theirs = _merits(one), _merits(other)
    return mine != theirs and all(a >= b for a, b in zip(mine, theirs, strict=True))


def _merits(one: Option) -> tuple[float, ...]:
    worst, accuracy = one.measured.worst_group, one.measured.accuracy
    return *(-cost for cost in one.costs), accuracy, accuracy if worst is None else worst.accuracy


class _WithEveryone:
    """A stream whose rows all have one more attribute, first."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    @property
    def steps(self) -> int:
        """How many batches an epoch has."""
        return self._stream.steps

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the batches of an epoch."""
        for batch in self._stream.epoch(number):
            groups = torch.cat([torch.zeros_like(batch.labels).view(1, -1), batch.groups])
            yield Batch(batch.inputs, batch.labels, groups, batch.targets)
