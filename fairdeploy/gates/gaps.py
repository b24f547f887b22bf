"""Gaps over the levels of an attribute, each with the simultaneous interval that holds also at a true gap of 0."""

from __future__ import annotations

import math
from collections.abc import Iterator

from fairdeploy.evidence import metrics
from fairdeploy.evidence.gaps import gap_estimate
from fairdeploy.evidence.records import Group
from fairdeploy.evidence.tally import Tally
from fairdeploy.gates.finding import Finding, decide, named, parts
from fairdeploy.gates.records import Rule
from fairdeploy.gates.sentences import plain, points, rows, sure


def gaps(rule: Rule, tally: Tally, *, seed: int) -> Iterator[Finding]:
    """Hold a ``max`` of a gap against every attribute."""
    for context, part in parts(rule, tally):
        for attribute in tally.schema.attributes:
            yield _gap(rule, part, attribute, context, seed)


def _gap(rule: Rule, tally: Tally, attribute: str, context: Group, seed: int) -> Finding:
    estimate = gap_estimate(tally, metrics.GAPS[rule.metric], attribute, seed=seed)
    group, n, unit = {attribute: metrics.ALL}, estimate.smallest_n, rule.unit
    who = named(group, context)
    if estimate.value is None:
        reason = f"The {rule.words} over {who} is undefined: {estimate.why_undefined}."
        return Finding(group, "undefined", None, None, None, unit, n, estimate.method, reason, context=context)
    lower, upper = estimate.interval(rule.confidence)
    status = decide(lower, upper, rule.bound, at_least=rule.at_least)
    show, said = (plain, f"{estimate.value:.3g}") if unit == "ratio" else (points, f"{points(estimate.value)} points")
    between = (estimate.highest, estimate.lowest) if unit == "rate" else (estimate.lowest, estimate.highest)
    text = f"The {rule.words} over {who} is {said} ({' against '.join(map(str, between))})"
    reason, needed = f"{text}{sure(rule, status, lower, upper, show)}.", None
    if status == "inconclusive":
        reach, room = (estimate.value - lower if rule.at_least else upper - estimate.value), rule.bound - estimate.value
        if (room < 0) == rule.at_least and room:
            needed = max(n + 1, math.ceil(n * (reach / room) ** 2))
        reason = f"{reason[:-1]}: smallest group {rows(n, needed, estimate.smallest_buckets)}."
    return Finding(group, status, estimate.value, lower, upper, unit, n, estimate.method, reason, needed, context)
