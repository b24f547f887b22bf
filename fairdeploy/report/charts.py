"""Where the marks of a chart go: layout arithmetic over numbers that come from the records.

Every chart is 360 units wide, the width of a phone, so that its text keeps its size there; on a wide screen charts
stand side by side. Lengths are in those units, with y downwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from fairdeploy.report import words

WIDTH = 360.0
LEFT, RIGHT = 10.0, 350.0


@dataclass(frozen=True)
class Tick:
    """One tick of an axis."""

    at: float
    label: str


@dataclass(frozen=True)
class Axis:
    """A linear axis from `low` to `high` in data units, drawn from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[Tick, ...]

    def at(self, value: float) -> float:
        """Return where a value is drawn; one beyond the axis at its end."""
        value = min(max(value, self.low), self.high)
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 2)


def axis(
    values: Sequence[float], start: float, end: float, *, least: float, limits: tuple[float, float] | None = None
) -> Axis:
    """Return an axis with round ticks around values.

    Parameters
    ----------
    values : sequence of float
        What must fit.
    start, end : float
        Where it is drawn.
    least : float
        Smallest span, above 0, so that noise does not look like a fall.
    limits : pair of float, optional
        Bounds that the axis never passes, as 0 and 1 for rates.
    """
    low, high = min(values), max(values)
    missing = max(least - (high - low), 0.0)
    low, high = low - missing / 2, high + missing / 2
    step = _round_step(high - low)
    low, high = step * floor(low / step + 1e-9), step * ceil(high / step - 1e-9)
    if limits:
        low, high = max(low, limits[0]), min(high, limits[1])
    count = round((high - low) / step)
    ticks = [low + index * step for index in range(count + 1) if low + index * step <= high + 1e-9]
    made = Axis(low, high, start, end, ())
    places = max(0, -floor(log10(step * 100) + 1e-9))
    return Axis(low, high, start, end, tuple(Tick(made.at(t), words.number(100 * t, places)) for t in ticks))


