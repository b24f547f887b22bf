"""A picture of a training under constraints: values against their limits, multipliers, loss and what is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fairdeploy.bundle import ConstraintCourse, TrainingCourse
from fairdeploy.report import charts, words
from fairdeploy.report.environment import environment
from fairdeploy.report.tables import Table

LEFT, HEADER, PLOT, BELOW = 44.0, 40.0, 46.0, 26.0
SMALL_HEADER, SMALL_PLOT, SMALL_BELOW = 18.0, 22.0, 30.0
AXIS = 10.0


@dataclass(frozen=True)
class Panel:
    """One line over the steps; `limit` is what it should stay below, None where there is none.

    Without a title it is a small one that belongs to the one above.
    `status` is "pass" where it ends below its limit and "fail" where not, "none" without a limit.
    """

    title: str
    value: str
    note: str
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
        panels.append(_line(_name(one), "points", steps, one.values, words.rate, _of(one), one.limit))
        panels.append(_line("", "multiplier", steps, one.multipliers, _plain))
    if course.kept:
        panels.append(_line("Cost kept", "% of dense", steps, course.kept, words.rate))
    panels.append(_line("Training loss", "", steps, course.losses, _plain))
    height = sum(panel.height for panel in panels) + AXIS
    first, last = (f"step {words.count(course.steps[place])}" for place in (0, -1))
    said = " ".join(
        f"{_name(one)} ({_of(one)}): from {words.rate(one.values[0])} to {words.rate(one.values[-1])} points, at most "
        f"{words.rate(one.limit)} allowed."
        for one in course.constraints
    )
    return CourseView(course.station, said, height, first, last, tuple(panels), _table(course))


def course_svg(course: TrainingCourse) -> str:
    """Return how a training went as an SVG file of its own."""
    return environment().get_template("training.svg.j2").render(service=None, course=course_view(course))


def _name(one: ConstraintCourse) -> str:
    return words.first_upper(words.metric_name(one.name))


def _of(one: ConstraintCourse) -> str:
    return one.quantity.replace("_", " ")


def _plain(value: float) -> str:
    return words.significant(value) if value else "0"


def _line(
    title: str,
    unit: str,
    steps: Sequence[int],
    values: Sequence[float],
    shown: Callable[[float], str],
    note: str = "",
    limit: float | None = None,
) -> Panel:
    """Lay out one line at the top of the picture; its axis holds 0, the values and the limit."""
    low, high = min(0.0, *values), max(*values, 0.0 if limit is None else limit)
    top, plot, below = (HEADER, PLOT, BELOW) if title else (SMALL_HEADER, SMALL_PLOT, SMALL_BELOW)
    bottom = top + plot
    up = charts.Axis(low, high if high > low else low + 1.0, bottom, top, ())
    along = charts.Axis(steps[0], max(steps[-1], steps[0] + 1), LEFT, charts.RIGHT, ())
    points = tuple((along.at(step), up.at(value)) for step, value in zip(steps, values, strict=True))
    return Panel(
        title=title,
        value=f"{shown(values[-1])} {unit}".strip(),
        note=note,
        top=top,
        bottom=bottom,
        height=bottom + (SMALL_BELOW - BELOW if limit is not None else below),
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
        columns += [f"{_name(one)}, {_of(one)}, points (at most {words.rate(one.limit)})", "Multiplier"]
    rows = []
    for place, step in enumerate(course.steps):
        row = [words.count(step), _plain(course.losses[place])]
        row += [words.rate(course.kept[place])] if course.kept else []
        for one in course.constraints:
            row += [words.rate(one.values[place]), words.number(one.multipliers[place], 2)]
        rows.append(tuple(row))
    return Table("", "", tuple(columns), tuple(rows))
