"""The search for counts of channels that take the least time for what they compute."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from fairdeploy.compaction.groups import ChannelGroup
from fairdeploy.pruning.budget import Count, Latency
from fairdeploy.pruning.counts import Counts, Scored, rows_of, step_of

MULTIPLES = (1, 4, 8, 16)
# A search by latency stays this close below the budget and the unrounded score: it rounds, it prunes no further.
LEAST_OF_BUDGET = 0.98
LEAST_OF_SCORE = 0.98
_MOST_SWEEPS = 60
# A gain smaller than this is not worth another sweep, nor another measurement.
_LEAST_GAIN = 5e-3
# Latencies this close are one; then the coarser multiple is taken.
_SAME = 0.02
# So much less latency for each multiply-accumulate is worth missing the budget by more.
_WORTH_LESS = 0.05
_MOST_TRIED = 8


class LatencySearch:
    """Looks for the best counts near those that one share gives.

    Parameters
    ----------
    network : Scored
    macs : callable
        Counts multiply-accumulates under masks: latency is judged for each of them.
    starts : list of dict of str to int
        Counts within the budget, from multiples of 1 to coarse ones.
    latency : callable
        Says how long networks take under masks.
    """

    def __init__(self, network: Scored, macs: Count, starts: list[Counts], latency: Latency) -> None:
        self._network, self._count_macs, self._starts, self._latency = network, macs, starts, latency
        self._least_use = LEAST_OF_BUDGET
        self._least_score = LEAST_OF_SCORE * network.kept(starts[0])
        self._steps = {group.name: _steps(group, [start[group.name] for start in starts]) for group in network.groups}

    def finalists(self) -> list[Counts]:
        """Return the best counts, and the starts that are as good a use of the budget.

        Every start is filled up to the budget; the best of them moves on to neighbours while they are better.
        """
        starts = [self._filled(start) for start in self._starts]
        values = self._values(starts)
        close = [place for place, counts in enumerate(starts) if self._fits(counts)]
        if close:
            place = coarsest(values, close)
            counts, value = self._moved(starts[place], values[place])
        place = int(np.argmin(values))
        if not close or values[place] < value * (1 - _WORTH_LESS):
            # Few and narrow layers may have no good counts so close to the budget.
            self._least_use = min(self._least_use, self._network.use(starts[place]))
            self._least_score = min(self._least_score, self._network.kept(starts[place]))
            counts, value = self._moved(starts[place], values[place])
        return [counts, *(start for start in starts if start != counts and self._fits(start))]

    def _moved(self, counts: Counts, value: float) -> tuple[Counts, float]:
        for _ in range(_MOST_SWEEPS):
            several = self._neighbours(counts, value)
            if not several:
                break
            values = self._values(several)
            best = int(np.argmin(values))
            if values[best] > value * (1 - _LEAST_GAIN):
                break
            counts, value = several[best], values[best]
        return counts, value

    def _macs(self, counts: Counts) -> int:
        return self._count_macs(self._network.masks(counts))

    def _values(self, several: Sequence[Counts]) -> list[float]:
        """Return the latency for each multiply-accumulate."""
        latencies_ms = self._latency([self._network.masks(counts) for counts in several])
        return [ms / self._macs(counts) for ms, counts in zip(latencies_ms, several, strict=True)]

    def _fits(self, counts: Counts) -> bool:
        return self._least_use <= self._network.use(counts) <= 1 and self._network.kept(counts) >= self._least_score

    def _filled(self, counts: Counts) -> Counts:
        """Raise groups to counts that are multiples of no less than theirs, while the budget allows."""
        counts = dict(counts)
        for group in sorted(self._network.groups, key=lambda group: -group.size):
            grain = math.gcd(counts[group.name], MULTIPLES[-1])
            for more in self._steps[group.name]:
                if more > counts[group.name] and math.gcd(more, MULTIPLES[-1]) >= grain:
                    raised = {**counts, group.name: more}
                    if self._network.use(raised) > 1:
                        break
                    counts = raised
        return counts

    def _neighbours(self, counts: Counts, value: float) -> list[Counts]:
        """Return the moves that fit and look best: one group alone, or two groups at once."""
        single = [
            (name, {**counts, name: count})
            for name, tried in self._steps.items()
            for count in _around(tried, counts[name])
        ]
        now, used = self._macs(counts), self._network.use(counts)
        more = [self._macs(one) - now for _, one in single]
        uses = [self._network.use(one) - used for _, one in single]
        values = self._values([one for _, one in single])
        longer_ms = [one * (now + extra) - value * now for one, extra in zip(values, more, strict=True)]
        moves = [(value, extra, one) for value, extra, (_, one) in zip(values, uses, single, strict=True)]
        for first, second in combinations(range(len(single)), 2):
            (here, one), (there, other) = single[first], single[second]
            if here != there:
                both_ms = value * now + longer_ms[first] + longer_ms[second]
                both = both_ms / max(1, now + more[first] + more[second])
                moves.append((both, uses[first] + uses[second], {**one, there: other[there]}))
        likely = [move for move in moves if move[0] < value and self._least_use <= used + move[1] <= 1]
        likely.sort(key=lambda move: move[0])
        return [one for _, _, one in likely[:_MOST_TRIED] if self._fits(one)]


def coarsest(values: Sequence[float], places: Sequence[int]) -> int:
    """Return the last of some places whose value is as good as the best."""
    least = min(values[place] for place in places)
    return max(place for place in places if values[place] <= least * (1 + _SAME))


def _steps(group: ChannelGroup, starts: Sequence[int]) -> list[int]:
    """Return the counts to try: those of every multiple, and multiples beside the unrounded count."""
    rows = rows_of(group)
    width = group.size // rows
    unrounded = starts[0] // rows
    steps = [step_of(group, multiple) for multiple in MULTIPLES]
    beside = {step * (unrounded // step + up) for step in steps for up in (0, 1)}
    near = {count for count in beside if abs(count - unrounded) <= max(steps[2], width // 8)}
    return [rows * count for count in sorted(near | {start // rows for start in starts}) if 1 <= count <= width]


def _around(tried: Sequence[int], count: int) -> list[int]:
    """Return the two counts to try on either side of a count."""
    place = tried.index(count)
    return [*tried[max(0, place - 2) : place], *tried[place + 1 : place + 3]]