def _round_step(span: float) -> float:
    rough = span / 4
    power = 10.0 ** floor(log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


@dataclass(frozen=True)
class Label:
    """A text with the side it grows from."""

    at: float
    anchor: str
    text: str


@dataclass(frozen=True)
class DotRow:
    """One group of a dot plot: before, after, interval and what is allowed; None where evidence has none.

    `limit` is the end of the band that the gate set, None where it lies beyond the axis.
    `cut` says whether the interval goes on beyond the left and the right end of the axis.
    """

    y: float
    before: float | None
    after: float | None
    low: float | None
    high: float | None
    band: tuple[float, float] | None
    limit: float | None
    labels: tuple[Label, ...]
    cut: tuple[bool, bool]


@dataclass(frozen=True)
class DotPlot:
    """A dot plot."""

    height: float
    axis: Axis
    rows: tuple[DotRow, ...]


@dataclass(frozen=True)
class DotValues:
    """What one row of a dot plot shows, as fractions; `allowed` is the range that the gate allows."""

    before: float | None
    after: float | None
    interval: tuple[float, float] | None
    allowed: tuple[float, float] | None


ROW_HEIGHT, LABEL_HEIGHT = 56.0, 16.0


def dot_plot(rows: Sequence[DotValues], names: tuple[str, str]) -> DotPlot:
    """Lay out a dot plot; the first row that has both dots gets their `names` as direct labels.

    A row whose interval is over four times as wide as usual does not set the axis; it is cut there.
    """
    lengths = sorted(row.interval[1] - row.interval[0] for row in rows if row.interval)
    usual = lengths[len(lengths) // 2] if lengths else 0.0
    wanted = [row for row in rows if not row.interval or row.interval[1] - row.interval[0] <= 4 * usual] or list(rows)
    values = [value for row in wanted for value in (row.before, row.after) if value is not None]
    values += [value for row in wanted if row.interval for value in row.interval]
    values += [value for row in wanted if row.allowed for value in row.allowed if 0 < value < 1]
    across = axis(values or [0.0, 1.0], LEFT, RIGHT, least=0.02, limits=(0.0, 1.0))
    drawn, y, labelled = [], 0.0, False
    for row in rows:
        before = None if row.before is None else across.at(row.before)
        after = None if row.after is None else across.at(row.after)
        labels: tuple[Label, ...] = ()
        if not labelled and before is not None and after is not None:
            labels, labelled = _two_labels(before, after, names), True
        low, high = (across.at(row.interval[0]), across.at(row.interval[1])) if row.interval else (None, None)
        band = (across.at(row.allowed[0]), across.at(row.allowed[1])) if row.allowed else None
        ends = [end for end in row.allowed or () if 0 < end < 1 and across.low - 1e-9 <= end <= across.high + 1e-9]
        limit = across.at(ends[0]) if ends else None
        inner = row.interval or (across.low, across.high)
        cut = (inner[0] < across.low - 1e-9, inner[1] > across.high + 1e-9)
        drawn.append(DotRow(y, before, after, low, high, band, limit, labels, cut))
        y += ROW_HEIGHT + (LABEL_HEIGHT if labels else 0)
    return DotPlot(y + 38, across, tuple(drawn))


def _two_labels(before: float, after: float, names: tuple[str, str]) -> tuple[Label, ...]:
    """Put the left dot's name to its left and the right one's to its right, inside the chart."""
    (left, left_name), (right, right_name) = sorted([(before, names[0]), (after, names[1])], key=lambda pair: pair[0])
    width_left, width_right = 6.5 * len(left_name), 6.5 * len(right_name)
    left = max(left + 6, LEFT + width_left)
    right = min(max(right - 6, left + 8), RIGHT - width_right)
    return Label(min(left, right - 8), "end", left_name), Label(right, "start", right_name)


@dataclass(frozen=True)
class SlopePoint:
    """One stage of one group."""

    x: float
    y: float
    label: str


@dataclass(frozen=True)
class SlopeRow:
    """One group over the stages; `flat` is the x of the segment where removal changed nothing."""

    y: float
    base: float
    points: tuple[SlopePoint, ...]
    path: str
    flat: tuple[float, float, float] | None


@dataclass(frozen=True)
class SlopeChart:
    """Groups over stages, all rows on one scale."""

    height: float
    stages: tuple[Tick, ...]
    rows: tuple[SlopeRow, ...]


SLOPE_TOP, SLOPE_PLOT = 26.0, 34.0


def slope_chart(
    stages: Sequence[str],
    rows: Sequence[tuple[Sequence[float | None], Sequence[str]]],
    lossless: tuple[str, str] = ("pruned", "compact"),
) -> SlopeChart:
    """Lay out one small slope chart per group.

    Parameters
    ----------
    stages : sequence of str
    rows : sequence of (rates, labels)
        Rate and text per stage; a None is skipped.
    lossless : pair of str
        The two stages between which nothing may change.
    """
    first, last = 30.0, WIDTH - 30
    xs = [first + index * (last - first) / max(len(stages) - 1, 1) for index in range(len(stages))]
    spans = [max(known) - min(known) for rates, _ in rows if (known := [r for r in rates if r is not None])]
    scale = SLOPE_PLOT / max([*spans, 0.02])
    drawn, top = [], SLOPE_TOP
    for rates, texts in rows:
        known = [rate for rate in rates if rate is not None]
        high = max(known, default=0.0)
        points = tuple(
            SlopePoint(round(x, 1), round(top + 26 + (high - rate) * scale, 2), text)
            for x, rate, text in zip(xs, rates, texts, strict=True)
            if rate is not None
        )
        by_stage = dict(zip(stages, rates, strict=True))
        flat = None
        if all(by_stage.get(name) is not None for name in lossless) and by_stage[lossless[0]] == by_stage[lossless[1]]:
            a, b = (round(xs[list(stages).index(name)], 1) for name in lossless)
            flat = (a, b, next(point.y for point in points if point.x == b))
        path = " ".join(f"{'L' if n else 'M'}{point.x} {point.y}" for n, point in enumerate(points))
        drawn.append(SlopeRow(round(top, 2), points[0].y if points else top + 26, points, path, flat))
        top += 68 + (max(known) - min(known) if known else 0) * scale
    ticks = tuple(Tick(round(x, 1), stage) for x, stage in zip(xs, stages, strict=True))
    return SlopeChart(round(top, 2), ticks, tuple(drawn))
