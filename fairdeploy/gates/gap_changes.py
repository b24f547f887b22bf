"""How much a gap may have grown against a reference: ``max_increase`` of a difference over the levels of an attribute.

Whatever the gaps are, ``|gap(deployed) - gap(reference)| <= range over levels of (deployed - reference)``. Rates are
paired, so that range is known 3.6 to 4.7 times better than two gaps by themselves: the upper bound is its estimate plus
the quantile of its deviations in one joint resampling. The lower bound, by which a gate fails, is that of the deployed
gap less the upper one of the reference's, each at half the error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from fairdeploy.evidence import metrics
from fairdeploy.evidence.cells import over
from fairdeploy.evidence.gaps import gap_estimate
from fairdeploy.evidence.metrics import GapMetric, RateMetric
from fairdeploy.evidence.records import Group
from fairdeploy.evidence.shifts import rate_of
from fairdeploy.evidence.statistics import Statistic, estimate
from fairdeploy.evidence.tally import Tally
from fairdeploy.gates.finding import Finding, decide, named, parts
from fairdeploy.gates.records import Rule
from fairdeploy.gates.sentences import allowed, points, rows

METHOD = "joint resampling of paired changes"


def gap_changes(rule: Rule, tally: Tally, *, seed: int) -> Iterator[Finding]:
    """Hold a ``max_increase`` of a gap against every attribute."""
    for context, part in parts(rule, tally):
        for attribute in tally.schema.attributes:
            yield _finding(rule, part, attribute, context, seed)


def _finding(rule: Rule, tally: Tally, attribute: str, context: Group, seed: int) -> Finding:
    metric, group = metrics.GAPS[rule.metric], {attribute: metrics.ALL}
    after = gap_estimate(tally, metric, attribute, seed=seed)
    before = gap_estimate(swapped(tally), metric, attribute, seed=seed)
    n, who = after.smallest_n, named(group, context)
    if after.value is None or before.value is None:
        reason = f"The {rule.words} over {who} is undefined: {after.why_undefined or before.why_undefined}."
        return Finding(group, "undefined", None, None, None, "rate", n, METHOD, reason, context=context)
    value, upper = after.value - before.value, upper_bound(tally, metric, attribute, rule.confidence, seed=seed)
    each = 1 - (1 - rule.confidence) / 2
    lower = after.interval(each)[0] - before.interval(each)[1]
    status, needed = decide(lower, upper, rule.bound), None
    grew = "grew" if value > 0 else "shrank"
    text = f"The {rule.words} over {who} {f'{grew} by {points(abs(value))} points' if value else 'did not change'}"
    text += f" against the {rule.reference_words}"
    confident = f"{100 * rule.confidence:g} % sure that it grew by"
    if status == "pass":
        reason = f"{text}; {confident} less than {points(upper, rule.bound)} ({allowed(rule)})."
    elif status == "fail":
        reason = f"{text}; {confident} at least {points(lower, rule.bound)} ({allowed(rule)})."
    else:
        if value < rule.bound:
            needed = max(n + 1, math.ceil(n * ((upper - value) / (rule.bound - value)) ** 2))
        there = rows(n, needed, after.smallest_buckets)
        may = f"but may have grown by up to {points(upper, rule.bound)} ({allowed(rule)})"
        reason = f"{text}, {may}: smallest group {there}."
    return Finding(group, status, value, lower, upper, "rate", n, METHOD, reason, needed, context)


def upper_bound(tally: Tally, metric: GapMetric, attribute: str, confidence: float, *, seed: int) -> float:
    """Return the bound on the growth of a gap at a one-sided confidence; every level must have a denominator."""
    levels = len(metrics.present_levels(tally, attribute))
    part, largest, deviations = over(tally, (attribute,), ()), 0.0, np.zeros(1)
    for rate in metric.rates:
        found = estimate(tally, rate if isinstance(rate, Statistic) else _as_statistic(rate), part, seed=seed)
        change = found.change[:levels]
        largest = max(largest, float(np.ptp(change)))
        high, low = found.change_upper[:, :levels] - change, found.change_lower[:, :levels] - change
        deviations = np.maximum(deviations, high.max(1) - low.min(1))
    return min(1.0, largest + float(np.quantile(deviations, confidence, method="higher")))


def swapped(tally: Tally) -> Tally:
    """Return the tally in which reference and deployed have changed places."""
    at = {**tally.coordinates, "reference": tally.coordinates["deployed"], "deployed": tally.coordinates["reference"]}
    flat = np.ravel_multi_index(tuple(at[axis] for axis in tally.schema.axes), tally.schema.shape).astype(np.int64)
    order = np.argsort(flat)
    return Tally(tally.schema, flat[order], tally.counts[order])


def _as_statistic(rate: RateMetric) -> Statistic:
    return Statistic(rate.name, rate.words, lambda tables: rate_of(rate, tables), binary=rate.binary)
