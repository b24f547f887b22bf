"""Cells: the people of one group who have one label, and the share of them whose outcome is right.

Groups are the levels of an attribute; `Grouping` makes them of several attributes together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fairdeploy.errors import DataError
from fairdeploy.pruning import processes
from fairdeploy.pruning.problem import Batch, Problem, Stream

Rates = NDArray[np.float64]


@dataclass(frozen=True)
class Cells:
    """Groups of people by label, in one split.

    Attributes
    ----------
    groups : mapping of str to tuple of str
        The levels of each attribute.
    classes : int
    counts : array of int [cells]
        Cells of one attribute stand together, then those of one level; labels innermost.
    """

    groups: Mapping[str, tuple[str, ...]]
    classes: int
    counts: NDArray[np.int64]

    @property
    def names(self) -> tuple[tuple[str, str, int], ...]:
        """Attribute, group, and label of each cell."""
        return tuple(
            (attribute, level, label)
            for attribute, levels in self.groups.items()
            for level in levels
            for label in range(self.classes)
        )

    def of(self, batch: Batch) -> Tensor:
        """Return the cell of each row under each attribute [attributes, n]; -1 where the row's group is not known.

        Raises
        ------
        DataError
            If a label is none of the classes.
        """
        lowest, highest = (int(end) for end in batch.labels.aminmax())
        if lowest < 0 or highest >= self.classes:
            raise DataError(
                f"prune: labels of a batch lie in [{lowest}, {highest}], classes are 0 to {self.classes - 1}; mend the "
                "labels, or say how many classes there are"
            )
        sizes = [len(levels) * self.classes for levels in self.groups.values()]
        starts = torch.tensor([sum(sizes[:place]) for place in range(len(sizes))], device=batch.labels.device)
        cells = starts.view(-1, 1) + batch.groups * self.classes + batch.labels
        return torch.where(batch.groups >= 0, cells, -1)


@dataclass(frozen=True)
class Grouping:
    """Groups made of the levels of attributes: of some of them, and of all of these together.

    Attributes
    ----------
    groups : mapping of str to tuple of str
        The levels by the attribute, or by the attributes that stand together.
    parts : tuple of tuple of (int, int)
        What makes each of them: rows of `Batch.groups`, and how many levels each has, the last innermost.
    """

    groups: Mapping[str, tuple[str, ...]]
    parts: tuple[tuple[tuple[int, int], ...], ...]

    @classmethod
    def over(cls, declared: Mapping[str, tuple[str, ...]], attributes: Sequence[str], *, together: bool) -> Grouping:
        """Return the groups of some declared attributes, each alone, and all together where that is asked for."""
        order = list(declared)
        alone = [((order.index(name), len(declared[name])),) for name in attributes]
        groups = {name: declared[name] for name in attributes}
        parts: tuple[tuple[tuple[int, int], ...], ...] = tuple(alone)
        if together:
            levels = product(*(declared[name] for name in attributes))
            groups[" and ".join(attributes)] = tuple(" and ".join(one) for one in levels)
            parts = (*parts, tuple(part for (part,) in alone))
        return cls(groups, parts)

    def batch(self, batch: Batch) -> Batch:
        """Return a batch with these groups; where one attribute of several is not known, neither is the group."""
        found = []
        for parts in self.parts:
            columns = batch.groups[[row for row, _ in parts]]
            level = columns[0]
            for column, (_, levels) in zip(columns[1:], parts[1:], strict=True):
                level = level * levels + column
            found.append(torch.where((columns >= 0).all(0), level, -1))
        return replace(batch, groups=torch.stack(found))

    def problem(self, problem: Problem) -> Problem:
        """Return a problem whose prune stream has these groups."""
        return replace(problem, prune=_Grouped(problem.prune, self), groups=self.groups)


@dataclass(frozen=True)
class _Grouped:
    """A stream whose batches have other groups."""

    stream: Stream
    grouping: Grouping

    @property
    def steps(self) -> int:
        return self.stream.steps

    def epoch(self, number: int) -> Iterator[Batch]:
        return map(self.grouping.batch, self.stream.epoch(number))


def tally(module: nn.Module, problem: Problem) -> tuple[Cells, Rates]:
    """Count the cells of the prune stream, and the share of each that a network gets right [cells].

    Over all processes where there are several; NaN in a cell without rows.

    Raises
    ------
    DataError
        If every row has the same label of several, whether its group is known or not: there is nothing to tell apart.
    """
    size = problem.classes * sum(len(levels) for levels in problem.groups.values())
    cells = Cells(problem.groups, problem.classes, np.zeros(size, np.int64))
    counts, labels = torch.zeros((2, size), dtype=torch.float64), torch.zeros(problem.classes, dtype=torch.float64)
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    with evaluating(module), torch.no_grad():
        for batch in problem.prune.epoch(0):
            here = batch.to(device)
            right = problem.objective.right(module(*here.inputs), here.targets).cpu()
            for of_row in cells.of(batch):
                known = of_row >= 0
                counts[0].index_add_(0, of_row[known], torch.ones(int(known.sum()), dtype=torch.float64))
                counts[1].index_add_(0, of_row[known], right[known].double())
            labels += torch.bincount(batch.labels.cpu(), minlength=problem.classes)
    labels = processes.summed(labels)
    if problem.classes > 1 and int((labels > 0).sum()) == 1:
        raise DataError(
            f"every row of the prune split has the label {int(labels.argmax())}: there is nothing to tell apart; give "
            "rows of every class"
        )
    total, right_ones = processes.summed(counts).numpy()
    with np.errstate(invalid="ignore"):
        return Cells(problem.groups, problem.classes, total.astype(np.int64)), right_ones / total


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, part by part, and back."""
    modes = {part: part.training for part in module.modules()}
    for part in modes:
        part.training = False
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
