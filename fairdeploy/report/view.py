"""Records shaped into the rows that the page shows; nothing is computed but where things are drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fairdeploy.bundle import Bundle
from fairdeploy.evidence.records import Change, Group, Rate
from fairdeploy.gates import CellVerdict, Status, Verdict, nearness
from fairdeploy.report import charts, words
from fairdeploy.report.circumstances import CHANGES
from fairdeploy.report.find import find_change, group_key
from fairdeploy.report.steps import Step, next_steps

MAIN_METRICS = ("true_positive_rate", "accuracy")


@dataclass(frozen=True)
class TargetView:
    """One target in the verdict list."""

    id: str
    status: Status
    sentence: str
    level: str
    level_reason: str
    measured: bool
    fake: bool
    failure: str | None
    steps: tuple[Step, ...]
    tally: tuple[tuple[Status, int], ...]


@dataclass(frozen=True)
class StageRow:
    """One group over the stages, its texts and its marks."""

    name: str
    status: Status | None
    first: str
    last: str
    cells: tuple[str, ...]
    mark: charts.SlopeRow


@dataclass(frozen=True)
class StagePlot:
    """Where it happened: one metric of one target over the stages."""

    metric: str
    stages: tuple[str, ...]
    lossless: bool | None
    chart: charts.SlopeChart
    rows: tuple[StageRow, ...]


@dataclass(frozen=True)
class MatrixCell:
    """One group on one target; `status` is None where nothing was judged."""

    status: Status | None
    change: str
    interval: str


@dataclass(frozen=True)
class Matrix:
    """Groups × targets for one gated change."""

    title: str
    targets: tuple[str, ...]
    rows: tuple[tuple[str, tuple[MatrixCell, ...]], ...]


def deciding_first(cells: Iterable[CellVerdict]) -> list[CellVerdict]:
    """Return cells with the worst verdicts first, a required one before one that is only reported, then the nearest."""
    return sorted(cells, key=lambda cell: (words.WORST_FIRST.index(cell.status), not cell.required, -nearness(cell)))


def target_view(bundle: Bundle, *, flags: str = "") -> TargetView:
    """Shape one target for the verdict list; `flags` name the project to the commands of its next steps."""
    evidence, verdict = bundle.evidence, bundle.verdict
    statuses = [cell.status for cell in verdict.cells]
    return TargetView(
        id=verdict.target,
        status=verdict.status,
        sentence=verdict.sentence,
        level=words.level_phrase(evidence.level),
        level_reason=evidence.level_reason,
        measured=evidence.level == "device",
        fake=evidence.fake_device or bundle.manifest.fake_device,
        failure=evidence.failure,
        steps=next_steps(bundle, flags=flags),
        tally=_tally(statuses),
    )


def across_view(verdict: Verdict) -> TargetView:
    """Shape the verdict over all targets for the verdict list; what mends it stands with each target."""
    statuses = [cell.status for cell in verdict.cells]
    return TargetView(
        id=words.target_name(verdict.target),
        status=verdict.status,
        sentence=verdict.sentence,
        level="",
        level_reason="",
        measured=True,
        fake=False,
        failure=None,
        steps=(),
        tally=_tally(statuses),
    )


def _tally(statuses: Sequence[Status]) -> tuple[tuple[Status, int], ...]:
    return tuple((one, statuses.count(one)) for one in words.WORST_FIRST if one in statuses)


def harm(change: Change | None, *, rises: bool) -> tuple[bool, bool, float]:
    """Sort key: the most harmed group first, an unknown change after all groups, everyone last."""
    if change is None or change.change is None:
        return (change is not None and not change.group, True, 0.0)
    return (not change.group, False, -change.change if rises else change.change)


def stage_plots(bundle: Bundle) -> list[StagePlot]:
    """Return a slope chart per metric that is gated on a change; without one, for the main metric."""
    evidence = bundle.evidence
    if not evidence.stages:
        return []
    known = {rate.metric for stage in evidence.stages for rate in stage.rates}
    gated = {cell.metric: None for cell in bundle.verdict.cells if cell.condition in CHANGES and cell.metric in known}
    metrics = list(gated) or [metric for metric in MAIN_METRICS if metric in known][:1]
    return [_stage_plot(bundle, metric) for metric in metrics]


def _stage_plot(bundle: Bundle, metric: str) -> StagePlot:
    stages = bundle.evidence.stages
    names = tuple(stage.stage for stage in stages)
    rates = [{group_key(r.group): r for r in stage.rates if r.metric == metric and not r.context} for stage in stages]
    changes = [
        {group_key(c.group): c for c in stage.changes if c.metric == metric and c.against == "dense" and not c.context}
        for stage in stages
    ]
    groups = [rate.group for rate in rates[0].values() if rate.group]
    worst = {group_key(c.group): c.status for c in reversed(deciding_first(bundle.verdict.cells)) if c.metric == metric}
    groups.sort(key=lambda group: harm(changes[-1].get(group_key(group)), rises=metric.startswith("false_")))
    values = [[_value(rate.get(group_key(group))) for rate in rates] for group in groups]
    texts = [
        tuple(
            words.rate(_value(rate.get(group_key(group))))
            if name == "dense"
            else _change_text(change.get(group_key(group)))
            for name, rate, change in zip(names, rates, changes, strict=True)
        )
        for group in groups
    ]
    chart = charts.slope_chart(names, list(zip(values, texts, strict=True)))
    rows = tuple(
        StageRow(
            name=words.group_name(group),
            status=worst.get(group_key(group)),
            first=words.percent(value[0]),
            last=words.percent(value[-1]),
            cells=tuple(words.rate(one) for one in value),
            mark=mark,
        )
        for group, value, mark in zip(groups, values, chart.rows, strict=True)
    )
    both = {"pruned", "compact"} <= set(names)
    lossless = all(row.mark.flat for row in rows) if both and rows else None
    return StagePlot(words.metric_name(metric), names, lossless, chart, rows)


def _value(rate: Rate | None) -> float | None:
    return rate.value if rate else None


def _change_text(change: Change | None) -> str:
    return words.change(change.change if change else None)


def matrices(bundles: Sequence[Bundle]) -> list[Matrix]:
    """Return groups × targets for every gated change; a cell is the worst verdict of its rules."""
    kinds: dict[tuple[str, str | None, str], dict[tuple[tuple[str, str], ...], Group]] = {}
    for bundle in bundles:
        for cell in bundle.verdict.cells:
            if cell.condition in CHANGES and cell.unit == "rate":
                kinds.setdefault((cell.metric, cell.against, cell.condition), {})[group_key(cell.group)] = cell.group
    return [
        Matrix(
            title=f"Change of the {words.metric_name(metric)} against {against}, in points",
            targets=tuple(bundle.verdict.target for bundle in bundles),
            rows=tuple(
                (words.group_name(group), tuple(_matrix_cell(b, metric, against, condition, group) for b in bundles))
                for group in groups.values()
            ),
        )
        for (metric, against, condition), groups in kinds.items()
    ]


def _matrix_cell(bundle: Bundle, metric: str, against: str | None, condition: str, group: Group) -> MatrixCell:
    cells = [
        cell
        for cell in bundle.verdict.cells
        if (cell.metric, cell.against, cell.condition, cell.group) == (metric, against, condition, group)
    ]
    change = find_change(bundle.evidence, metric, against, group)
    return MatrixCell(
        status=deciding_first(cells)[0].status if cells else None,
        change=words.change(change.change) if change else "not measured",
        interval=words.span(change.interval, signed=True) if change and change.interval else "",
    )
