"""How many channels of each group to keep at a budget: one fraction for all, then rounded to what runs fast.

Rounding happens on group labels, before masks are final: a channel given back to a network that was masked already
would be zeros that cost time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from fairdeploy.compaction.groups import ChannelGroup, Masks
from fairdeploy.errors import StageError

Scores = Mapping[str, NDArray[np.float64]]
Counts = dict[str, int]
Macs = Callable[[Masks], int]
Latency = Callable[[Sequence[Masks]], Sequence[float]]

MULTIPLES = (1, 4, 8, 16)
# A search by latency stays this close below the budget and the unrounded score: it rounds, it prunes no further.
LEAST_OF_BUDGET = 0.98
LEAST_OF_SCORE = 0.98
_BISECTIONS = 40
_MOST_SWEEPS = 60
# A gain smaller than this is not worth another sweep, nor another measurement.
_LEAST_GAIN = 5e-3
# Latencies this close are one; then the coarser multiple is taken.
_SAME = 0.02
# So much less latency for each multiply-accumulate is worth missing the budget by more.
_WORTH_LESS = 0.05
_MOST_TRIED = 8


def round_counts(
    groups: Iterable[ChannelGroup],
    scores: Scores,
    keep_macs: float,
    macs: Macs,
    *,
    round_to: int | Latency = 8,
    last_word: Latency | None = None,
) -> Counts:
    """Choose how many channels of each prunable group to keep.

    With a multiple, the largest fraction of every group is kept whose rounded network fits the budget. With a
    latency, counts start from the best of several multiples and move to neighbouring ones while that is better: less
    latency for each multiply-accumulate, within 2 % of the budget and of the score that unrounded counts would keep
    unless a multiple that misses them is better by more than 5 %. What the search found and the multiples that it
    started from are then judged by `last_word`.

    Parameters
    ----------
    groups : iterable of ChannelGroup
        Those that cannot be pruned are left out.
    scores : mapping of str to array [size]
        How much each channel is worth; the same scale in every group.
    keep_macs : float
        In (0, 1]: the budget as a fraction of the dense multiply-accumulates.
    macs : callable
        Counts a network's multiply-accumulates under masks (`groups_and_macs`).
    round_to : int or callable
        A multiple of indices (whole heads come one by one), or what says how long networks take under masks
        (`NetworkLatency`).
    last_word : callable, optional
        Like such a latency, of networks measured as a whole: what is added up from layers may be wrong of the whole.

    Raises
    ------
    StageError
        If the budget is below what rounding allows (says the least that can be reached), or an argument is outside
        its range.
    """
    network = _Network(tuple(group for group in groups if group.prunable), scores, macs)
    if not 0 < keep_macs <= 1:
        raise StageError(f"prune.keep.macs must be in (0, 1], not {keep_macs}")
    budget = keep_macs * macs({})
    if not callable(round_to):
        if round_to < 1:
            raise StageError(f"prune.round_to must be at least 1, not {round_to}")
        return _by_multiple(network, keep_macs, round_to)
    finalists = _Search(network, budget, list(_starts(network, keep_macs)), round_to).finalists()
    if last_word is None or len(finalists) == 1:
        return finalists[0]
    latencies_ms = last_word([network.masks(counts) for counts in finalists])
    values = [ms / network.macs(counts) for ms, counts in zip(latencies_ms, finalists, strict=True)]
    return finalists[_coarsest(values, range(len(values)))]


def masks_of(groups: Iterable[ChannelGroup], scores: Scores, counts: Mapping[str, int]) -> dict[str, NDArray[np.bool_]]:
    """Return masks that keep the channels of highest score, the first among equals.

    Joint channels (heads of some width) keep equally many of each row.
    """
    masks = {}
    for group in groups:
        if group.name in counts:
            rows = _rows(group)
            worth = scores[group.name].reshape(rows, -1)
            if group.same_columns:
                worth = np.broadcast_to(worth.sum(axis=0), worth.shape)
            order = np.argsort(-worth, axis=1, kind="stable")
            masks[group.name] = (np.argsort(order, axis=1) < counts[group.name] // rows).ravel()
    return masks


@dataclass(frozen=True)
class _Network:
    """Prunable groups with their scores, and the cost of any counts."""

    groups: tuple[ChannelGroup, ...]
    scores: Scores
    count_macs: Macs

    def masks(self, counts: Mapping[str, int]) -> dict[str, NDArray[np.bool_]]:
        return masks_of(self.groups, self.scores, counts)

    def macs(self, counts: Mapping[str, int]) -> int:
        return self.count_macs(self.masks(counts))

    def score(self, counts: Mapping[str, int]) -> float:
        """Return the share of all scores that is kept."""
        total = sum(float(self.scores[group.name].sum()) for group in self.groups)
        masks = self.masks(counts)
        return sum(float(self.scores[name][mask].sum()) for name, mask in masks.items()) / total if total else 1.0

    def at(self, fraction: float, multiple: int) -> Counts:
        """Return the counts that a fraction keeps: the nearest multiples, at least one."""
        return {group.name: _nearest(group, fraction, multiple) for group in self.groups}


def _rows(group: ChannelGroup) -> int:
    return math.prod(group.shape[:-1])


def _step(group: ChannelGroup, multiple: int) -> int:
    """Return the channels that make a multiple: a head of 64 is one channel with 64 indices everywhere."""
    each = min((len(member.indices) // group.size for member in group.members), default=1)
    return math.ceil(multiple / max(1, each))


def _nearest(group: ChannelGroup, fraction: float, multiple: int) -> int:
    rows, step = _rows(group), _step(group, multiple)
    width = group.size // rows
    multiples = max(1, math.floor(fraction * width / step + 0.5))
    return rows * min(width, multiples * step)


def _by_multiple(network: _Network, keep_macs: float, multiple: int) -> Counts:
    """Return the counts of the largest fraction within the budget, by bisection."""
    dense = network.count_macs({})
    budget = keep_macs * dense
    least = network.macs(network.at(0.0, multiple))
    if least > budget:
        raise StageError(
            f"prune.keep.macs: {keep_macs:g} cannot be reached with channels in multiples of {multiple}; the "
            f"least is {math.ceil(least / dense * 1000) / 1000:g} of the dense multiply-accumulates: raise it, or "
            "lower prune.round_to"
        )
    low, high = 0.0, 1.0
    if network.macs(network.at(high, multiple)) <= budget:
        return network.at(high, multiple)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if network.macs(network.at(middle, multiple)) <= budget else (low, middle)
    return network.at(low, multiple)


def _starts(network: _Network, keep_macs: float) -> Iterator[Counts]:
    """Yield the counts of every multiple that reaches the budget; the finest tells when none does."""
    for multiple in MULTIPLES:
        try:
            yield _by_multiple(network, keep_macs, multiple)
        except StageError:
            if multiple == 1:
                raise


class _Search:
    """Looks for the best counts near those that one fraction gives; `starts` go from multiples of 1 to coarse."""

    def __init__(self, network: _Network, budget: float, starts: list[Counts], latency: Latency) -> None:
        self._network, self._starts, self._latency = network, starts, latency
        self._budget, self._least_macs = budget, LEAST_OF_BUDGET * budget
        self._least_score = LEAST_OF_SCORE * network.score(starts[0])
        self._steps = {group.name: _steps(group, [start[group.name] for start in starts]) for group in network.groups}

    def finalists(self) -> list[Counts]:
        """Return the best counts, and the starts that are as good a use of the budget.

        Every start is filled up to the budget; the best of them moves on to neighbours while they are better.
        """
        starts = [self._filled(start) for start in self._starts]
        values = self._values(starts)
        close = [place for place, counts in enumerate(starts) if self._fits(counts)]
        if close:
            place = _coarsest(values, close)
            counts, value = self._moved(starts[place], values[place])
        place = int(np.argmin(values))
        if not close or values[place] < value * (1 - _WORTH_LESS):
            # Few and narrow layers may have no good counts so close to the budget.
            self._least_macs = min(self._least_macs, self._network.macs(starts[place]))
            self._least_score = min(self._least_score, self._network.score(starts[place]))
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

    def _values(self, several: Sequence[Counts]) -> list[float]:
        """Return the latency for each multiply-accumulate."""
        latencies_ms = self._latency([self._network.masks(counts) for counts in several])
        return [ms / self._network.macs(counts) for ms, counts in zip(latencies_ms, several, strict=True)]

    def _fits(self, counts: Counts) -> bool:
        macs = self._network.macs(counts)
        return self._least_macs <= macs <= self._budget and self._network.score(counts) >= self._least_score

    def _filled(self, counts: Counts) -> Counts:
        """Raise groups to counts that are multiples of no less than theirs, while the budget allows."""
        counts = dict(counts)
        for group in sorted(self._network.groups, key=lambda group: -group.size):
            grain = math.gcd(counts[group.name], MULTIPLES[-1])
            for more in self._steps[group.name]:
                if more > counts[group.name] and math.gcd(more, MULTIPLES[-1]) >= grain:
                    raised = {**counts, group.name: more}
                    if self._network.macs(raised) > self._budget:
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
        now = self._network.macs(counts)
        more = [self._network.macs(one) - now for _, one in single]
        values = self._values([one for _, one in single])
        longer_ms = [one * (now + extra) - value * now for one, extra in zip(values, more, strict=True)]
        moves = [(value, extra, one) for value, extra, (_, one) in zip(values, more, single, strict=True)]
        for first, second in combinations(range(len(single)), 2):
            (here, one), (there, other) = single[first], single[second]
            if here != there:
                extra = more[first] + more[second]
                both_ms = value * now + longer_ms[first] + longer_ms[second]
                moves.append((both_ms / max(1, now + extra), extra, {**one, there: other[there]}))
        low, high = self._least_macs - now, self._budget - now
        likely = [move for move in moves if move[0] < value and low <= move[1] <= high]
        likely.sort(key=lambda move: move[0])
        return [one for _, _, one in likely[:_MOST_TRIED] if self._fits(one)]


def _coarsest(values: Sequence[float], places: Sequence[int]) -> int:
    """Return the last of some places whose value is as good as the best."""
    least = min(values[place] for place in places)
    return max(place for place in places if values[place] <= least * (1 + _SAME))


def _steps(group: ChannelGroup, starts: Sequence[int]) -> list[int]:
    """Return the counts to try: those of every multiple, and multiples beside the unrounded count."""
    rows = _rows(group)
    width = group.size // rows
    unrounded = starts[0] // rows
    steps = [_step(group, multiple) for multiple in MULTIPLES]
    beside = {step * (unrounded // step + up) for step in steps for up in (0, 1)}
    near = {count for count in beside if abs(count - unrounded) <= max(steps[2], width // 8)}
    return [rows * count for count in sorted(near | {start // rows for start in starts}) if 1 <= count <= width]


def _around(tried: Sequence[int], count: int) -> list[int]:
    """Return the two counts to try on either side of a count."""
    place = tried.index(count)
    return [*tried[max(0, place - 2) : place], *tried[place + 1 : place + 3]]
