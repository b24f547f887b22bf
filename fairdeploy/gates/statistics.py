"""What is no sum over rows: precision, F1 and other statistics, scores, excess drops, ratios to a reference's rate."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from fairdeploy.evidence.cells import Cells, cells
from fairdeploy.evidence.judge import Evidence
from fairdeploy.evidence.metrics import RATES
from fairdeploy.evidence.records import Group
from fairdeploy.evidence.scores import SCORES, estimate_scores
from fairdeploy.evidence.shifts import excess_drop, normalised_change
from fairdeploy.evidence.statistics import Estimate, estimate, load
from fairdeploy.evidence.tally import Tally
from fairdeploy.gates.finding import Finding, decide, missing, named, parts, undefined
from fairdeploy.gates.records import EXCESS, Rule, Status
from fairdeploy.gates.sentences import allowed, plain, points, rows, sure


def statistics(rule: Rule, tally: Tally, evidence: Evidence) -> Iterator[Finding]:
    """Hold a rule on a statistic, a score metric, an excess drop or a ratio of rates against every cell."""
    if rule.metric in SCORES and "deployed" not in evidence.scores:
        yield missing(rule, "there are no scores, only predictions")
        return
    if rule.metric in SCORES and rule.against and rule.against not in evidence.scores:
        yield missing(rule, f"there are no scores of the {rule.reference_words}")
        return
    for context, part in parts(rule, tally):
        for cell in cells(part, contexts=False, intersections=rule.intersections):
            if rule.metric.endswith(EXCESS) and not cell.axes:
                continue  # everyone has no excess over everyone
            found = _estimate(rule, part, cell, evidence)
            for at, group in enumerate(cell.groups):
                yield _finding(rule, group, context, found, at)


def _estimate(rule: Rule, tally: Tally, cell: Cells, evidence: Evidence) -> Estimate:
    seed, scores = evidence.record.seed, evidence.scores
    if rule.metric in SCORES:
        reference = scores[rule.against] if rule.against else None
        return estimate_scores(SCORES[rule.metric], scores["deployed"], reference, cell, seed=seed)
    if rule.metric.endswith(EXCESS):
        return excess_drop(tally, RATES[rule.metric.removesuffix(EXCESS)], cell, seed=seed)
    if rule.condition == "max_ratio":
        found = normalised_change(tally, RATES[rule.metric], cell, seed=seed)
        return replace(found, deployed=found.deployed + 1, lower=found.lower + 1, upper=found.upper + 1)
    return estimate(tally, load(rule.metric), cell, seed=seed)


def _finding(rule: Rule, group: Group, context: Group, found: Estimate, at: int) -> Finding:
    n, change = int(found.n[at]), rule.condition in ("max_drop", "max_increase")
    value = float((found.change if change else found.deployed)[at])
    if math.isnan(value):
        why = "no rows" if n == 0 else "no row of the group counts for it"
        return undefined(rule, group, context, why, n)
    sides = found.change_bounds(rule.confidence) if change else found.bounds(rule.confidence)
    lower, upper = (float(side[at]) for side in sides)
    if rule.condition == "max_drop":
        value, lower, upper = -value, -upper, -lower
    status = decide(lower, upper, rule.bound, at_least=rule.at_least)
    fixed = float(found.quantisation[at]) * (2 if change else 1)
    needed = _more_rows(rule, n, value, lower + fixed, upper - fixed, fixed) if status == "inconclusive" else None
    who, there = named(group, context), rows(n, needed, None)
    reason = (
        _change(rule, who, status, value, lower, upper) if change else _level(rule, who, status, value, lower, upper)
    )
    reason = f"{reason}: {there}." if status == "inconclusive" else f"{reason}."
    return Finding(group, status, value, lower, upper, rule.unit, n, found.method, reason, needed, context)


def _more_rows(rule: Rule, n: int, value: float, lower: float, upper: float, fixed: float) -> int | None:
    """Rows at which the distance of bound and value, that falls with the root of the rows, would fit the margin.

    `fixed` is what no number of rows takes away: the quantisation of scores.
    """
    reach = value - lower if rule.at_least else upper - value
    room = (value - rule.bound if rule.at_least else rule.bound - value) - fixed
    return max(n + 1, math.ceil(n * (reach / room) ** 2)) if room > 0 else None


def _level(rule: Rule, who: str, status: Status, value: float, lower: float, upper: float) -> str:
    if rule.unit == "ratio":
        text = f"The {rule.words} of {who} is {value:.3g} times that of the {rule.reference_words}"
        return f"{text}{sure(rule, status, lower, upper, plain)}"
    unit = "points" if rule.metric.endswith(EXCESS) else "%"
    return f"The {rule.words} of {who} is {points(value)} {unit}{sure(rule, status, lower, upper, points)}"


def _change(rule: Rule, who: str, status: Status, value: float, lower: float, upper: float) -> str:
    fell, risen = ("rose", "fell") if rule.condition == "max_increase" else ("fell", "rose")
    text = f"The {rule.words} of {who} "
    text += f"{fell if value > 0 else risen} by {points(abs(value))} points" if value else "did not change"
    text += f" against the {rule.reference_words}"
    known = f"{100 * rule.confidence:g} % sure that it {fell} by"
    if status == "pass":
        return f"{text}; {known} less than {points(max(upper, 0), rule.bound)} ({allowed(rule)})"
    if status == "fail":
        return f"{text}; {known} at least {points(lower, rule.bound)} ({allowed(rule)})"
    fallen = {"fell": "fallen", "rose": "risen"}[fell]
    return f"{text}, but may have {fallen} by up to {points(upper, rule.bound)} ({allowed(rule)})"
