"""Accuracy against the gap between groups, drawn as SVG from the rows of `fair_tables`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from fair_tables import DENSE, PERCENT, Row, Setting, mean, rows_of, settings

from fairdeploy.errors import DataError

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56789a", "#7a3e9d", "#444444")
GAPS = ("equalized_odds_difference", "true_positive_rate_gap")
PANEL_PX = (440, 330)
LEFT_PX, TOP_PX, WIDTH_PX, HEIGHT_PX, LINE_PX = 62, 40, 253, 240, 15

Limits = tuple[float, float]


def plot(rows: Sequence[Row], name: str) -> str:
    """Draw one task: a panel per setting, methods labelled, the range over seeds as bars, the dense network hollow.

    Raises
    ------
    DataError
        If there are no rows of the task beside the dense networks'.
    """
    mine = [row for row in rows if row["task"] == name]
    panels = settings(mine)
    if not panels:
        raise DataError(f"no rows of the task '{name}' to plot")
    gap = next(one for one in GAPS if all(one in row for row in mine))
    limits = _limits([100 * row[gap] for row in mine]), _limits([100 * row["accuracy"] for row in mine])
    methods = list(dict.fromkeys(row["method"] for row in mine if row["method"] != DENSE))
    colours = {DENSE: "#000"} | {one: COLOURS[place % len(COLOURS)] for place, one in enumerate(methods)}
    columns = min(2, len(panels))
    width, height = columns * PANEL_PX[0], -(-len(panels) // columns) * PANEL_PX[1]
    drawn, said = [], []
    for place, setting in enumerate(panels):
        own = rows_of(mine, setting)
        at = f"{place % columns * PANEL_PX[0]} {place // columns * PANEL_PX[1]}"
        drawn.append(f'<g transform="translate({at})">\n{_panel(own, setting, gap, limits, colours)}\n</g>')
        said += [
            f"keep {setting[1]:g}, {setting[2]} epochs, {method}: {100 * mean(some, gap):.1f}, "
            f"{100 * mean(some, 'accuracy'):.1f}"
            for method, some in own.items()
        ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" aria-labelledby="title desc" font-family="sans-serif" font-size="12">\n'
        f'<title id="title">{escape(name)}: accuracy against {PERCENT[gap]}, percent</title>\n'
        f'<desc id="desc">Better is up and left. {escape(". ".join(said))}.</desc>\n'
        f'<rect width="{width}" height="{height}" fill="#fff"/>\n' + "\n".join(drawn) + "\n</svg>\n"
    )


def _limits(values: Sequence[float]) -> Limits:
    spare = 0.08 * (max(values) - min(values)) + 0.1
    return min(values) - spare, max(values) + spare


def _panel(
    methods: Mapping[str, Sequence[Row]],
    setting: Setting,
    gap: str,
    limits: tuple[Limits, Limits],
    colours: Mapping[str, str],
) -> str:
    right, bottom = LEFT_PX + WIDTH_PX, TOP_PX + HEIGHT_PX

    def x(value: float) -> float:
        return LEFT_PX + (value - limits[0][0]) / (limits[0][1] - limits[0][0]) * WIDTH_PX

    def y(value: float) -> float:
        return bottom - (value - limits[1][0]) / (limits[1][1] - limits[1][0]) * HEIGHT_PX

    parts = [
        f'<text x="{LEFT_PX}" y="{TOP_PX - 14}" font-weight="bold">keep {setting[1]:g}, {setting[2]} epochs</text>',
        f'<text x="{LEFT_PX + WIDTH_PX / 2}" y="{bottom + 36}" text-anchor="middle">{PERCENT[gap]}, %</text>',
        f'<text transform="translate(16 {TOP_PX + HEIGHT_PX / 2}) rotate(-90)" text-anchor="middle">accuracy, %</text>',
    ]
    for tick in _ticks(*limits[1]):
        parts.append(f'<path d="M{LEFT_PX} {y(tick):.1f}h{WIDTH_PX}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{LEFT_PX - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in _ticks(*limits[0]):
        parts.append(f'<path d="M{x(tick):.1f} {bottom}v4" stroke="#555"/>')
        parts.append(f'<text x="{x(tick):.1f}" y="{bottom + 18}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<path d="M{LEFT_PX} {TOP_PX}V{bottom}H{right}" fill="none" stroke="#555"/>')
    points = []
    for method, own in methods.items():
        across, up = [x(100 * row[gap]) for row in own], [y(100 * row["accuracy"]) for row in own]
        here, colour = (float(np.mean(across)), float(np.mean(up))), colours[method]
        parts.append(
            f'<path d="M{min(across):.1f} {here[1]:.1f}H{max(across):.1f}M{here[0]:.1f} {min(up):.1f}V{max(up):.1f}" '
            f'stroke="{colour}" stroke-opacity="0.5" stroke-width="2"/><circle cx="{here[0]:.1f}" cy="{here[1]:.1f}" '
            f'r="4.5" stroke="{colour}" stroke-width="1.5" fill="{"#fff" if method == DENSE else colour}"/>'
        )
        points.append((here[1], here[0], method))
    text = float(TOP_PX - LINE_PX)
    for number, (down, across_px, method) in enumerate(sorted(points)):
        lowest = bottom - LINE_PX * (len(points) - 1 - number)
        text = max(text + LINE_PX, min(down, lowest))
        parts.append(
            f'<path d="M{across_px + 5:.1f} {down:.1f}L{right + 6} {text:.1f}" stroke="{colours[method]}" '
            f'stroke-opacity="0.6" stroke-dasharray="1 3"/><text x="{right + 9}" y="{text + 4:.1f}" '
            f'fill="{colours[method]}">{escape(method)}</text>'
        )
    return "\n".join(parts)


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers between two, at least three of them."""
    step = 10 ** math.floor(math.log10(high - low))
    step *= next(share for share in (1, 0.5, 0.2) if (high - low) / (step * share) >= 4)
    return [round(step * place, 10) for place in range(math.ceil(low / step), math.floor(high / step) + 1)]
