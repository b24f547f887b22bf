"""How many channels of each group to keep at a budget: one share for all, or relative widths, in round numbers.

Rounding happens on group labels, before masks are final: a channel given back to a network that was masked already
would be zeros that cost time.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from fairdeploy.compaction.groups import ChannelGroup
from fairdeploy.errors import StageError
from fairdeploy.pruning.budget import BudgetUse, Latency, prunable
from fairdeploy.pruning.counts import Counts, Scored, Scores, steps_of
from fairdeploy.pruning.latency_search import MULTIPLES, LatencySearch, coarsest

# Marks of a scale that are equal but for the last digits are one, and so are shortfalls in steps.
_DIGITS = 9
_SAME_SHORTFALL = 3


def round_counts(
    groups: Iterable[ChannelGroup],
    scores: Scores,
    use: BudgetUse,
    *,
    round_to: int | Latency = 8,
    widths: Mapping[str, float] | None = None,
    last_word: Latency | None = None,
) -> Counts:
    """Choose how many channels of each prunable group to keep.

    With a multiple, every group keeps the same share of its channels, or shares in the proportion of `widths`: the
    largest whose rounded network fits the budget. What rounding leaves of the budget goes to single groups, furthest
    below their share first and then by score for each use. The share goes on rising meanwhile, until a group whose
    step does not fit is a whole step behind: no count is further than a step from its share, and no group below its
    share can have a step more.

    With a latency, counts start from the best of several multiples and move to neighbouring ones while that is
    better: less latency for each multiply-accumulate, within 2 % of the budget and of the score that unrounded counts
    would keep unless a multiple that misses them is better by more than 5 %. What the search found and the multiples
    that it started from are then judged by `last_word`.

    Parameters
    ----------
    groups : iterable of ChannelGroup
        Those that cannot be pruned are left out.
    scores : mapping of str to array [size]
        How much each channel is worth; the same scale in every group.
    use : BudgetUse
    round_to : int or callable
        A multiple of indices (whole heads come one by one), or what says how long networks take under masks
        (`NetworkLatency`).
    widths : mapping of str to float, optional
        Relative widths of groups: one of 2 keeps twice the share of one of 1, which is what the others have.
    last_word : callable, optional
        Like such a latency, of networks measured as a whole: what is added up from layers may be wrong of the whole.

    Raises
    ------
    StageError
        If no group can be pruned, the budget is below what rounding allows (says the least that can be reached), or
        an argument is outside its range.
    """
    network = Scored(prunable(groups), scores, use)
    shares = _shares(network.groups, widths or {})
    if not callable(round_to):
        if round_to < 1:
            raise StageError(f"prune.round_to must be at least 1, not {round_to}")
        return _Scale(network, use, shares, round_to).filled()
    starts = [scale.counts(scale.largest) for scale in _starts(network, use, shares)]
    finalists = LatencySearch(network, use.costs.macs, starts, round_to).finalists()
    if last_word is None or len(finalists) == 1:
        return finalists[0]
    latencies_ms = last_word([network.masks(counts) for counts in finalists])
    macs = (use.costs.macs(network.masks(counts)) for counts in finalists)
    values = [ms / count for ms, count in zip(latencies_ms, macs, strict=True)]
    return finalists[coarsest(values, range(len(values)))]


def _shares(groups: Iterable[ChannelGroup], widths: Mapping[str, float]) -> dict[str, float]:
    """Return the share of its channels that each group keeps when the one that keeps most is whole."""
    names = [group.name for group in groups]
    for name, width in widths.items():
        if name not in names:
            raise StageError(f"widths: there is no prunable group '{name}'; known: {', '.join(names)}")
        if not 0 < width < math.inf:
            raise StageError(f"widths: '{name}' must have a width above 0, not {width}")
    widest = max(widths.get(name, 1.0) for name in names)
    return {name: widths.get(name, 1.0) / widest for name in names}


def _starts(network: Scored, use: BudgetUse, shares: Mapping[str, float]) -> Iterator[_Scale]:
    """Yield the scale of every multiple that reaches the budget; the finest tells when none does."""
    for multiple in MULTIPLES:
        scale = _Scale(network, use, shares, multiple)
        if multiple == 1 or network.use(scale.counts(0)) <= 1:
            yield scale


@dataclass(frozen=True)
class _Scale:
    """The counts that groups go through together, from one multiple each to all their channels.

    Groups move up by one step when their share is nearer to the next: that is a *mark* of the scale, and counts are
    the same between two of them.
    """

    network: Scored
    budget: BudgetUse
    shares: Mapping[str, float]
    multiple: int

    def counts(self, passed: int) -> Counts:
        """Return the counts when the first few marks are passed."""
        at = self._marks[passed - 1] if passed else 0.0
        return {name: steps[bisect_right(self._own_marks[name], at)] for name, steps in self._steps.items()}

    @cached_property
    def largest(self) -> int:
        """How many marks can be passed within the budget.

        Raises
        ------
        StageError
            If even the least counts exceed it.
        """
        least = self.counts(0)
        if self.network.use(least) > 1:
            raise self.budget.out_of_reach(self.network.masks(least), self.multiple)
        low, high = 0, len(self._marks) + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.network.use(self.counts(middle)) <= 1 else (low, middle)
        return low

    def filled(self) -> Counts:
        """Return the largest counts, with what is left of the budget given to groups that can still have a step more.

        They go on along the scale without those whose step does not fit, until one of these is a whole step behind.
        """
        counts, reached = self.counts(self.largest), math.inf
        for mark in self._marks[self.largest :]:
            if mark > reached:
                break
            due = {name: steps for name, steps in self._behind(counts, mark).items() if steps >= 0.5}
            counts, stuck = self._raised(counts, due)
            reached = min([reached, *(self._mark(name, self._next(counts, name)) for name in stuck)])
        return self._raised(counts, self._behind(counts, reached))[0]

    def _behind(self, counts: Counts, scale: float) -> dict[str, float]:
        """Return by how many steps groups are below their share."""
        shares = {name: min(1.0, scale * self.shares[name]) * steps[-1] for name, steps in self._steps.items()}
        behind = {
            name: round((shares[name] - count) / (self._next(counts, name) - count), _SAME_SHORTFALL)
            for name, count in counts.items()
            if count < shares[name]
        }
        return {name: steps for name, steps in behind.items() if steps > 0}

    def _raised(self, counts: Counts, behind: Mapping[str, float]) -> tuple[Counts, list[str]]:
        """Raise groups by a step each where that fits; return the new counts and the groups where it does not.

        Those furthest behind come first, then those that gain most score for each use.
        """
        use, kept = self.network.use(counts), self.network.kept(counts)

        def order(name: str) -> tuple[float, float]:
            raised = {**counts, name: self._next(counts, name)}
            added = self.network.use(raised) - use
            return -behind[name], (kept - self.network.kept(raised)) / added if added > 0 else -math.inf

        raised, stuck = counts, []
        for name in sorted(behind, key=order):
            more = {**raised, name: self._next(counts, name)}
            if self.network.use(more) <= 1:
                raised = more
            else:
                stuck.append(name)
        return raised, stuck

    def _next(self, counts: Counts, name: str) -> int:
        return self._steps[name][self._steps[name].index(counts[name]) + 1]

    def _mark(self, name: str, count: float) -> float:
        """Return where on the scale a group's share is a number of channels."""
        return round(count / (self._steps[name][-1] * self.shares[name]), _DIGITS)

    @cached_property
    def _steps(self) -> dict[str, tuple[int, ...]]:
        return {group.name: steps_of(group, self.multiple) for group in self.network.groups}

    @cached_property
    def _own_marks(self) -> dict[str, list[float]]:
        return {
            name: [self._mark(name, (below + above) / 2) for below, above in pairwise(steps)]
            for name, steps in self._steps.items()
        }

    @cached_property
    def _marks(self) -> list[float]:
        return sorted({mark for marks in self._own_marks.values() for mark in marks})
