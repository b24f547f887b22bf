"""What a cell means for whoever waits for one answer: the same five words in JUnit, SARIF and Markdown."""

from __future__ import annotations

from typing import Literal

from fairdeploy.gates import CellVerdict, Verdict

Outcome = Literal["pass", "fail", "open", "waived", "noted"]


def outcome(cell: CellVerdict) -> Outcome:
    """Say what a cell does to the release.

    "fail" and "open" (not enough evidence, or undefined) block it; "waived" was accepted by a named person; "noted"
    does not pass but is only reported.
    """
    if cell.status in ("pass", "waived"):
        return "pass" if cell.status == "pass" else "waived"
    if not cell.required:
        return "noted"
    return "fail" if cell.status == "fail" else "open"


def blocks_without_cell(verdict: Verdict) -> bool:
    """Whether a verdict blocks a release although none of its cells does, as where no gate that must hold is set."""
    blocked = any(outcome(cell) in ("fail", "open") for cell in verdict.cells)
    return verdict.status not in ("pass", "waived") and not blocked
