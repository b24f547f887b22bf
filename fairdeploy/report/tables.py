"""A table of texts that the page and Markdown show alike, and the table of waivers."""

from __future__ import annotations

from dataclasses import dataclass

from fairdeploy.gates.records import WaiverUse
from fairdeploy.report import words
from fairdeploy.report.source import Source

EFFECT = {
    "waives": "Waives its cell",
    "expired": "Expired: no effect",
    "unneeded": "Not needed",
    "unmatched": "Names no cell",
}


@dataclass(frozen=True)
class Table:
    """A table of texts; the first column names its row."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def waiver_table(source: Source) -> Table:
    """Return every waiver and what became of it, of all targets; without rows where there are none."""
    uses = [(verdict.target, use) for verdict in source.verdicts for use in verdict.waivers]
    waived = sum(use.effect == "waives" for _, use in uses)
    return Table(
        title=f"Waivers: {waived} of {len(uses)} in effect",
        note="A waived cell did not pass: a named person accepted it until a date. It is counted apart.",
        columns=("Cell", "Effect", "Who", "Until", "Why", "Note"),
        rows=tuple(_row(target, use) for target, use in uses),
    )


def _row(target: str, use: WaiverUse) -> tuple[str, ...]:
    one = use.waiver
    cell = ", ".join([target, one.rule, f"bound {one.bound:g}", words.group_name({**one.group, **one.context})])
    return cell, EFFECT[use.effect], one.approver, one.expires.isoformat(), one.reason, use.note
