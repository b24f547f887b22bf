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
from fairdeploy.gates.sentences import points, rows, sure


def gaps(rule: Rule, tally: Tally, *, seed: int) -> Iterator[Finding]:
    """Hold a ``max`` of a gap against every attribute."""
    for context, part in parts(rule, tally):
        for attribute in tally.schema.attributes:
            yield _gap(rule, part, attribute, context, seed)


def _gap(rule: Rule, tally: Tally, attribute: str, context: Group, seed: int) -> Finding:
    estimate = gap_estimate(tally, metrics.GAPS[rule.metric], attribute, seed=seed)
    group, n = {attribute: metrics.ALL}, estimate.smallest_n
    who = named(group, context)
    if estimate.value is None:
        why = f"no rows for {', '.join(estimate.undefined)}" if estimate.undefined else "there is only one level"
        reason = f"The {rule.words} over {who} is undefined: {why}."
        return Finding(group, "undefined", None, None, None, "rate", n, estimate.method, reason, context=context)
    lower, upper = estimate.interval(rule.confidence)
    status = decide(lower, upper, rule.bound)
    where = f"{estimate.highest} against {estimate.lowest}"
    text = f"The {rule.words} over {who} is {points(estimate.value)} points ({where})"
    reason, needed = f"{text}{sure(rule, status, lower, upper, points)}.", None
    if status == "inconclusive":
        if estimate.value < rule.bound:
            shrink = (upper - estimate.value) / (rule.bound - estimate.value)
            needed = max(n + 1, math.ceil(n * shrink**2))
        reason = f"{reason[:-1]}: smallest group {rows(n, needed, estimate.smallest_buckets)}."
    return Finding(group, status, estimate.value, lower, upper, "rate", n, estimate.method, reason, needed, context)
