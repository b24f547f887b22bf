"""SARIF 2.1.0 (OASIS): a rule per gate, a result per cell that does not pass, at the line that set the gate.

A cell that blocks is an error where it failed and a warning where the evidence does not suffice; one that is waived or
only reported is a note. A waiver is a suppression with its justification. Places are relative to the checkout's root,
``%SRCROOT%`` (section 3.14.14), which is left to whoever reads the log.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fairdeploy import __version__
from fairdeploy.gates import CellVerdict, Verdict
from fairdeploy.records import digest
from fairdeploy.report import words
from fairdeploy.report.outcome import Outcome, blocks_without_cell, outcome
from fairdeploy.report.source import Source

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
LEVEL: dict[Outcome, str] = {"fail": "error", "open": "warning", "waived": "note", "noted": "note"}
NO_GATE = "verdict"
ROOT = "%SRCROOT%"


def render_sarif(source: Source) -> str:
    """Return what does not pass as a SARIF log."""
    cells = {cell.rule: cell for verdict in source.verdicts for cell in verdict.cells}
    rules = [{"id": name, "shortDescription": {"text": _about(cell)}} for name, cell in cells.items()]
    if any(blocks_without_cell(verdict) for verdict in source.verdicts):
        rules.append({"id": NO_GATE, "shortDescription": {"text": "A gate that must hold is set, and was judged"}})
    index = {rule["id"]: at for at, rule in enumerate(rules)}
    driver = {
        "name": "fairdeploy",
        "version": __version__,
        "semanticVersion": __version__,
        "informationUri": "https://github.com/fairdeploy/fairdeploy",
        "rules": rules,
    }
    results = [
        {**one, "ruleIndex": index[one["ruleId"]]} for verdict in source.verdicts for one in _results(source, verdict)
    ]
    run = {
        "tool": {"driver": driver},
        "originalUriBaseIds": {ROOT: {"description": {"text": "The folder that the report was made in"}}},
        "columnKind": "unicodeCodePoints",
        "results": results,
    }
    document = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _about(cell: CellVerdict) -> str:
    return words.first_upper(f"{words.metric_name(cell.metric)} is {words.allowed(cell)}")


def _results(source: Source, verdict: Verdict) -> Iterable[dict[str, Any]]:
    for cell in verdict.cells:
        if outcome(cell) != "pass":
            yield _result(source, verdict.target, cell)
    if blocks_without_cell(verdict):
        yield {
            "ruleId": NO_GATE,
            "level": "error" if verdict.status == "fail" else "warning",
            "message": {"text": verdict.sentence},
            "locations": [_location(source.config, 1)],
            "partialFingerprints": {"fairdeployCell/v1": digest([verdict.target, NO_GATE])},
        }


def _result(source: Source, target: str, cell: CellVerdict) -> dict[str, Any]:
    known = {"target": target, "group": cell.group, "context": cell.context}
    numbers = {name: getattr(cell, name) for name in ("status", "bound", "value", "lower", "upper", "unit", "n")}
    identity = [target, cell.rule, cell.group, cell.context, cell.bound]
    result: dict[str, Any] = {
        "ruleId": cell.rule,
        "level": LEVEL[outcome(cell)],
        "message": {"text": f"{words.STATUS_WORD[cell.status]} on {words.target_name(target)}. {cell.reason}"},
        "partialFingerprints": {"fairdeployCell/v1": digest(identity)},
        "properties": {**known, **numbers, "rows_needed": cell.rows_needed},
    }
    file, _, line = cell.where.rpartition(":")
    if file and line.isdecimal() and int(line) > 0:
        result["locations"] = [_location(source.config.parent / file, int(line))]
    if cell.waiver is not None:
        suppression = {"kind": "external", "status": "accepted", "justification": words.waiver(cell)}
        result["suppressions"] = [suppression]
    return result


def _location(file: Path, line: int) -> dict[str, Any]:
    """Point at a line; a file outside the root by its whole path."""
    known = {"uri": file.as_uri()} if file.is_absolute() else {"uri": quote(file.as_posix()), "uriBaseId": ROOT}
    return {"physicalLocation": {"artifactLocation": known, "region": {"startLine": line}}}
