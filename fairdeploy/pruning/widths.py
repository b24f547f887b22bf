"""Widths: how many channels of each group stay, as numbers that gradients can move along a budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairdeploy.compaction import ChannelGroup
from fairdeploy.pruning.counts import Scores, masks_of, rows_of

_BISECTIONS = 20
_MOST = 2.0  # logarithm of how much wider than the others a group may become


class Widths:
    """The share of its channels that each group keeps: a common scale times the group's own factor.

    The channels of a group go in the order of their scores. A gate is 1 for those that stay, 0 for those that go, and
    falls linearly between over some channels: so the loss has a derivative by the widths.

    Parameters
    ----------
    groups : sequence of ChannelGroup
    scores : mapping of str to array [size]

    Attributes
    ----------
    factors : array [groups]
        Logarithms of the groups' own factors, 0 at first.
    """

    def __init__(self, groups: Sequence[ChannelGroup], scores: Scores) -> None:
        self._groups, self._scores = groups, scores
        self.factors = np.zeros(len(groups))
        self._ranks = {group.name: _ranks(group, scores[group.name]) for group in groups}

    def counts(self, scale: float) -> dict[str, float]:
        """Return how many channels of each group stay, not rounded."""
        shares = np.minimum(1.0, scale * np.exp(self.factors))
        return {group.name: max(1.0, share * group.size) for group, share in zip(self._groups, shares, strict=True)}

    def gates(self, counts: Tensor, temperature: float) -> dict[str, Tensor]:
        """Return the gates of each group [size] for counts [groups]; differentiable.

        A channel of rank r has the gate min(1, max(0, (count - r) / width + 1 / 2)), the width being the temperature
        times the group's size and at least one channel.
        """
        found = {}
        for group, count in zip(self._groups, counts, strict=True):
            width = max(1.0, temperature * group.size)
            found[group.name] = ((count - self._ranks[group.name]) / width + 0.5).clamp(0.0, 1.0)
        return found

    def scale_of(self, use: Callable[[Mapping[str, NDArray[np.bool_]]], float], share: float = 1.0) -> float:
        """Return the largest scale whose rounded counts use no more than a share of a budget."""
        low, high = 0.0, float(np.exp(-self.factors.min()))
        if self.use_at(high, use) <= share:
            return high
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.use_at(middle, use) <= share else (low, middle)
        return low

    def use_at(self, scale: float, use: Callable[[Mapping[str, NDArray[np.bool_]]], float]) -> float:
        """Return how much of a budget the rounded counts use."""
        return use(masks_of(self._groups, self._scores, self._rounded(scale)))

    def slopes(self, scale: float, use: Callable[[Mapping[str, NDArray[np.bool_]]], float]) -> NDArray[np.float64]:
        """Return by how much the use of a budget rises for each unit of a factor [groups]: central differences."""
        counts, slopes = self._rounded(scale), []
        for group in self._groups:
            rows = rows_of(group)
            up, down = min(group.size, counts[group.name] + rows), max(rows, counts[group.name] - rows)
            uses = [use(masks_of(self._groups, self._scores, {**counts, group.name: one})) for one in (up, down)]
            slopes.append((uses[0] - uses[1]) / max(1, up - down) * counts[group.name])
        return np.array(slopes)

    def _rounded(self, scale: float) -> dict[str, int]:
        return {name: max(1, round(count)) for name, count in self.counts(scale).items()}

    def move(self, step: NDArray[np.float64]) -> None:
        """Add a step [groups] to the factors."""
        moved = np.clip(self.factors + step, -_MOST, _MOST)
        self.factors = moved - moved.mean()


def _ranks(group: ChannelGroup, scores: NDArray[np.float64]) -> Tensor:
    """Return the place of each channel [size] in the order in which channels stay (`masks_of`): 0.5 for the first.

    Of joint channels the first of every row come first, then the second of every row.
    """
    rows = rows_of(group)
    worth = scores.reshape(rows, -1)
    if group.same_columns:
        worth = np.broadcast_to(worth.sum(axis=0), worth.shape)
    places = np.argsort(np.argsort(-worth, axis=1, kind="stable"), axis=1)
    ranks = places * rows + np.arange(rows).reshape(-1, 1) + 0.5
    return torch.from_numpy(ranks.ravel()).float()
