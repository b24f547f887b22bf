"""Magnitude pruning over coupled channel groups, to a budget of multiply-accumulates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fairdeploy.compaction import ChannelGroup, groups_and_macs
from fairdeploy.errors import StageError
from fairdeploy.model import ModelSpec
from fairdeploy.pruning.base import StoredSplit

_BISECTIONS = 40
MaskDict = dict[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class Magnitude:
    """Keep the channels of largest L2 norm, the same fraction of every group; sees no data.

    Attributes
    ----------
    round_to : int
        Kept channels of each group come in multiples of this; runtimes waste the rest.
    """

    round_to: int = 8

    @property
    def name(self) -> str:
        """Its name in ``prune.method``."""
        return "magnitude"

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
    ) -> Iterator[MaskDict]:
        """Yield masks for each level; see `Pruner` and `magnitude_masks`."""
        search = _Search(model, example_inputs, self.round_to)
        for level in keep_macs:
            yield search.masks(level)


def magnitude_masks(
    model: nn.Module, example_inputs: tuple[Tensor, ...], *, keep_macs: float, round_to: int = 8
) -> MaskDict:
    """Choose the channels to keep by their L2 norm.

    The largest uniform fraction of every group is kept whose network, after rounding, needs at most
    ``keep_macs`` times the dense multiply-accumulates; found by bisection.

    Parameters
    ----------
    model : Module
    example_inputs : tuple of Tensor
    keep_macs : float
        In (0, 1].
    round_to : int
        Kept channels come in multiples of this, at least one multiple; a smaller group stays whole.

    Returns
    -------
    dict of str to array of bool [size]
        For each prunable group, true where a channel stays.

    Raises
    ------
    StageError
        If the budget is below what rounding allows; says the least that can be reached.
    """
    return _Search(model, example_inputs, round_to).masks(keep_macs)


class _Search:
    """One network's ranked channels, searched for the fraction that fits a budget."""

    def __init__(self, model: nn.Module, example_inputs: tuple[Tensor, ...], round_to: int) -> None:
        if round_to < 1:
            raise StageError(f"prune.round_to must be at least 1, not {round_to}")
        groups, self._macs = groups_and_macs(model, example_inputs)
        self._groups = [group for group in groups if group.prunable]
        self._ranks = _ranks(model, self._groups)
        self._round_to = round_to

    def masks(self, keep_macs: float) -> MaskDict:
        """Return the masks of the largest fraction within the budget."""
        if not 0 < keep_macs <= 1:
            raise StageError(f"prune.keep.macs must be in (0, 1], not {keep_macs}")
        dense = self._macs({})
        budget = keep_macs * dense
        least = self._macs(self._at(0.0))
        if least > budget:
            raise StageError(
                f"prune.keep.macs: {keep_macs:g} cannot be reached with channels in multiples of {self._round_to}; the "
                f"least is {math.ceil(least / dense * 1000) / 1000:g} of the dense multiply-accumulates: raise it, or "
                "lower prune.round_to"
            )
        low, high = 0.0, 1.0
        if self._macs(self._at(high)) <= budget:
            return self._at(high)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if self._macs(self._at(middle)) <= budget else (low, middle)
        return self._at(low)

    def _at(self, fraction: float) -> MaskDict:
        return {
            group.name: self._ranks[group.name] < _kept(group.size, fraction, self._round_to) for group in self._groups
        }


def channel_norms(model: nn.Module, groups: Iterable[ChannelGroup]) -> Mapping[str, NDArray[np.float64]]:
    """Return the L2 norm of each channel [size] over its slices of all members, with mean 1 in each group."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    norms: dict[str, NDArray[np.float64]] = {}
    for group in groups:
        squares = np.zeros(group.size)
        for member in group.members:
            values = parameters[member.parameter].detach().double().movedim(member.dim, 0)
            by_index = values.reshape(values.shape[0], -1).square().sum(1).numpy()
            np.add.at(squares, list(member.channels), by_index[list(member.indices)])
        norm = np.sqrt(squares)
        norms[group.name] = norm / norm.mean() if norm.any() else norm
    return norms


def _ranks(model: nn.Module, groups: Sequence[ChannelGroup]) -> dict[str, NDArray[np.int64]]:
    """Return each channel's place [size] in its group, the largest norm first; ties go by position."""
    with torch.no_grad():
        norms = channel_norms(model, groups)
    return {name: np.argsort(np.argsort(-norm, kind="stable")) for name, norm in norms.items()}


def _kept(size: int, fraction: float, round_to: int) -> int:
    """Return how many of `size` channels a fraction keeps: the nearest multiple, at least one."""
    multiples = max(1, math.floor(fraction * size / round_to + 0.5))
    return min(size, multiples * round_to)
