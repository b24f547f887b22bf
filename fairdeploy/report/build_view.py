"""What all targets of a build share, shaped for the page: the trade-off, the widths, the group counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fairdeploy.bundle import BuildRecord, CandidateRecord, LayerWidths
from fairdeploy.report import build_charts
from fairdeploy.report.service import ServiceView, service_view
from fairdeploy.report.training import CourseView, course_view


@dataclass(frozen=True)
class TradeOff:
    """The candidates of a build: MACs kept against the accuracy of the worst group."""

    chart: build_charts.Scatter
    points: tuple[tuple[CandidateRecord, build_charts.ScatterPoint], ...]


@dataclass(frozen=True)
class Widths:
    """Channels per layer before and after compaction."""

    height: float
    rows: tuple[tuple[str, int, int, build_charts.WidthRow], ...]


@dataclass(frozen=True)
class CountTable:
    """Rows per group and split of one attribute."""

    attribute: str
    splits: tuple[str, ...]
    rows: tuple[tuple[str, tuple[int | None, ...]], ...]


def trade_off(build: BuildRecord) -> TradeOff | None:
    """Lay out the candidates; None when there was nothing to choose from."""
    if not build.candidates:
        return None
    points = [(one.macs_share, one.worst_group_accuracy) for one in build.candidates]
    chart = build_charts.scatter(
        points, [max(one.name + ", chosen", "99.9, " + one.worst_group, key=len) for one in build.candidates]
    )
    return TradeOff(chart, tuple(zip(build.candidates, chart.points, strict=True)))


def widths(build: BuildRecord) -> Widths | None:
    """Lay out the channels of every coupled group; None when nothing was removed."""
    if build.compaction is None or not build.compaction.layers:
        return None
    return layer_widths(build.compaction.layers)


def layer_widths(layers: Sequence[LayerWidths]) -> Widths:
    """Lay out channels before and after."""
    height, marks = build_charts.width_bars([(one.before, one.after) for one in layers])
    rows = ((one.group, one.before, one.after, mark) for one, mark in zip(layers, marks, strict=True))
    return Widths(height, tuple(rows))


def courses(build: BuildRecord) -> list[CourseView]:
    """Lay out the trainings under constraints that the chosen network went through."""
    return [course_view(one) for one in build.courses]


def service(build: BuildRecord) -> ServiceView | None:
    """Lay out which channels serve whom; None where the project did not ask for it."""
    return None if build.serves is None else service_view(build.serves.before, build.serves.after)


def count_tables(build: BuildRecord) -> list[CountTable]:
    """Return rows per group and split, one table per attribute; a missing count is None."""
    counts = {(one.attribute, one.level, one.split): one.rows for one in build.group_counts}
    splits = tuple(dict.fromkeys(one.split for one in build.group_counts))
    tables = []
    for attribute in dict.fromkeys(one.attribute for one in build.group_counts):
        levels = dict.fromkeys(one.level for one in build.group_counts if one.attribute == attribute)
        rows = ((level, tuple(counts.get((attribute, level, split)) for split in splits)) for level in levels)
        tables.append(CountTable(attribute, splits, tuple(rows)))
    return tables
