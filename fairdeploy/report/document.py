"""Everything as one JSON document with a schema version, and the JSON Schema of each file."""

from __future__ import annotations

import json
from typing import Any, Literal

from fairdeploy.bundle import BuildRecord, Bundle, Manifest, PredictionsRecord
from fairdeploy.errors import ConfigError
from fairdeploy.evidence.compliance import Compliance, compliance
from fairdeploy.evidence.records import EvidenceRecord
from fairdeploy.gates import Gates, Verdict
from fairdeploy.records import Record
from fairdeploy.report.source import Source
from fairdeploy.schemas import FILES, file_schema, head
from fairdeploy.yamlfile import nearest


class TargetDocument(Record):
    """One target's records."""

    manifest: Manifest
    gates: Gates
    verdict: Verdict
    evidence: EvidenceRecord
    compliance: Compliance


class ReportDocument(Record):
    """What `fairdeploy report --format json` writes."""

    schema_version: Literal[1] = 1
    build: BuildRecord | None
    targets: tuple[TargetDocument, ...]


RECORDS: dict[str, type[Record]] = {
    "build": BuildRecord,
    "evidence": EvidenceRecord,
    "gates": Gates,
    "manifest": Manifest,
    "predictions": PredictionsRecord,
    "report": ReportDocument,
    "verdict": Verdict,
}


def render_json(source: Source) -> str:
    """Return the build, and each target's evidence, verdict, gates and compliance figures, as JSON."""
    document = ReportDocument(build=source.build, targets=tuple(_target(bundle) for bundle in source.bundles))
    return json.dumps(document.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _target(bundle: Bundle) -> TargetDocument:
    return TargetDocument(
        manifest=bundle.manifest,
        gates=bundle.gates,
        verdict=bundle.verdict,
        evidence=bundle.evidence,
        compliance=compliance(bundle.evidence),
    )


def json_schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a record as it stands in a file, or of a file that people write.

    Raises
    ------
    ConfigError
        If there is no record of that name.
    """
    if name in FILES:
        return file_schema(name)
    if name not in RECORDS:
        raise ConfigError(f"no schema '{name}'{nearest(name, [*FILES, *RECORDS])}")
    return {**head(name), **RECORDS[name].model_json_schema(mode="serialization")}
