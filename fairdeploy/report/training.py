"""A picture of a training under constraints: values against their limits, multipliers, loss and what is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fairdeploy.bundle import ConstraintCourse, TrainingCourse
from fairdeploy.report import charts, words
from fairdeploy.report.html import environment
from fairdeploy.report.tables import Table

TITLED, UNTITLED, HEADER, LEFT, GAP, AXIS = 46.0, 20.0, 38.0, 44.0, 10.0, 16.0


@dataclass(frozen=True)
class Panel:
    """One line over the steps; `limit` is what it should stay below, None where there is none.

    `status` is "pass" where it ends below its limit and "fail" where not, "none" without a limit.
    """

    title: str
    value: str
    top: float
    bottom: float
    height: float
    high: str
    low: str
    points: tuple[tuple[float, float], ...]
    status: str
    limit: float | None
    limit_label: str


@dataclass(frozen=True)
class CourseView:
    """How a training went, look by look."""

    station: str
    said: str
    height: float
    first: str
    last: str
    panels: tuple[Panel, ...]
    table: Table


def course_view(course: TrainingCourse) -> CourseView:
    """Lay out a training: each constraint with its multiplier below it, then the cost kept, then the loss."""
    steps = course.steps
    panels = []
    for one in course.constraints:
        panels.append(_line(_title(one), "points", steps, one.values, words.rate, one.limit))
        panels.append(_line("", "multiplier", steps, one.multipliers, _plain))
    if course.kept:
        panels.append(_line("Cost kept", "% of dense", steps, course.kept, words.rate))
    panels.append(_line("Training loss", "", steps, course.losses, _plain))
    height = sum(panel.height for panel in panels) + AXIS
    first, last = (f"step {words.count(course.steps[place])}" for place in (0, -1))
    said = " ".join(
        f"{_title(one)}: from {words.rate(one.values[0])} to {words.rate(one.values[-1])} points, at most "
        f"{words.rate(one.limit)} allowed."
        for one in course.constraints
    )
    return CourseView(course.station, said, height, first, last, tuple(panels), _table(course))


def course_svg(course: TrainingCourse) -> str:
    """Return how a training went as an SVG file of its own."""
    return environment().get_template("training.svg.j2").render(service=None, course=course_view(course))


def _title(one: ConstraintCourse) -> str:
    return words.first_upper(f"{words.metric_name(one.name)}: {one.quantity.replace('_', ' ')}")


def _plain(value: float) -> str:
    return words.significant(value) if value else "0"


def _line(
    title: str,
    unit: str,
    steps: Sequence[int],
    values: Sequence[float],
    shown: Callable[[float], str],
    limit: float | None = None,
) -> Panel:
    """Lay out one line at the top of the picture; its axis holds 0, the values and the limit."""
    low, high = min(0.0, *values), max(*values, 0.0 if limit is None else limit)
    top = HEADER if title else 0.0
    bottom = top + (TITLED if title else UNTITLED)
    up = charts.Axis(low, high if high > low else low + 1.0, bottom, top, ())
    along = charts.Axis(steps[0], max(steps[-1], steps[0] + 1), LEFT, charts.RIGHT, ())
    points = tuple((along.at(step), up.at(value)) for step, value in zip(steps, values, strict=True))
    return Panel(
        title=title,
        value=f"{shown(values[-1])} {unit}".strip(),
        top=top,
        bottom=bottom,
        height=bottom + (GAP if title and limit is not None else 2 * GAP),
        high=shown(up.high),
        low=shown(up.low),
        points=points,
        status="none" if limit is None else "pass" if values[-1] <= limit else "fail",
        limit=None if limit is None else up.at(limit),
        limit_label="" if limit is None else f"at most {shown(limit)}",
    )


def _table(course: TrainingCourse) -> Table:
    columns = ["Step", "Training loss", *(["Cost kept, %"] if course.kept else [])]
    for one in course.constraints:
        columns += [f"{_title(one)}, points (at most {words.rate(one.limit)})", "Multiplier"]
    rows = []
    for place, step in enumerate(course.steps):
        row = [words.count(step), _plain(course.losses[place])]
        row += [words.rate(course.kept[place])] if course.kept else []
        for one in course.constraints:
            row += [words.rate(one.values[place]), words.number(one.multipliers[place], 2)]
        rows.append(tuple(row))
    return Table("", "", tuple(columns), tuple(rows))
