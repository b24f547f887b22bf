"""Who is affected: the changes of each group, those that a gate looks at as dot plots, the others as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fairdeploy.bundle import Bundle
from fairdeploy.evidence.records import Change
from fairdeploy.gates import CellVerdict, Status
from fairdeploy.report import charts, words
from fairdeploy.report.circumstances import CHANGES
from fairdeploy.report.find import group_key
from fairdeploy.report.steps import too_small
from fairdeploy.report.view import MAIN_METRICS, harm

ALARMS = "false_positive_rate"
METRICS = (ALARMS, "true_positive_rate", "selection_rate", "accuracy")


@dataclass(frozen=True)
class GroupRow:
    """One group of a dot plot, its texts and its marks."""

    name: str
    n: int
    status: Status | None
    reference: str
    deployed: str
    change: str
    interval: str
    needs: str | None
    reason: str
    mark: charts.DotRow


@dataclass(frozen=True)
class GroupPlot:
    """Who is affected: one metric of one target against one reference."""

    metric: str
    question: str
    against: str
    allowed: str | None
    confidence: str
    chart: charts.DotPlot
    rows: tuple[GroupRow, ...]


@dataclass(frozen=True)
class UngatedCell:
    """One change that no gate looks at; `clear` when its interval excludes 0."""

    change: str
    interval: str
    n: str
    clear: bool


@dataclass(frozen=True)
class Ungated:
    """Changes against dense that no gate looks at, groups x metrics; `alarms` are the clear rises of false alarms."""

    metrics: tuple[str, ...]
    alarms: tuple[str, ...]
    rows: tuple[tuple[str, tuple[UngatedCell, ...]], ...]


def group_plots(bundle: Bundle) -> list[GroupPlot]:
    """Return a dot plot per gated change that has evidence; without one, the main metric against dense."""
    evidence = bundle.evidence
    changes = {(c.metric, c.against, group_key(c.group)): c for c in evidence.changes if not c.context}
    gated: dict[tuple[str, str, float], list[tuple[Change, CellVerdict | None]]] = {}
    for cell in bundle.verdict.cells:
        change = changes.get((cell.metric, cell.against or "dense", group_key(cell.group)))
        if cell.condition in CHANGES and cell.unit == "rate" and change:
            gated.setdefault((cell.rule, cell.where, cell.bound), []).append((change, cell))
    if gated:
        return [_group_plot(rows) for rows in gated.values()]
    for metric in MAIN_METRICS:
        rows = [(c, None) for c in changes.values() if c.metric == metric and c.against == "dense" and c.group]
        if rows:
            return [_group_plot(rows)]
    return []


def _group_plot(pairs: Sequence[tuple[Change, CellVerdict | None]]) -> GroupPlot:
    pairs = sorted(pairs, key=lambda pair: _harm(*pair))
    change, cell = pairs[0]
    chart = charts.dot_plot([_dot_values(*pair) for pair in pairs], (change.against, "deployed"))
    rows = tuple(_group_row(*pair, mark) for pair, mark in zip(pairs, chart.rows, strict=True))
    shown = next((one.interval for one, _ in pairs if one.interval), None)
    return GroupPlot(
        metric=words.metric_name(change.metric),
        question=words.METRIC_QUESTION.get(change.metric, words.metric_name(change.metric)),
        against=change.against,
        allowed=words.allowed(cell) if cell else None,
        confidence=f"{words.confidence(shown.confidence)} interval, {shown.method}" if shown else "no interval",
        chart=chart,
        rows=rows,
    )


def _dot_values(change: Change, cell: CellVerdict | None) -> charts.DotValues:
    reference, interval, allowed = change.reference, None, None
    if reference is not None and change.interval:
        interval = (reference + change.interval.lower, reference + change.interval.upper)
    if reference is not None and cell:
        allowed = (reference - cell.bound, 1.0) if cell.condition == "max_drop" else (0.0, reference + cell.bound)
    return charts.DotValues(reference, change.deployed, interval, allowed)


def _group_row(change: Change, cell: CellVerdict | None, mark: charts.DotRow) -> GroupRow:
    small = cell is not None and too_small(cell) and cell.status in ("inconclusive", "undefined")
    return GroupRow(
        name=words.group_name(change.group),
        n=change.n,
        status=cell.status if cell else None,
        reference=words.rate(change.reference),
        deployed=words.rate(change.deployed),
        change=words.change(change.change),
        interval=words.span(change.interval, signed=True),
        needs=f"needs {words.count(cell.rows_needed)}" if cell and small else None,
        reason=cell.reason if cell else "",
        mark=mark,
    )


def _harm(change: Change, cell: CellVerdict | None) -> tuple[bool, bool, float]:
    return harm(change, rises=cell.condition == "max_increase" if cell else change.metric.startswith("false_"))


def ungated(bundle: Bundle) -> Ungated | None:
    """Return the changes against dense that no gate looks at; None when there are none."""
    gated = {cell.metric for cell in bundle.verdict.cells if cell.condition in CHANGES and cell.against == "dense"}
    known = [one for one in bundle.evidence.changes if one.against == "dense" and not one.context]
    metrics = tuple(one for one in METRICS if one not in gated and any(change.metric == one for change in known))
    if not metrics:
        return None
    changes = {(one.metric, group_key(one.group)): one for one in known}
    rows = {group_key(one.group): one.group for one in known if len(one.group) < 2}
    clear = [one for one in known if one.metric == ALARMS and ALARMS in metrics and _clear(one) > 0]
    return Ungated(
        metrics=tuple(words.metric_name(one) for one in metrics),
        alarms=tuple(_alarm(one) for one in sorted(clear, key=lambda one: harm(one, rises=True))),
        rows=tuple(
            (words.group_name(group), tuple(_ungated_cell(changes.get((metric, key))) for metric in metrics))
            for key, group in rows.items()
        ),
    )


def _clear(change: Change) -> int:
    """Return the sign of a change whose interval excludes 0, else 0."""
    if change.interval is None:
        return 0
    return (change.interval.lower > 0) - (change.interval.upper < 0)


def _alarm(change: Change) -> str:
    shown, interval = words.change(change.change), words.span(change.interval, signed=True)
    return f"{words.group_name(change.group)} {shown} points ({interval})"


def _ungated_cell(change: Change | None) -> UngatedCell:
    if change is None:
        return UngatedCell(words.NONE, "", words.NONE, clear=False)
    interval = words.span(change.interval, signed=True)
    return UngatedCell(words.change(change.change), interval, words.count(change.n), clear=_clear(change) != 0)
