"""Markdown: the verdict first, then the cells that decide, and every cell, the compliance view beneath a fold."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from fairdeploy.bundle import Bundle
from fairdeploy.gates import CellVerdict, Verdict
from fairdeploy.report import words
from fairdeploy.report.circumstances import reversals
from fairdeploy.report.compliance import ComplianceView, compliance_views
from fairdeploy.report.measures import measure_tables
from fairdeploy.report.source import Source
from fairdeploy.report.steps import next_steps
from fairdeploy.report.tables import Table, waiver_table
from fairdeploy.report.view import deciding_first

MOST_CELLS = 10
COLUMNS = ("", "Cell", "Found (bounds)", "Allowed", "n", "Why")
SPECIAL = re.compile(r"([\\`*_{}\[\]|#~])")
CONTROL = re.compile("[\x00-\x1f\x7f]")


def render_markdown(source: Source, *, folds: bool = True) -> str:
    """Return the report as GitHub-flavoured Markdown.

    Parameters
    ----------
    folds : bool
        Whether to add what stands beneath folds: every cell, and the compliance view.
    """
    lines = [f"# {_text(source.title)}: may it be released?", ""]
    for verdict in source.reading_order:
        lines += [f"- {_status(verdict.status)} **{_name(verdict)}** {_text(verdict.sentence)}"]
    if source.build:
        looks = words.first_upper(words.looks(source.build.attempts, source.build.gate_sets))
        lines += ["", f"{looks}."]
    for note in source.notes:
        lines += ["", _text(words.full_stop(note))]
    if source.across:
        lines += ["", f"## {_status(source.across.status)} {_name(source.across)}", *_cells(source.across, folds=folds)]
    for bundle in source.worst_first:
        lines += ["", *_target(bundle, folds=folds)]
    waivers = waiver_table(source)
    if waivers.rows:
        lines += ["", f"## {waivers.title}", "", waivers.note, "", *_text_table(waivers)]
    if folds:
        for view in compliance_views(source):
            lines += ["", *_fold(f"Compliance view: {view.target}", _compliance(view))]
        for bundle in source.worst_first:
            tables = measure_tables(bundle.evidence)
            title = f"Gaps, statistics, scores and flips: {bundle.verdict.target}"
            lines += ["", *_fold(title, _titled(tables))] if tables else []
    return "\n".join(lines) + "\n"


def _target(bundle: Bundle, *, folds: bool) -> Iterable[str]:
    verdict, evidence = bundle.verdict, bundle.evidence
    yield f"## {_status(verdict.status)} {_text(verdict.target)}"
    yield ""
    if evidence.fake_device:
        yield "**Fake device: a rehearsal. Nothing was measured on hardware.**"
        yield ""
    level = words.first_upper(words.level_phrase(evidence.level))
    yield _text(f"{level}. {words.full_stop(evidence.level_reason)}")
    yield from _cells(verdict, folds=folds)
    turned = reversals(evidence)
    if turned:
        yield ""
        yield "**Whole and parts disagree.**"
        yield from (f"- {_text(sentence)}" for sentence in turned)
    steps = next_steps(bundle)
    if steps:
        yield ""
        yield "**What to do next.**"
        for step in steps:
            yield f"- {_text(step.text)}"
            yield from (f"  - <code>{_text(command)}</code>" for command in step.commands)


def _cells(verdict: Verdict, *, folds: bool) -> Iterable[str]:
    cells = deciding_first(verdict.cells)
    deciding = [cell for cell in cells if cell.status != "pass"]
    if deciding:
        yield ""
        yield from _table(COLUMNS, [_cell(cell) for cell in deciding[:MOST_CELLS]])
        if len(deciding) > MOST_CELLS:
            yield ""
            yield f"and {len(deciding) - MOST_CELLS} more that do not pass."
    yield ""
    waived = sum(cell.status == "waived" for cell in cells)
    apart = f"; {waived} waived, counted apart" if waived else ""
    yield f"{sum(cell.status == 'pass' for cell in cells)} of {len(cells)} cells pass{apart}."
    if folds and cells:
        yield ""
        yield from _fold(
            f"Every cell of {words.target_name(verdict.target)}", _table(COLUMNS, [_cell(cell) for cell in cells])
        )


def _cell(cell: CellVerdict) -> tuple[str, ...]:
    needed = f", needs {words.count(cell.rows_needed)}" if cell.rows_needed is not None else ""
    return (
        _status(cell.status) + ("" if cell.required else " (only reported)"),
        _text(words.cell_name(cell)),
        words.found(cell),
        _text(words.allowed(cell)),
        f"{words.count(cell.n)}{needed}",
        _text(cell.reason),
    )


def _compliance(view: ComplianceView) -> Iterable[str]:
    yield from _table(("Field", "Value"), [(_text(name), _text(value)) for name, value in view.facts])
    yield from _titled(view.tables)


def _titled(tables: Iterable[Table]) -> Iterable[str]:
    for table in tables:
        yield ""
        yield f"**{_text(table.title)}.** {_text(table.note)}"
        yield ""
        yield from _text_table(table)


def _text_table(table: Table) -> Iterable[str]:
    return _table(table.columns, [tuple(map(_text, row)) for row in table.rows])


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterable[str]:
    yield _row(columns)
    yield _row(["---"] * len(columns))
    yield from map(_row, rows)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _fold(title: str, lines: Iterable[str]) -> Iterable[str]:
    yield f"<details><summary>{_plain(title)}</summary>"
    yield ""
    yield from lines
    yield ""
    yield "</details>"


def _name(verdict: Verdict) -> str:
    return _text(words.target_name(verdict.target))


def _status(status: str) -> str:
    return f"{words.STATUS_SHAPE[status]} {words.STATUS_WORD[status]}"  # type: ignore[index]


def _text(text: str) -> str:
    """Escape user text: on one line, no markup, no table border."""
    return SPECIAL.sub(r"\\\1", _plain(text))


def _plain(text: str) -> str:
    """Return user text for a line of HTML, where a backslash escapes nothing."""
    return CONTROL.sub("\ufffd", html.escape(" ".join(text.split()), quote=False))
