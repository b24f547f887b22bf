"""Counts of channels and the masks that they mean: the channels of highest score stay."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairdeploy.compaction.groups import ChannelGroup, Masks

Scores = Mapping[str, NDArray[np.float64]]
Counts = dict[str, int]


def masks_of(groups: Iterable[ChannelGroup], scores: Scores, counts: Mapping[str, int]) -> dict[str, NDArray[np.bool_]]:
    """Return masks that keep the channels of highest score, the first among equals.

    Joint channels (heads of some width) keep equally many of each row.
    """
    masks = {}
    for group in groups:
        if group.name in counts:
            rows = rows_of(group)
            worth = scores[group.name].reshape(rows, -1)
            if group.same_columns:
                worth = np.broadcast_to(worth.sum(axis=0), worth.shape)
            order = np.argsort(-worth, axis=1, kind="stable")
            masks[group.name] = (np.argsort(order, axis=1) < counts[group.name] // rows).ravel()
    return masks


@dataclass(frozen=True)
class Scored:
    """Prunable groups with their scores, and how much of a budget any counts use."""

    groups: tuple[ChannelGroup, ...]
    scores: Scores
    use_of_masks: Callable[[Masks], float]

    def masks(self, counts: Mapping[str, int]) -> dict[str, NDArray[np.bool_]]:
        """Return the masks that counts mean."""
        return masks_of(self.groups, self.scores, counts)

    def use(self, counts: Mapping[str, int]) -> float:
        """Return how much of the budget they use."""
        return self.use_of_masks(self.masks(counts))

    def kept(self, counts: Mapping[str, int]) -> float:
        """Return the sum of the scores that are kept."""
        return sum(float(self.scores[name][mask].sum()) for name, mask in self.masks(counts).items())


def rows_of(group: ChannelGroup) -> int:
    """Return how many rows of joint channels a group has."""
    return math.prod(group.shape[:-1])


def step_of(group: ChannelGroup, multiple: int) -> int:
    """Return the channels that make a multiple: a head of 64 is one channel with 64 indices everywhere."""
    each = min((len(member.indices) // group.size for member in group.members), default=1)
    return math.ceil(multiple / max(1, each))


def steps_of(group: ChannelGroup, multiple: int) -> tuple[int, ...]:
    """Return the counts that are multiples, in ascending order, and all channels as the last."""
    rows, step = rows_of(group), step_of(group, multiple)
    return (*range(rows * step, group.size, rows * step), group.size)
