"""Magnitude pruning over coupled channel groups, to a budget of multiply-accumulates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fairdeploy.compaction import ChannelGroup
from fairdeploy.model import ModelSpec
from fairdeploy.project import Budget
from fairdeploy.pruning.base import StoredSplit
from fairdeploy.pruning.budget import BudgetUse, Latency, groups_and_costs
from fairdeploy.pruning.counts import masks_of
from fairdeploy.pruning.rounding import round_counts

MaskDict = dict[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class Magnitude:
    """Keep the channels of largest L2 norm, the same fraction of every group; sees no data.

    Attributes
    ----------
    round_to : int or callable
        Kept channels of each group come in multiples of this, since runtimes waste the rest; or what says how long
        the network takes under masks, towards which counts are rounded (`round_counts`).
    last_word : callable, optional
        Measures whole networks under masks; of rounding by latency.
    """

    round_to: int | Latency = 8
    last_word: Latency | None = None

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
        search = _Search(model, example_inputs, self.round_to, self.last_word)
        for level in keep_macs:
            yield search.masks(level)


def magnitude_masks(
    model: nn.Module, example_inputs: tuple[Tensor, ...], *, keep_macs: float, round_to: int | Latency = 8
) -> MaskDict:
    """Choose the channels to keep by their L2 norm.

    The same share of every group is kept, rounded so that the network needs at most ``keep_macs`` times the dense
    multiply-accumulates (`round_counts`).

    Parameters
    ----------
    model : Module
    example_inputs : tuple of Tensor
    keep_macs : float
        In (0, 1].
    round_to : int or callable
        A multiple (at least one of it stays, and a smaller group stays whole), or the latency under masks.

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
    """One network's scored channels, searched for the counts that fit a budget."""

    def __init__(
        self,
        model: nn.Module,
        example_inputs: tuple[Tensor, ...],
        round_to: int | Latency,
        last_word: Latency | None = None,
    ) -> None:
        self._groups, self._costs = groups_and_costs(model, example_inputs)
        with torch.no_grad():
            self._norms = channel_norms(model, self._groups)
        self._options: Any = {"round_to": round_to, "last_word": last_word}

    def masks(self, keep_macs: float) -> MaskDict:
        """Return the masks for a budget."""
        use = BudgetUse(Budget(macs=keep_macs), self._costs)
        counts = round_counts(self._groups, self._norms, use, **self._options)
        return masks_of(self._groups, self._norms, counts)


def channel_norms(model: nn.Module, groups: Iterable[ChannelGroup]) -> Mapping[str, NDArray[np.float64]]:
    """Return the L2 norm of each channel [size] over its slices of all members, with mean 1 in each group."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    norms: dict[str, NDArray[np.float64]] = {}
    for group in groups:
        squares = np.zeros(group.size)
        for member in group.members:
            values = member.slices(parameters[member.parameter].detach().double())
            slices = math.prod(values.shape[: 2 if member.groups > 1 else 1])
            by_index = values.reshape(slices, -1).square().sum(1).numpy()
            np.add.at(squares, list(member.channels), by_index[list(member.indices)])
        norm = np.sqrt(squares)
        norms[group.name] = norm / norm.mean() if norm.any() else norm
    return norms
