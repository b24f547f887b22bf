"""Changes of a rate against a reference, paired row by row: every group's loss on its own denominator."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairdeploy.evidence import metrics
from fairdeploy.evidence.blame import max_t
from fairdeploy.evidence.cells import cells
from fairdeploy.evidence.clusters import EffectiveChange, effective_change
from fairdeploy.evidence.planner import rows_needed
from fairdeploy.evidence.records import Group
from fairdeploy.evidence.tally import Tally
from fairdeploy.gates.finding import Finding, bucket_counts, decide, named, parts, undefined
from fairdeploy.gates.records import Rule, Status
from fairdeploy.gates.sentences import own_digits, points, rows

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Losses:
    """A rule's losses over all its cells: everyone first, then the groups, then the same within each context level.

    `chance` is the probability of each by chance alone, adjusted over the cells.
    """

    groups: list[Group]
    contexts: list[Group]
    notes: list[str]
    buckets: list[int | None]
    lost: NDArray[np.int64]
    gained: NDArray[np.int64]
    n: NDArray[np.int64]
    effect: Floats
    lower: Floats
    upper: Floats
    chance: Floats

    @property
    def flip_rate(self) -> float:
        """Share of everyone's rows that flip, pulled away from 0."""
        return float((self.lost[0] + self.gained[0] + 1) / (self.n[0] + 2))


def changes(rule: Rule, tally: Tally, *, clustered: bool, seed: int) -> list[Finding]:
    """Hold a ``max_drop`` or ``max_increase`` of a rate against every cell."""
    losses = _losses(rule, tally, clustered=clustered, seed=seed)
    return [_finding(rule, losses, at) for at in range(len(losses.n))]


def _losses(rule: Rule, tally: Tally, *, clustered: bool, seed: int) -> _Losses:
    metric = metrics.RATES[rule.metric]
    groups: list[Group] = []
    contexts: list[Group] = []
    summaries: list[EffectiveChange] = []
    by_bucket: list[metrics.PairedCounts] = []
    for context, part in parts(rule, tally):
        for cell in cells(part, contexts=False, intersections=rule.intersections):
            counts = metric.counts(part, cell.axes).map(cell.take)
            if rule.condition == "max_increase":
                counts = metrics.PairedCounts(counts.n, counts.reference, counts.deployed, counts.gained, counts.lost)
            groups += cell.groups
            contexts += [context] * len(cell.groups)
            summaries.append(effective_change(counts, clustered=clustered))
            by_bucket.append(counts)
    bounds = [summary.bounds(rule.confidence) for summary in summaries]
    lower, upper = (np.concatenate(side) for side in zip(*bounds, strict=True))
    return _Losses(
        groups=groups,
        contexts=contexts,
        notes=[note for summary in summaries for note in summary.notes],
        buckets=[one for summary in summaries for one in bucket_counts(summary)],
        lost=np.concatenate([one.lost for one in summaries]),
        gained=np.concatenate([one.gained for one in summaries]),
        n=np.concatenate([one.n for one in summaries]),
        effect=np.concatenate([one.effect for one in summaries]),
        lower=lower,
        upper=upper,
        chance=max_t(
            np.hstack([one.lost for one in by_bucket]), np.hstack([one.gained for one in by_bucket]), seed=seed
        ),
    )


def _finding(rule: Rule, losses: _Losses, at: int) -> Finding:
    group, context, n = losses.groups[at], losses.contexts[at], int(losses.n[at])
    if n == 0:
        return undefined(rule, group, context)
    loss = float((losses.lost[at] - losses.gained[at]) / n)
    bounds = loss, float(losses.lower[at]), float(losses.upper[at])
    status, needed = decide(*bounds[1:], rule.bound), None
    if status == "inconclusive" and loss > rule.bound and losses.chance[at] < 1 - rule.confidence:
        status = "fail"
    elif status == "inconclusive":
        needed = _more_rows(rule, n, loss, losses.flip_rate, float(losses.effect[at]))
    reason = change_reason(rule, named(group, context), status, *bounds, rows(n, needed, losses.buckets[at]))
    method = "Tango, paired" + losses.notes[at]
    return Finding(group, status, *bounds, "rate", n, method, reason, needed, context)


def _more_rows(rule: Rule, n: int, loss: float, flip_rate: float, effect: float) -> int | None:
    """Rows at which a truly unchanged group would pass; if those are there, a group with the loss that was seen."""
    needed = rows_needed(rule.bound, flip_rate, alpha=1 - rule.confidence) * effect
    if needed <= n:
        if not 0 < loss < rule.bound:
            return None
        needed = rows_needed(rule.bound, max(flip_rate, loss), alpha=1 - rule.confidence, loss=loss) * effect
    return max(n + 1, math.ceil(needed))


def change_reason(rule: Rule, who: str, status: Status, loss: float, lower: float, upper: float, there: str) -> str:
    """Say by how much a rate changed for the worse, how sure that is, and `there` which rows are still needed."""
    fell, risen = ("rose", "fell") if rule.condition == "max_increase" else ("fell", "rose")
    text = f"The {rule.words} of {who} "
    text += f"{fell if loss > 0 else risen} by {points(abs(loss), rule.bound)} points" if loss else "did not change"
    text += f" against the {rule.reference_words}"
    limit, sure = f"at most {own_digits(rule)} allowed", f"{100 * rule.confidence:g} % sure"
    if status == "pass":
        return f"{text}; {sure} that it {fell} by less than {points(max(upper, 0), rule.bound)} ({limit})."
    if status == "fail" and lower > rule.bound:
        return f"{text} ({limit}; {sure} it is at least {points(lower, rule.bound)})."
    if status == "fail":
        return f"{text} ({limit}; {sure}, over all groups together, that it {fell} at all)."
    fallen = {"fell": "fallen", "rose": "risen"}[fell]
    return f"{text}, but may have {fallen} by up to {points(upper, rule.bound)} ({limit}): {there}."
