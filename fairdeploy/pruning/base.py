"""What a pruning method is, and the rows that it may learn from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from fairdeploy.data import Rows
from fairdeploy.model import ModelSpec


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


class Pruner(Protocol):
    """A method that chooses the channels to keep."""

    @property
    def name(self) -> str:
        """Its name in ``prune.method``."""
        ...

    def masks(
        self,
        model: nn.Module,
        example_inputs: tuple[Tensor, ...],
        *,
        keep_macs: Sequence[float],
        train: StoredSplit,
        prune: StoredSplit,
        spec: ModelSpec,
        seed: int,
    ) -> Iterator[dict[str, NDArray[np.bool_]]]:
        """Yield masks over `fairdeploy.compaction.channel_groups` for each level, in the order given.

        Parameters
        ----------
        model : Module
            The dense network; left as it is.
        example_inputs : tuple of Tensor
        keep_macs : sequence of float
            Fractions of the dense multiply-accumulates that may be kept at most.
        train, prune : StoredSplit
            For weights and for masks; the other splits are not a pruner's to see.
        spec : ModelSpec
            How raw inputs become what the network is fed.
        seed : int

        Raises
        ------
        StageError
            If a level cannot be reached.
        """
        ...
