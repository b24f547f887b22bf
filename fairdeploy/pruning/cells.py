"""Cells: the people of one group who have one label, and the share of them whose outcome is right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from fairdeploy.pruning.problem import Batch, Problem

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
        """Return the cell of each row under each attribute [attributes, n]; -1 where the row's group is not known."""
        sizes = [len(levels) * self.classes for levels in self.groups.values()]
        starts = torch.tensor([sum(sizes[:place]) for place in range(len(sizes))], device=batch.labels.device)
        cells = starts.view(-1, 1) + batch.groups * self.classes + batch.labels
        return torch.where(batch.groups >= 0, cells, -1)


def tally(module: nn.Module, problem: Problem) -> tuple[Cells, Rates]:
    """Count the cells of the prune stream, and the share of each that a network gets right [cells].

    Over all processes where there are several; NaN in a cell without rows.
    """
    size = problem.classes * sum(len(levels) for levels in problem.groups.values())
    cells = Cells(problem.groups, problem.classes, np.zeros(size, np.int64))
    counts = torch.zeros((2, size), dtype=torch.float64)
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    with evaluating(module), torch.no_grad():
        for batch in problem.prune.epoch(0):
            here = batch.to(device)
            right = problem.objective.right(module(*here.inputs), here.targets).cpu()
            for of_row in cells.of(batch):
                known = of_row >= 0
                counts[0].index_add_(0, of_row[known], torch.ones(int(known.sum()), dtype=torch.float64))
                counts[1].index_add_(0, of_row[known], right[known].double())
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(counts)
    total, right_ones = counts.numpy()
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
