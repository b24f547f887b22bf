"""What the evidence says about one rule, cell by cell, before the evidence level is looked at."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from fairdeploy.evidence import metrics
from fairdeploy.evidence.cells import cells
from fairdeploy.evidence.clusters import (
    Effective,
    EffectiveChange,
    EffectiveRate,
    cluster_count,
    effective_change,
    effective_rate,
)
from fairdeploy.evidence.gaps import gap_estimate
from fairdeploy.evidence.intervals import holm, mcnemar_p, two_sided
from fairdeploy.evidence.judge import Evidence, changes_cluster
from fairdeploy.evidence.metrics import words
from fairdeploy.evidence.percentiles import PERCENTILE_METHOD, percentile, percentile_bounds
from fairdeploy.evidence.planner import rate_rows_needed, rows_needed
from fairdeploy.evidence.records import Group
from fairdeploy.evidence.tally import Tally
from fairdeploy.gates.records import Rule, Status, Unit

Show = Callable[..., str]


@dataclass(frozen=True)
class Finding:
    """One cell's verdict and what decided it; the fields are those of `CellVerdict`."""

    group: Group
    status: Status
    value: float | None
    lower: float | None
    upper: float | None
    unit: Unit
    n: int | None
    method: str
    reason: str
    rows_needed: int | None = None


def findings(evidence: Evidence, rule: Rule) -> list[Finding]:
    """Hold a rule against the evidence; at least one finding, whatever is missing."""
    record = evidence.record
    if record.failure is not None:
        return [_missing(rule, f"it could not be judged: {record.failure}")]
    if rule.kind == "latency":
        return [_latency(evidence, rule)]
    if rule.kind == "size":
        measured = record.peak_memory_mb
        if rule.metric == "size_mb":
            measured = None if record.size_bytes is None else record.size_bytes / 1e6
        return [_measured(rule, measured)]
    tally = evidence.tallies.get(rule.against) if rule.against else next(iter(evidence.tallies.values()), None)
    if tally is None:
        return [
            _missing(
                rule, f"there are no predictions{f' paired with the {rule.against} network' if rule.against else ''}"
            )
        ]
    if tally.rows == 0:
        return [_missing(rule, "the evaluation has no rows")]
    if rule.metric in metrics.GAPS:
        return [_gap(rule, tally, attribute, evidence.record.seed) for attribute in tally.schema.attributes]
    if rule.condition in ("max_drop", "max_increase"):
        assert rule.against is not None  # a rule's own validation
        return _changes(rule, tally, clustered=changes_cluster(tally, rule.against, record.identical_to))
    return list(_absolute(rule, tally))


def _missing(rule: Rule, reason: str) -> Finding:
    return Finding(
        {}, "inconclusive", None, None, None, rule.unit, None, "none", f"The {rule.words} is not known: {reason}."
    )


def _changes(rule: Rule, tally: Tally, *, clustered: bool) -> list[Finding]:
    metric = metrics.RATES[rule.metric]
    groups: list[Group] = []
    parts: list[EffectiveChange] = []
    for part in cells(tally, contexts=False, intersections=False):
        counts = metric.counts(tally, part.axes).map(part.take)
        if rule.condition == "max_increase":
            counts = metrics.PairedCounts(counts.n, counts.reference, counts.deployed, counts.gained, counts.lost)
        groups += part.groups
        parts.append(effective_change(counts, clustered=clustered))
    lost, gained, n, effect = (
        np.concatenate([getattr(p, name) for p in parts]) for name in ("lost", "gained", "n", "effect")
    )
    notes = [note for part in parts for note in part.notes]
    buckets = [one for part in parts for one in _buckets(part)]
    lower, upper = (np.concatenate(side) for side in zip(*(p.bounds(rule.confidence) for p in parts), strict=True))
    defined = n > 0
    chance = np.ones(len(n))
    chance[defined] = holm(mcnemar_p(lost[defined] / effect[defined], gained[defined] / effect[defined]))
    flip_rate = float((lost[0] + gained[0] + 1) / (n[0] + 2))  # everyone is the first cell
    found = []
    for at, group in enumerate(groups):
        if not defined[at]:
            found.append(_undefined(rule, group))
            continue
        loss = float((lost[at] - gained[at]) / n[at])
        harmed = loss > rule.bound and chance[at] < 1 - rule.confidence
        bounds = loss, float(lower[at]), float(upper[at])
        status = _decide(*bounds[1:], rule.bound)
        needed = _more_rows(rule, int(n[at]), loss, flip_rate, float(effect[at])) if status == "inconclusive" else None
        if harmed and status == "inconclusive":
            status, needed = "fail", None
        rows = _rows(int(n[at]), needed, buckets[at])
        reason = _change_reason(rule, group, status, *bounds, rows)
        found.append(Finding(group, status, *bounds, "rate", int(n[at]), "Tango, paired" + notes[at], reason, needed))
    return found


