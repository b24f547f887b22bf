"""What a pruning method may learn from: rows in batches, what is lost on them, and who the people are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Batch:
    """Some rows.

    Attributes
    ----------
    inputs : tuple of Tensor [n, ...]
        One for each argument of the network's ``forward``.
    labels : Tensor of int64 [n]
        What rates are counted by: classes; zeros where rows have no class (detection).
    groups : Tensor of int64 [attributes, n]
        The level of each row under each attribute, as an index; -1 where it is not known.
    targets : Any
        What the loss is given: the labels of a classification, boxes of a detection.
    """

    inputs: tuple[Tensor, ...]
    labels: Tensor
    groups: Tensor
    targets: Any

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Batch:
        """Return it on a device; nested lists, tuples and dicts of targets too."""
        moved = pytree.tree_map(lambda part: part.to(device) if isinstance(part, Tensor) else part, self.targets)
        inputs = tuple(part.to(device) for part in self.inputs)
        return Batch(inputs, self.labels.to(device), self.groups.to(device), moved)


class Stream(Protocol):
    """Rows in batches, epoch by epoch."""

    @property
    def steps(self) -> int:
        """How many batches an epoch has."""
        ...

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the batches of an epoch; the same ones for the same number."""
        ...


@dataclass(frozen=True)
class Objective:
    """What a network's outputs are held against; each callable returns one value for each row.

    Attributes
    ----------
    loss : callable
        ``loss(outputs, targets) -> Tensor [n]``.
    right : callable
        ``right(outputs, targets) -> Tensor of bool [n]``: whether the row's outcome is as it should be.
    distance : callable
        ``distance(outputs, teacher_outputs) -> Tensor [n]``: how far the network is from its teacher.
    """

    loss: Callable[[Any, Any], Tensor]
    right: Callable[[Any, Any], Tensor]
    distance: Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class Problem:
    """What a method may learn from.

    Attributes
    ----------
    train : Stream
        For the lower level: the weights.
    upper : Stream
        Rows of the prune split for the upper level's gradients.
    prune : Stream
        The prune split, each row once in an epoch: for the upper level's multipliers.
    recover : Stream
        For the weights of the pruned network.
    objective : Objective
    groups : mapping of str to tuple of str
        The levels of each attribute, in the order of the rows of `Batch.groups`.
    classes : int
        Labels lie in [0, classes).
    """

    train: Stream
    upper: Stream
    prune: Stream
    recover: Stream
    objective: Objective
    groups: Mapping[str, tuple[str, ...]]
    classes: int
