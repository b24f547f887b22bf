"""Records shaped into the rows that the page shows; nothing is computed but where things are drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fairdeploy.bundle import Bundle
from fairdeploy.evidence.records import Change, EvidenceRecord, Group, Rate
from fairdeploy.gates import CellVerdict, Status, nearness
from fairdeploy.report import charts, words
from fairdeploy.report.steps import Step, next_steps

CHANGES = ("max_drop", "max_increase")
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


def worst_first(bundles: Iterable[Bundle]) -> list[Bundle]:
    """Return the bundles in the order of reading: what blocks a release first."""
    return sorted(bundles, key=lambda bundle: words.WORST_FIRST.index(bundle.verdict.status))


def deciding_first(cells: Iterable[CellVerdict]) -> list[CellVerdict]:
    """Return cells with the worst verdicts first, a required one before one that is only reported, then the nearest."""
    return sorted(cells, key=lambda cell: (words.WORST_FIRST.index(cell.status), not cell.required, -nearness(cell)))


def target_view(bundle: Bundle) -> TargetView:
    """Shape one target for the verdict list."""
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
        steps=next_steps(bundle),
        tally=tuple((one, statuses.count(one)) for one in words.WORST_FIRST if one in statuses),
    )


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


def context_rows(bundle: Bundle) -> list[Change]:
    """Return the changes within one context, as in dim light, of the metrics that are gated on a change."""
    gated = {(cell.metric, cell.against) for cell in bundle.verdict.cells if cell.condition in CHANGES}
    return [one for one in bundle.evidence.changes if one.context and (one.metric, one.against) in gated]


def find_change(evidence: EvidenceRecord, metric: str, against: str | None, group: Group) -> Change | None:
    """Return the change of one metric in one group over all contexts, if evidence has it."""
    wanted = (metric, against, group_key(group))
    return next(
        (c for c in evidence.changes if (c.metric, c.against, group_key(c.group)) == wanted and not c.context), None
    )


def find_rate(evidence: EvidenceRecord, metric: str, group: Group) -> Rate | None:
    """Return the rate of one metric in one group over all contexts, if evidence has it."""
    wanted = (metric, group_key(group))
    return next((r for r in evidence.rates if (r.metric, group_key(r.group)) == wanted and not r.context), None)


def group_key(group: Group) -> tuple[tuple[str, str], ...]:
    """Return a group as a key: equal for equal groups, in whatever order they were written."""
    return tuple(sorted(group.items()))
