"""Where marks go, and how numbers read."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairdeploy.evidence.records import Interval
from fairdeploy.gates import CellVerdict
from fairdeploy.report import build_charts, charts, words

rates = st.floats(0, 1, allow_nan=False)


@given(st.lists(rates, min_size=1, max_size=20), st.floats(0.01, 0.2))
def test_an_axis_holds_its_values_in_order_and_inside_its_ends(values: list[float], least: float) -> None:
    axis = charts.axis(values, 10, 350, least=least, limits=(0.0, 1.0))
    assert axis.low <= min(values) + 1e-9
    assert axis.high >= max(values) - 1e-9
    assert 0 <= axis.low < axis.high <= 1
    places = [axis.at(value) for value in sorted(values)]
    assert places == sorted(places)
    assert all(10 <= place <= 350 for place in places)
    assert 2 <= len(axis.ticks) <= 12
    assert [tick.at for tick in axis.ticks] == sorted({tick.at for tick in axis.ticks})


@given(st.lists(rates, min_size=2, max_size=20))
def test_tick_labels_are_the_values_they_stand_at(values: list[float]) -> None:
    axis = charts.axis(values, 0, 1000, least=0.01, limits=(0.0, 1.0))
    for tick in axis.ticks:
        shown = float(tick.label.replace(words.MINUS, "-")) / 100
        assert axis.at(shown) == pytest.approx(tick.at, abs=0.03)


def test_a_wide_interval_does_not_set_the_axis_and_is_marked_as_cut() -> None:
    rows = [charts.DotValues(0.9, 0.89, (0.88, 0.9), None)] * 3 + [charts.DotValues(0.9, 0.9, (0.6, 1.0), None)]
    plot = charts.dot_plot(rows, ("dense", "deployed"))
    assert plot.axis.low > 0.8
    assert [row.cut for row in plot.rows] == [(False, False)] * 3 + [(True, True)]
    assert plot.rows[3].low == plot.axis.start


def test_only_the_first_row_with_both_dots_is_labelled_and_names_stand_on_their_own_side() -> None:
    rows = [charts.DotValues(None, None, None, None)] + [charts.DotValues(0.9, 0.8, (0.79, 0.81), (0.88, 1.0))] * 2
    plot = charts.dot_plot(rows, ("dense", "deployed"))
    assert [len(row.labels) for row in plot.rows] == [0, 2, 0]
    left, right = plot.rows[1].labels
    assert (left.text, left.anchor, right.text, right.anchor) == ("deployed", "end", "dense", "start")
    assert left.at < right.at
    assert [row.y for row in plot.rows] == sorted(row.y for row in plot.rows)


@given(rates, rates)
def test_the_two_labels_stay_inside_and_apart(before: float, after: float) -> None:
    plot = charts.dot_plot([charts.DotValues(before, after, None, None)], ("compact", "deployed"))
    left, right = plot.rows[0].labels
    assert left.at - 6.5 * len(left.text) >= charts.LEFT - 9
    assert right.at + 6.5 * len(right.text) <= charts.RIGHT + 9
    assert right.at - left.at >= 7.9


def test_rows_of_a_slope_chart_share_one_scale_and_a_fall_goes_down() -> None:
    stages = ("dense", "pruned", "compact")
    rows = [((0.9, 0.8, 0.8), ("", "", "")), ((0.9, 0.85, 0.84), ("", "", ""))]
    chart = charts.slope_chart(stages, rows)
    falls = [row.points[1].y - row.points[0].y for row in chart.rows]
    assert falls[0] == pytest.approx(2 * falls[1], abs=0.02)
    assert falls[1] > 0
    assert [row.flat is not None for row in chart.rows] == [True, False]


def test_noise_is_not_blown_up_into_a_fall() -> None:
    chart = charts.slope_chart(("dense", "runtime"), [((0.9, 0.8999), ("", ""))])
    first, last = chart.rows[0].points
    assert last.y - first.y < 1


@given(st.lists(st.tuples(rates, rates), min_size=1, max_size=6, unique=True))
def test_labels_of_candidates_stay_inside(points: list[tuple[float, float]]) -> None:
    chart = build_charts.scatter(points, ["88.1, skin tone VI"] * len(points))
    for point in chart.points:
        assert 20 <= point.label_y <= 228
        assert 46 <= point.label_x <= charts.WIDTH


def test_labels_of_candidates_do_not_cover_each_other() -> None:
    points = [(0.7, 0.884), (0.5, 0.881), (0.3, 0.853), (0.6, 0.882)]
    chart = build_charts.scatter(points, ["88.1, skin tone VI"] * 4)
    width = 6.4 * 18
    left = {"start": 0.0, "end": -width, "middle": -width / 2}
    boxes = [(p.label_x + left[p.anchor], p.label_y - 12) for p in chart.points]
    for (x, y), (other_x, other_y) in combinations(boxes, 2):
        assert abs(x - other_x) >= width or abs(y - other_y) >= 28


def _cell(**fields: object) -> CellVerdict:
    base = dict(
        rule="r", metric="true_positive_rate", condition="max_drop", against="dense", group={"skin_tone": "VI"},
        status="fail", bound=0.02, value=0.031, lower=0.022, upper=0.04, unit="rate", n=100, method="Tango",
        confidence=0.95, reason="",
    )  # fmt: skip
    return CellVerdict.model_validate(base | fields)


def test_numbers_read_as_promised() -> None:
    thin = words.THIN
    interval = Interval(lower=0.8812, upper=0.9139, confidence=0.95, method="Wilson")
    assert words.span(interval) == "88.1 to 91.4"
    assert words.change(-0.0311) == "−3.1"
    assert words.change(0.004) == "+0.4"
    assert words.change(-0.0001) == "0.0"
    assert words.percent(0.881) == f"88.1{thin}%"
    assert words.count(20000) == f"20{thin}000"
    assert words.size(118_400) == f"118{thin}kB"
    assert words.size(2_345_678) == f"2.35{thin}MB"
    assert [words.significant(value) for value in (0.0581, 0.58, 1.234, 12.34, 123.4)] == [
        "0.0581", "0.580", "1.23", "12.3", "123"]  # fmt: skip
    assert {words.rate(None), words.change(None), words.span(None), words.size(None), words.count(None)} == {"–"}


def test_cells_read_in_plain_words() -> None:
    thin = words.THIN
    assert words.cell_name(_cell()) == "true positive rate, skin tone VI"
    assert words.allowed(_cell()) == "at most 2.0 points lower than dense"
    assert words.found(_cell()) == "3.1 (2.2 to 4.0)"
    latency = _cell(metric="latency_p90_ms", condition="max", against=None, group={}, unit="ms", bound=5, value=4.5,
                    lower=4.4, upper=4.7)  # fmt: skip
    assert words.cell_name(latency) == "p90 latency"
    assert words.found(latency) == f"4.50{words.THIN}ms (4.40 to 4.70)"
    ratio = _cell(metric="latency_p90_ms", condition="max_ratio", group={}, unit="ratio", bound=0.9, value=0.5,
                  lower=None, upper=0.6)  # fmt: skip
    assert words.allowed(ratio) == "at most 0.90 times dense"
    assert words.found(ratio) == "0.50 (– to 0.60)"
    assert words.allowed(_cell(condition="max_increase")) == "at most 2.0 points higher than dense"
    at_least = _cell(metric="worst_group_accuracy", condition="min", against=None, bound=0.85)
    assert words.allowed(at_least) == f"at least 85.0{thin}%"
    assert words.allowed(_cell(metric="flip_rate", condition="max", bound=0.03)) == (
        f"at most 3.0{thin}% against dense"
    )
    gap = _cell(metric="equalized_odds_difference", condition="max", against=None, bound=0.1)
    assert words.allowed(gap) == "at most 10.0 points"
    memory = _cell(metric="peak_memory_mb", condition="max", against=None, group={}, unit="MiB", bound=64, value=61.5)
    assert words.allowed(memory) == f"at most 64.0{thin}MiB"


def test_looks_at_the_evaluate_split_are_counted_in_words() -> None:
    here = "judged on this evaluate split in this folder"
    assert words.looks(1, 1) == f"1 build was {here}, under one set of gates"
    assert words.looks(3, 2) == f"3 builds were {here}, under 2 different sets of gates"
