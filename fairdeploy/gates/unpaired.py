"""Changes of a rate against a reference that saw other rows: two samples, each cell with both of its denominators."""

from __future__ import annotations

import math
from collections.abc import Iterator

from fairdeploy.evidence.cells import cells
from fairdeploy.evidence.clusters import EffectiveRate
from fairdeploy.evidence.metrics import RATES
from fairdeploy.evidence.records import Group
from fairdeploy.evidence.tally import Tally
from fairdeploy.evidence.unpaired import METHOD, UnpairedChange, unpaired_changes
from fairdeploy.gates.changes import change_reason
from fairdeploy.gates.finding import Finding, bucket_counts, decide, missing, named, parts, undefined
from fairdeploy.gates.records import Rule
from fairdeploy.gates.sentences import plain, rows, sure

OTHER_ROWS = "the reference saw other rows"


def unpaired(rule: Rule, deployed: Tally, reference: Tally) -> Iterator[Finding]:
    """Hold a ``max_drop``, ``max_increase`` or ``max_ratio`` of a rate against every cell.

    Whatever else is about a change needs the same rows on both sides, and is not known.
    """
    if rule.metric not in RATES:
        yield missing(rule, f"{OTHER_ROWS}, and this can only be said of pairs: judge both on the same rows")
        return
    if reference.rows == 0:
        yield missing(rule, "the reference has no rows")
        return
    theirs = {tuple(context.items()): part for context, part in parts(rule, reference)}
    for context, part in parts(rule, deployed):
        other = theirs.get(tuple(context.items()), Tally.zero(reference.schema))
        for cell in cells(part, contexts=False, intersections=rule.intersections):
            found = unpaired_changes(part, other, RATES[rule.metric], cell)
            bounds = found.ratio_bounds if rule.condition == "max_ratio" else found.bounds
            lower, upper = bounds(rule.confidence)
            for at, group in enumerate(cell.groups):
                yield _finding(rule, group, context, found, (float(lower[at]), float(upper[at])), at)


def _finding(
    rule: Rule, group: Group, context: Group, found: UnpairedChange, bounds: tuple[float, float], at: int
) -> Finding:
    n, other_n = int(found.n[at]), int(found.reference_n[at])
    if not n or not other_n:
        return undefined(rule, group, context, "no rows" if not n else "the reference has no rows of it", n)
    ratio = rule.condition == "max_ratio"
    if ratio and not found.reference[at]:
        return undefined(rule, group, context, "the reference's rate is 0", n)
    value, (lower, upper) = float((found.ratio if ratio else found.change)[at]), bounds
    if rule.condition == "max_drop":
        value, lower, upper = -value, -upper, -lower
    status, times = decide(lower, upper, rule.bound), None
    if status == "inconclusive" and value < rule.bound:
        times = ((upper - value) / (rule.bound - value)) ** 2
    needed, ours = _rows(found.deployed_rate, at, times)
    there = f"{ours}; of the reference {_rows(found.reference_rate, at, times)[1]}"
    who = named(group, context)
    if ratio:
        text = f"The {rule.words} of {who} is {value:.3g} times that of the {rule.reference_words}"
        text += sure(rule, status, lower, upper, plain)
        reason = f"{text}: {there}." if status == "inconclusive" else f"{text}."
    else:
        reason = change_reason(rule, who, status, value, lower, upper, there)
    reason = f"{reason[:-1]}; {OTHER_ROWS}, so the comparison is unpaired."
    method = METHOD + found.notes[at]
    return Finding(group, status, value, lower, upper, rule.unit, n, method, reason, needed, context)


def _rows(side: EffectiveRate, at: int, times: float | None) -> tuple[int | None, str]:
    """Return how many rows of a side are needed, both grown alike, and its rows in words."""
    n = int(side.n[at])
    needed = None if times is None else max(n + 1, math.ceil(n * times))
    return needed, rows(n, needed, bucket_counts(side)[at])
