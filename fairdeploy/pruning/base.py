"""What a pruning method is, and a split whose rows lie in arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from fairdeploy.data import Rows
from fairdeploy.project import Budget
from fairdeploy.pruning.fair import FairTraining
from fairdeploy.pruning.problem import Problem


class StoredSplit(Protocol):
    """A split whose inputs lie in arrays, usually memory-mapped, so that rows can be drawn in any order."""

    @property
    def inputs(self) -> Mapping[str, NDArray[np.generic]]:
        """Raw inputs by name, uint8 or float32 [n, ...], before `ModelSpec.preprocess`."""
        ...

    @property
    def rows(self) -> Rows:
        """Labels and attributes in the same order."""
        ...


@dataclass(frozen=True)
class Pruned:
    """What a method found for one budget.

    Attributes
    ----------
    masks : dict of str to array of bool [size]
        Over `fairdeploy.compaction.channel_groups`; true keeps a channel.
    module : Module
        The network that they belong to: the one given, or a copy whose weights were trained with the masks.
    fair : FairTraining, optional
        How constraints went meanwhile.
    """

    masks: dict[str, NDArray[np.bool_]]
    module: nn.Module
    fair: FairTraining | None = None


class Pruner(Protocol):
    """A method that chooses the channels to keep."""

    @property
    def name(self) -> str:
        """Its name in ``prune.method``."""
        ...

    def prune(
        self,
        model: nn.Module,
        example_inputs: tuple[Tensor, ...],
        *,
        budgets: Sequence[Budget],
        problem: Problem,
        seed: int,
    ) -> Iterator[Pruned]:
        """Yield what is found for each budget, in the order given.

        Parameters
        ----------
        model : Module
            The dense network; left as it is.
        example_inputs : tuple of Tensor
        budgets : sequence of Budget
        problem : Problem
            What the method may learn from.
        seed : int

        Raises
        ------
        StageError
            If no group can be pruned, or a budget cannot be reached.
        """
        ...