def _more_rows(rule: Rule, n: int, loss: float, flip_rate: float, effect: float) -> int | None:
    """Rows at which a truly unchanged group would pass; if those are there, a group with the loss that was seen."""
    needed = rows_needed(rule.bound, flip_rate, alpha=1 - rule.confidence) * effect
    if needed <= n:
        if not 0 < loss < rule.bound:
            return None
        needed = rows_needed(rule.bound, max(flip_rate, loss), alpha=1 - rule.confidence, loss=loss) * effect
    return max(n + 1, math.ceil(needed))


def _change_reason(rule: Rule, group: Group, status: Status, loss: float, lower: float, upper: float, rows: str) -> str:
    fell, risen = ("rose", "fell") if rule.condition == "max_increase" else ("fell", "rose")
    text = f"The {rule.words} of {words(group)} "
    text += f"{fell if loss > 0 else risen} by {points(abs(loss))} points" if loss else "did not change"
    text += f" against the {rule.against} network"
    allowed, sure = f"at most {_own_digits(rule)} allowed", f"{100 * rule.confidence:g} % sure"
    if status == "pass":
        return f"{text}; {sure} that it {fell} by less than {points(max(upper, 0), rule.bound)} ({allowed})."
    if status == "fail" and lower > rule.bound:
        return f"{text} ({allowed}; {sure} it is at least {points(lower, rule.bound)})."
    if status == "fail":
        return f"{text} ({allowed}; {sure}, over all groups together, that it {fell} at all)."
    fallen = {"fell": "fallen", "rose": "risen"}[fell]
    return f"{text}, but may have {fallen} by up to {points(upper, rule.bound)} ({allowed}): {rows}."


def _buckets(summary: Effective) -> list[int | None]:
    return [None] * len(summary.n) if summary.buckets is None else summary.buckets.tolist()


def _rows(n: int, needed: int | None, buckets: int | None) -> str:
    there = f"{n} row{'s' if n != 1 else ''}"
    if not needed:
        return f"{there}, and more of them may not settle it"
    if not buckets:
        return f"{there}, about {needed} needed"
    clusters = math.ceil(needed * cluster_count(buckets, n) / n)
    return (
        f"{there}, about {needed} needed, the further ones from new clusters (people, drawings), "
        f"about {clusters} clusters in all"
    )


def _undefined(rule: Rule, group: Group) -> Finding:
    reason = f"The {rule.words} of {words(group)} is undefined: no rows."
    return Finding(group, "undefined", None, None, None, "rate", 0, "none", reason)


def _absolute(rule: Rule, tally: Tally) -> Iterator[Finding]:
    for part in cells(tally, contexts=False, intersections=False):
        if rule.metric == "worst_group_accuracy" and not part.axes:
            continue
        if rule.metric in metrics.FLIPS:
            hits, n = metrics.FLIPS[rule.metric].counts(tally, part.axes)
        else:
            counts = metrics.RATES.get(rule.metric, metrics.accuracy).counts(tally, part.axes)
            hits, n = counts.deployed, counts.n
        summary = effective_rate(part.take(hits), part.take(n), clustered=tally.schema.clustered)
        for at, group in enumerate(part.groups):
            yield _rate(rule, group, summary, at)


def _rate(rule: Rule, group: Group, summary: EffectiveRate, at: int) -> Finding:
    n = int(summary.n[at])
    if n == 0:
        return _undefined(rule, group)
    value = int(summary.successes[at]) / n
    lower, upper = (float(side[at]) for side in summary.clopper_pearson(two_sided(rule.confidence)))
    status = _decide(lower, upper, rule.bound, at_least=rule.condition == "min")
    text = f"The {rule.words} of {words(group)} is {points(value)} %"
    reason, needed = f"{text}{_sure(rule, status, lower, upper, points)}.", None
    if status == "inconclusive":
        if (value > rule.bound) == (rule.condition == "min") and value != rule.bound:
            rows = rate_rows_needed(rule.bound, value, alpha=1 - rule.confidence)
            needed = None if rows is None else max(n + 1, math.ceil(rows * float(summary.effect[at])))
        reason = f"{reason[:-1]}: {_rows(n, needed, _buckets(summary)[at])}."
    return Finding(group, status, value, lower, upper, "rate", n, "Clopper-Pearson" + summary.notes[at], reason, needed)


