"""Rates and flips of every group by themselves, each with its exact bound."""

from __future__ import annotations

import math
from collections.abc import Iterator

from fairdeploy.evidence import metrics
from fairdeploy.evidence.cells import cells
from fairdeploy.evidence.clusters import EffectiveRate, effective_rate
from fairdeploy.evidence.intervals import two_sided
from fairdeploy.evidence.planner import rate_rows_needed
from fairdeploy.evidence.records import Group
from fairdeploy.evidence.tally import Tally
from fairdeploy.gates.finding import Finding, bucket_counts, decide, named, parts, undefined
from fairdeploy.gates.records import Rule
from fairdeploy.gates.sentences import points, rows, sure


def absolute(rule: Rule, tally: Tally) -> Iterator[Finding]:
    """Hold a ``min`` or ``max`` of a rate or of flips against every cell; worst-group accuracy leaves out everyone."""
    for context, part in parts(rule, tally):
        for cell in cells(part, contexts=False, intersections=rule.intersections):
            if rule.metric == "worst_group_accuracy" and not cell.axes:
                continue
            if rule.metric in metrics.FLIPS:
                hits, n = metrics.FLIPS[rule.metric].counts(part, cell.axes)
            else:
                counts = metrics.RATES.get(rule.metric, metrics.accuracy).counts(part, cell.axes)
                hits, n = counts.deployed, counts.n
            summary = effective_rate(cell.take(hits), cell.take(n), clustered=tally.schema.clustered)
            for at, group in enumerate(cell.groups):
                yield _rate(rule, group, context, summary, at)


def _rate(rule: Rule, group: Group, context: Group, summary: EffectiveRate, at: int) -> Finding:
    n = int(summary.n[at])
    if n == 0:
        return undefined(rule, group, context)
    value = int(summary.successes[at]) / n
    lower, upper = (float(side[at]) for side in summary.clopper_pearson(two_sided(rule.confidence)))
    status = decide(lower, upper, rule.bound, at_least=rule.at_least)
    text = f"The {rule.words} of {named(group, context)} is {points(value)} %"
    reason, needed = f"{text}{sure(rule, status, lower, upper, points)}.", None
    if status == "inconclusive":
        if (value > rule.bound) == rule.at_least and value != rule.bound:
            wanted = rate_rows_needed(rule.bound, value, alpha=1 - rule.confidence)
            needed = None if wanted is None else max(n + 1, math.ceil(wanted * float(summary.effect[at])))
        reason = f"{reason[:-1]}: {rows(n, needed, bucket_counts(summary)[at])}."
    method = "Clopper-Pearson" + summary.notes[at]
    return Finding(group, status, value, lower, upper, "rate", n, method, reason, needed, context)
