"""Where the marks of a build's charts go: candidates as a scatter plot, channels as bars; units as in `charts`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fairdeploy.report.charts import RIGHT, WIDTH, Axis, axis


@dataclass(frozen=True)
class ScatterPoint:
    """One candidate; the first line of its label stands at (`label_x`, `label_y`)."""

    x: float
    y: float
    label_x: float
    label_y: float
    anchor: str


@dataclass(frozen=True)
class Scatter:
    """Cost from zero against worst-group accuracy."""

    height: float
    across: Axis
    up: Axis
    points: tuple[ScatterPoint, ...]


Box = tuple[float, float, float, float]


def scatter(points: Sequence[tuple[float, float]], labels: Sequence[str]) -> Scatter:
    """Lay out points of (cost as a fraction, rate), each with a label of two lines that covers nothing else.

    Parameters
    ----------
    points : sequence of pair of float
    labels : sequence of str
        The longer line of each label.
    """
    across = axis([0.0, 1.0], 44.0, RIGHT - 6, least=1.0, limits=(0.0, 1.0))
    up = axis([y for _, y in points], 228.0, 36.0, least=0.04, limits=(0.0, 1.0))
    places = [(across.at(x), up.at(y)) for x, y in points]
    taken: list[Box] = [(x - 11, y - 11, x + 11, y + 11) for x, y in places]
    made = []
    for (x, y), label in zip(places, labels, strict=True):
        spot, box = _free_spot(x, y, 6.4 * len(label), taken)
        taken.append(box)
        made.append(spot)
    return Scatter(270.0, across, up, tuple(made))


def _free_spot(x: float, y: float, width: float, taken: Sequence[Box]) -> tuple[ScatterPoint, Box]:
    """Return the place for a label, beside, below or above its point, that covers the least."""
    best: tuple[float, ScatterPoint, Box] | None = None
    for down in (0.0, 32.0, -32.0, 20.0, -20.0, 46.0, -46.0):
        for anchor, left in (("start", x + 14), ("end", x - 14 - width), ("middle", x - width / 2)):
            box = (left, y + down - 14, left + width, y + down + 16)
            inside = left >= 46 and left + width <= WIDTH and box[1] >= 14 and box[3] <= 228
            cost = sum(_overlap(box, other) for other in taken) + (0.0 if inside else 1e6) + abs(down) / 1e3
            at = {"start": left, "end": left + width, "middle": x}[anchor]
            if best is None or cost < best[0]:
                best = (cost, ScatterPoint(x, y, round(at, 1), round(y + down - 1, 1), anchor), box)
    assert best is not None
    return best[1], best[2]


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


@dataclass(frozen=True)
class WidthRow:
    """Channels of one layer before (outline) and after (filled)."""

    y: float
    before: float
    after: float


def width_bars(layers: Sequence[tuple[int, int]]) -> tuple[float, tuple[WidthRow, ...]]:
    """Lay out bars of channels from zero; returns the height and the rows."""
    most = max((before for before, _ in layers), default=1)
    scale = 290.0 / most
    rows = tuple(
        WidthRow(4 + 40.0 * index, round(before * scale, 1), round(after * scale, 1))
        for index, (before, after) in enumerate(layers)
    )
    return 4 + 40.0 * len(layers), rows