def _gap(rule: Rule, tally: Tally, attribute: str, seed: int) -> Finding:
    estimate = gap_estimate(tally, metrics.GAPS[rule.metric], attribute, seed=seed)
    group, n = {attribute: metrics.ALL}, estimate.smallest_n
    if estimate.value is None:
        why = f"no rows for {', '.join(estimate.undefined)}" if estimate.undefined else "there is only one level"
        reason = f"The {rule.words} over {words(group)} is undefined: {why}."
        return Finding(group, "undefined", None, None, None, "rate", n, estimate.method, reason)
    lower, upper = estimate.interval(rule.confidence)
    status = _decide(lower, upper, rule.bound)
    where = f"{estimate.highest} against {estimate.lowest}"
    text = f"The {rule.words} over {words(group)} is {points(estimate.value)} points ({where})"
    reason, needed = f"{text}{_sure(rule, status, lower, upper, points)}.", None
    if status == "inconclusive":
        if estimate.value < rule.bound:
            shrink = (upper - estimate.value) / (rule.bound - estimate.value)
            needed = max(n + 1, math.ceil(n * shrink**2))
        reason = f"{reason[:-1]}: smallest group {_rows(n, needed, estimate.smallest_buckets)}."
    return Finding(group, status, estimate.value, lower, upper, "rate", n, estimate.method, reason, needed)


def _latency(evidence: Evidence, rule: Rule) -> Finding:
    measured, percent = evidence.record.latency, int(rule.metric.split("_")[1][1:])
    if measured is None:
        return _missing(rule, "no latency was measured")
    value = percentile(measured.samples_ms, percent)
    if rule.condition == "max":
        low, high = percentile_bounds(measured.samples_ms, percent, rule.confidence)
        return _bounded(rule, value, low, high, measured.runs)
    reference = evidence.record.reference_latency.get(rule.against or "")
    if reference is None:
        return _missing(rule, f"the {rule.against} network was not timed on this device")
    each = 1 - (1 - rule.confidence) / 2  # two bounds share the error
    low, high = percentile_bounds(measured.samples_ms, percent, each)
    reference_low, reference_high = percentile_bounds(reference.samples_ms, percent, each)
    base = percentile(reference.samples_ms, percent)
    if not (base and reference_low and reference_high):
        return _missing(rule, f"too few runs ({reference.runs}) of the {rule.against} network for a bound")
    lower = None if low is None else low / reference_high
    upper = None if high is None else high / reference_low
    return _bounded(rule, value / base, lower, upper, min(measured.runs, reference.runs))


def _bounded(rule: Rule, value: float, low: float | None, high: float | None, runs: int) -> Finding:
    lower, upper = (-math.inf if low is None else low), (math.inf if high is None else high)
    status = _decide(lower, upper, rule.bound)
    unit = "ms" if rule.unit == "ms" else f"times that of the {rule.against} network"
    text = f"The {rule.words} is {value:.3g} {unit}"
    if status == "inconclusive" and high is None:
        reason = f"{text}, and {runs} runs are too few for a bound (at most {_own_digits(rule)} allowed)."
    else:
        reason = (
            f"{text}{_sure(rule, status, lower, upper, _plain)}{f': {runs} runs' if status == 'inconclusive' else ''}."
        )
    return Finding({}, status, value, low, high, rule.unit, runs, PERCENTILE_METHOD, reason)


def _measured(rule: Rule, value: float | None) -> Finding:
    if value is None:
        return _missing(rule, "it was not measured")
    status: Status = "pass" if value <= rule.bound else "fail"
    reason = f"The {rule.words} is {value:.4g} {rule.unit} (at most {rule.bound:g} allowed)."
    return Finding({}, status, value, value, value, rule.unit, None, "measured", reason)


def _decide(lower: float, upper: float, bound: float, *, at_least: bool = False) -> Status:
    if at_least:
        return "pass" if lower > bound else "fail" if upper < bound else "inconclusive"
    return "pass" if upper < bound else "fail" if lower > bound else "inconclusive"


def _sure(rule: Rule, status: Status, lower: float, upper: float, show: Show) -> str:
    at_least = rule.condition == "min"
    allowed = f"at {'least' if at_least else 'most'} {_own_digits(rule)} {'required' if at_least else 'allowed'}"
    if status == "inconclusive":
        extreme = f"low as {show(lower, rule.bound)}" if at_least else f"high as {show(upper, rule.bound)}"
        return f", but may be as {extreme} ({allowed})"
    above = at_least == (status == "pass")
    beyond = f"{'above' if above else 'below'} {show(lower if above else upper, rule.bound)}"
    return f"; {100 * rule.confidence:g} % sure that it is {beyond} ({allowed})"


def _own_digits(rule: Rule) -> str:
    """Write a rule's bound as it was set, a rate in points."""
    return f"{100 * rule.bound if rule.unit == 'rate' else rule.bound:g}"


def points(rate: float, beside: float | None = None) -> str:
    """Write a rate in points, with as many digits as keep it apart from the number it stands beside."""
    for digits in (1, 2, 3):
        text = f"{100 * rate:.{digits}f}"
        apart = beside is None or rate == beside or text != f"{100 * beside:.{digits}f}"
        if apart and (float(text) or not rate):
            break
    return text


def _plain(value: float, beside: float | None = None) -> str:
    return f"{value:.4g}"
