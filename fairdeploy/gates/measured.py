"""Latency with distribution-free bounds; size and memory as they were measured."""

from __future__ import annotations

import math

from fairdeploy.evidence.percentiles import PERCENTILE_METHOD, percentile, percentile_bounds
from fairdeploy.evidence.records import EvidenceRecord
from fairdeploy.gates.finding import Finding, decide, missing
from fairdeploy.gates.records import Rule, Status
from fairdeploy.gates.sentences import own_digits, plain, sure


def latency(rule: Rule, record: EvidenceRecord) -> Finding:
    """Hold a percentile's ``max``, or its ``max_ratio`` to a reference's, against the runs."""
    measured, percent = record.latency, int(rule.metric.split("_")[1][1:])
    if measured is None:
        return missing(rule, "no latency was measured")
    value = percentile(measured.samples_ms, percent)
    if rule.condition == "max":
        low, high = percentile_bounds(measured.samples_ms, percent, rule.confidence)
        return _bounded(rule, value, low, high, measured.runs)
    reference = record.reference_latency.get(rule.against or "")
    if reference is None:
        return missing(rule, f"the {rule.reference_words} was not timed on this device")
    each = 1 - (1 - rule.confidence) / 2  # two bounds share the error
    low, high = percentile_bounds(measured.samples_ms, percent, each)
    reference_low, reference_high = percentile_bounds(reference.samples_ms, percent, each)
    base = percentile(reference.samples_ms, percent)
    if not (base and reference_low and reference_high):
        return missing(rule, f"too few runs ({reference.runs}) of the {rule.reference_words} for a bound")
    lower = None if low is None else low / reference_high
    upper = None if high is None else high / reference_low
    return _bounded(rule, value / base, lower, upper, min(measured.runs, reference.runs))


def _bounded(rule: Rule, value: float, low: float | None, high: float | None, runs: int) -> Finding:
    lower, upper = (-math.inf if low is None else low), (math.inf if high is None else high)
    status = decide(lower, upper, rule.bound)
    unit = "ms" if rule.unit == "ms" else f"times that of the {rule.reference_words}"
    text = f"The {rule.words} is {value:.3g} {unit}"
    if status == "inconclusive" and high is None:
        reason = f"{text}, and {runs} runs are too few for a bound (at most {own_digits(rule)} allowed)."
    else:
        there = f": {runs} runs" if status == "inconclusive" else ""
        reason = f"{text}{sure(rule, status, lower, upper, plain)}{there}."
    return Finding({}, status, value, low, high, rule.unit, runs, PERCENTILE_METHOD, reason)


def size(rule: Rule, record: EvidenceRecord) -> Finding:
    """Hold the artifact's size or the runner's peak memory against its ``max``; both are exact."""
    value = record.peak_memory_mb
    if rule.metric == "size_mb":
        value = None if record.size_bytes is None else record.size_bytes / 1e6
    if value is None:
        return missing(rule, "it was not measured")
    status: Status = "pass" if value <= rule.bound else "fail"
    reason = f"The {rule.words} is {value:.4g} {rule.unit} (at most {rule.bound:g} allowed)."
    return Finding({}, status, value, value, value, rule.unit, None, "measured", reason)
