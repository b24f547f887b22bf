"""Bundles side by side, as rows for the terminal and as plain data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fairdeploy.bundle import Bundle, JudgedBundle
from fairdeploy.evidence.records import EvidenceRecord, Group
from fairdeploy.gates import Status
from fairdeploy.judgement import NO_REFERENCE
from fairdeploy.report import words
from fairdeploy.report.find import find_change, find_rate, group_key

Value = tuple[str, str]
RATES = ("true_positive_rate", "false_positive_rate")


@dataclass(frozen=True)
class Row:
    """One line of the comparison: per bundle a value and a detail beneath it, which may be empty."""

    section: str
    name: str
    values: tuple[Value, ...]
    statuses: tuple[Status, ...] = ()


def compare(bundles: Sequence[Bundle]) -> list[Row]:
    """Return the rows of the comparison, the verdict first."""
    evidences = [bundle.evidence for bundle in bundles]

    def row(section: str, name: str, of: Callable[[EvidenceRecord], Value]) -> Row:
        return Row(section, name, tuple(of(evidence) for evidence in evidences))

    statuses = tuple(bundle.verdict.status for bundle in bundles)
    shapes = tuple((f"{words.STATUS_SHAPE[status]} {words.STATUS_WORD[status]}", "") for status in statuses)
    rows = [Row("", "verdict", shapes, statuses), row("", "evidence level", _level)]
    rows.append(row("", "accuracy, %", lambda e: _rate(e, "accuracy", {})))
    rows.append(row("", "worst group, %", _worst_group))
    groups = list({group_key(r.group): r.group for e in evidences for r in e.rates if r.group}.values())
    for metric in RATES:
        section = f"{words.metric_name(metric)}, %"
        for group in groups:
            rows.append(row(section, words.group_name(group), lambda e, m=metric, g=group: _rate(e, m, g)))  # type: ignore[misc]
    gaps = dict.fromkeys(
        gap.attribute for e in evidences for gap in e.gaps if gap.metric == "equalized_odds_difference"
    )
    for attribute in gaps:
        name = attribute.replace("_", " ")
        rows.append(row("equalized odds difference, points", name, lambda e, a=attribute: _gap(e, a)))  # type: ignore[misc]
    for against in dict.fromkeys(filter(None, map(_reference, bundles))):
        section = f"right answers lost, gained against {against}"
        for group in [{}, *groups]:
            values = tuple(_flips(bundle, against, group) for bundle in bundles)
            rows.append(Row(section, words.group_name(group), values))
    for percentile in ("p50", "p90"):
        rows.append(row("latency", percentile, lambda e, p=percentile: _latency(e, p)))  # type: ignore[misc]
    rows.append(row("", "size", lambda e: (words.size(e.size_bytes), "")))
    rows.append(row("", "layers by precision", lambda e: (words.precision(e.realised_precision), "")))
    return rows


def comparison_json(bundles: Sequence[Bundle]) -> dict[str, Any]:
    """Return the comparison as plain data, the numbers as the records hold them."""
    return {"schema_version": 1, "targets": [_plain(bundle) for bundle in bundles]}


def _plain(bundle: Bundle) -> dict[str, Any]:
    evidence, verdict = bundle.evidence, bundle.verdict
    shown = {"accuracy", "worst_group_accuracy", *RATES}
    latency = (
        evidence.latency.model_dump(mode="json", include={"runs", "threads", "percentiles", "intervals"})
        if evidence.latency
        else None
    )
    return {
        "target": verdict.target,
        "build_id": bundle.manifest.build_id,
        "status": verdict.status,
        "sentence": verdict.sentence,
        "level": evidence.level,
        "fake_device": evidence.fake_device,
        "failure": evidence.failure,
        "rates": [r.model_dump(mode="json") for r in evidence.rates if r.metric in shown and not r.context],
        "gaps": [gap.model_dump(mode="json") for gap in evidence.gaps],
        "changes": [c.model_dump(mode="json") for c in evidence.changes if not c.context],
        "latency": latency,
        "size_bytes": evidence.size_bytes,
        "requested_precision": evidence.requested_precision,
        "realised_precision": evidence.realised_precision,
        "artifact_digest": evidence.artifact_digest,
    }


def _level(evidence: EvidenceRecord) -> Value:
    return (evidence.level or "none", "fake device" if evidence.fake_device else "")


def _rate(evidence: EvidenceRecord, metric: str, group: Group) -> Value:
    found = find_rate(evidence, metric, group)
    if found is None:
        return (words.NONE, "")
    return (words.rate(found.value), words.span(found.interval) if found.interval else "")


def _worst_group(evidence: EvidenceRecord) -> Value:
    lowest = next(
        (gap for gap in evidence.gaps if gap.metric == "accuracy_difference" and gap.lowest is not None), None
    )
    if lowest is None or lowest.lowest is None:
        return (words.NONE, "")
    group = {lowest.attribute: lowest.lowest}
    return (_rate(evidence, "accuracy", group)[0], words.group_name(group))


def _gap(evidence: EvidenceRecord, attribute: str) -> Value:
    wanted = ("equalized_odds_difference", attribute)
    found = next((gap for gap in evidence.gaps if (gap.metric, gap.attribute) == wanted), None)
    if found is None:
        return (words.NONE, "")
    return (words.rate(found.value), words.span(found.interval) if found.interval else "")


def _reference(bundle: Bundle) -> str | None:
    """Return what changes are shown against: compact, so that compiling alone made them, else the first."""
    given = _references(bundle)
    return "compact" if "compact" in given else next(iter(given), None)


def _references(bundle: Bundle) -> list[str]:
    if isinstance(bundle, JudgedBundle) and NO_REFERENCE in bundle.predictions.references.values():
        return []
    return [change.against for change in bundle.evidence.changes]


def _flips(bundle: Bundle, against: str, group: Group) -> Value:
    found = find_change(bundle.evidence, "accuracy", against, group)
    if found is None or against not in _references(bundle):
        return (words.NONE, "")
    return (
        f"{words.MINUS if found.lost else ''}{words.count(found.lost)}, +{words.count(found.gained)}",
        f"of {words.count(found.n)}",
    )


def _latency(evidence: EvidenceRecord, percentile: str) -> Value:
    if evidence.latency is None or percentile not in evidence.latency.percentiles:
        return (words.NONE, "not measured")
    return (words.milliseconds(evidence.latency.percentiles[percentile]), "")
