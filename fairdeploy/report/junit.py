"""JUnit XML for continuous integration: a suite per target and one over all of them, a cell is a test case.

A failed cell is a failure; one without enough evidence, or undefined, is an error, so that a run goes red on either. A
waived cell, and one that is only reported, is skipped and says why. Follows Jenkins' schema of the format.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from fairdeploy.evidence.records import EvidenceRecord
from fairdeploy.gates import CellVerdict, Verdict
from fairdeploy.report import words
from fairdeploy.report.outcome import Outcome, blocks_without_cell, outcome
from fairdeploy.report.source import Source

TAG: dict[Outcome, str] = {"fail": "failure", "open": "error", "waived": "skipped", "noted": "skipped"}
FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, section 2.2


def render_junit(source: Source) -> str:
    """Return the verdicts as a JUnit XML document."""
    evidence = {bundle.verdict.target: bundle.evidence for bundle in source.bundles}
    suites = [_suite(verdict, evidence.get(verdict.target)) for verdict in source.verdicts]
    root = ElementTree.Element("testsuites", name=_text(source.title))
    for count in ("tests", "failures", "errors"):
        root.set(count, str(sum(int(suite.get(count, "0")) for suite in suites)))
    root.extend(suites)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _suite(verdict: Verdict, evidence: EvidenceRecord | None) -> ElementTree.Element:
    suite = ElementTree.Element("testsuite", name=_text(words.target_name(verdict.target)))
    properties = ElementTree.SubElement(suite, "properties")
    facts = {
        "verdict": verdict.status,
        "sentence": verdict.sentence,
        "evidence digest": verdict.evidence_digest,
        "gates digest": verdict.gates_digest,
    }
    if evidence is not None:
        facts["evidence level"] = evidence.level or "none"
        facts["artifact digest"] = evidence.artifact_digest or "none"
    for name, value in facts.items():
        ElementTree.SubElement(properties, "property", name=name, value=_text(value))
    cases = [_case(verdict.target, cell) for cell in verdict.cells]
    if blocks_without_cell(verdict):
        case = ElementTree.Element("testcase", classname=_text(verdict.target), name="verdict")
        _say(case, "failure" if verdict.status == "fail" else "error", verdict.status, verdict.sentence)
        cases.append(case)
    suite.extend(cases)
    counts = {"failures": "failure", "errors": "error", "skipped": "skipped"}
    suite.set("tests", str(len(cases)))
    for count, tag in counts.items():
        suite.set(count, str(sum(case.find(tag) is not None for case in cases)))
    return suite


def _case(target: str, cell: CellVerdict) -> ElementTree.Element:
    name = f"{words.cell_name(cell)}: {words.allowed(cell)}"
    case = ElementTree.Element("testcase", classname=_text(f"{target}.{cell.rule}"), name=_text(name))
    found = outcome(cell)
    if found == "pass":
        return case
    place = f"\n{cell.where}" if cell.where else ""
    if found == "waived":
        _say(case, TAG[found], None, f"{words.waiver(cell)} {cell.reason}{place}")
    elif found == "noted":
        word = words.STATUS_WORD[cell.status].lower()
        _say(case, TAG[found], None, f"Only reported, it does not block ({word}): {cell.reason}{place}")
    else:
        _say(case, TAG[found], cell.status, f"{cell.reason}{place}")
    return case


def _say(case: ElementTree.Element, tag: str, kind: str | None, text: str) -> None:
    """Add an outcome to a case; a `skipped` has no attributes in the schema."""
    one = ElementTree.SubElement(case, tag)
    one.text = _text(text)
    if kind is not None:
        one.set("type", kind)
        one.set("message", _text(text.splitlines()[0] if text else ""))


def _text(text: str) -> str:
    """Replace what XML cannot hold, such as the colours in a runtime's last words."""
    return FORBIDDEN.sub("\ufffd", text)
