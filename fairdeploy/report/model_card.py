"""A model card as a CycloneDX 1.6 bill of materials: metrics per group with intervals, and who is at risk.

The serial number follows from the digests of what is reported, so the same records give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from fairdeploy import __version__
from fairdeploy.bundle import Bundle, TargetBundle
from fairdeploy.evidence.records import Change, Group, Interval, Shift
from fairdeploy.report import words
from fairdeploy.report.outcome import outcome
from fairdeploy.report.source import Source

Plain = dict[str, Any]


def render_model_card(source: Source) -> str:
    """Return a CycloneDX 1.6 document with one machine-learning model per target."""
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid5(NAMESPACE_URL, f'urn:fairdeploy:report:{source.digest}')}",
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": "fairdeploy", "version": __version__}]},
            "component": {"type": "application", "name": source.title, **_version(source), **_across(source)},
        },
        "components": [_component(source, bundle) for bundle in source.bundles],
    }
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _version(source: Source) -> Plain:
    return {"version": source.build.build_id} if source.build else {}


def _across(source: Source) -> Plain:
    if source.across is None:
        return {}
    facts = {"verdict": source.across.status, "sentence": source.across.sentence}
    return {"properties": [{"name": f"fairdeploy:all-targets-{name}", "value": value} for name, value in facts.items()]}


def _component(source: Source, bundle: Bundle) -> Plain:
    verdict, evidence = bundle.verdict, bundle.evidence
    facts = {
        "verdict": verdict.status,
        "sentence": verdict.sentence,
        "evidence-level": evidence.level or "none",
        "artifact-digest": evidence.artifact_digest or "none",
        "evidence-digest": verdict.evidence_digest,
        "gates-digest": verdict.gates_digest,
        "data-fingerprint": evidence.data_fingerprint,
        **{f"runtime-{name}": value for name, value in evidence.runtime.items()},
    }
    files = [
        {"type": "file", "name": name, "hashes": [{"alg": "SHA-256", "content": known}]}
        for name, known in bundle.manifest.files.items()
        if name.startswith("artifact/")
    ]
    component: Plain = {
        "type": "machine-learning-model",
        "bom-ref": f"model:{verdict.target}",
        "name": f"{source.title} on {verdict.target}" if source.build else verdict.target,
        **_version(source),
        "modelCard": _card(source, bundle),
        "properties": [{"name": f"fairdeploy:{name}", "value": value} for name, value in facts.items()],
    }
    return {**component, "components": files} if files else component


def _card(source: Source, bundle: Bundle) -> Plain:
    limits = [words.level_phrase(bundle.evidence.level), bundle.evidence.level_reason]
    if bundle.evidence.fake_device:
        limits.append("fake device: nothing was measured on hardware")
    if source.build and source.build.data_note:
        limits.append(source.build.data_note)
    considerations: Plain = {"technicalLimitations": [words.full_stop(words.first_upper(one)) for one in limits if one]}
    if assessments := list(_assessments(bundle)):
        considerations["fairnessAssessments"] = assessments
    card: Plain = {}
    if isinstance(bundle, TargetBundle):
        card["modelParameters"] = {"approach": {"type": "supervised"}, "task": bundle.spec.task}
    return {
        **card,
        "quantitativeAnalysis": {"performanceMetrics": list(_metrics(bundle))},
        "considerations": considerations,
    }


def _metrics(bundle: Bundle) -> Iterable[Plain]:
    """Yield every number over all contexts; those within one stand in the JSON document."""
    evidence = bundle.evidence
    for rate in evidence.rates:
        if not rate.context:
            name = f"{rate.metric} against {rate.against}" if rate.against else rate.metric
            yield _metric(name, rate.value, rate.group, rate.interval)
    for gap in evidence.gaps:
        yield _metric(gap.metric, gap.value, {gap.attribute: "*"}, gap.interval)
    changes: list[Change | Shift] = [*evidence.changes, *evidence.shifts]
    for change in changes:
        if not change.context:
            name = f"change of {change.metric} against {change.against}"
            yield _metric(name, change.change, change.group, change.interval)
    for name, value in (evidence.latency.percentiles if evidence.latency else {}).items():
        assert evidence.latency is not None
        yield _metric(f"latency_{name}_ms", value, {}, evidence.latency.intervals.get(name))


def _metric(name: str, value: float | None, group: Group, interval: Interval | None) -> Plain:
    metric: Plain = {"type": name, "value": "undefined" if value is None else repr(value)}
    if group:
        metric["slice"] = words.group_name(group)
    if interval is not None:
        metric["confidenceInterval"] = {"lowerBound": repr(interval.lower), "upperBound": repr(interval.upper)}
    return metric


def _assessments(bundle: Bundle) -> Iterable[Plain]:
    """Yield an assessment per group that a fairness gate looked at; what does not pass is its harm."""
    groups: dict[str, list[Any]] = {}
    for cell in bundle.verdict.cells:
        if words.is_fairness(cell):
            groups.setdefault(words.group_name({**cell.group, **cell.context}), []).append(cell)
    for name, cells in groups.items():
        harms = [cell.reason for cell in cells if outcome(cell) != "pass"]
        passing = sum(outcome(cell) == "pass" for cell in cells)
        waivers = [words.waiver(cell) for cell in cells if cell.waiver]
        yield {
            "groupAtRisk": name,
            "harms": " ".join(harms) or "None that these gates look for was found.",
            "mitigationStrategy": " ".join([f"{passing} of {len(cells)} gates pass.", *waivers]),
        }
