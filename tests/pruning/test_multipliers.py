"""Multipliers against closed-form optima, and the weights of rows against what they promise."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairdeploy.pruning.constraints import Constraint
from fairdeploy.pruning.multipliers import WEIGHTS, Multipliers, row_weights


def at_most(limit: float, *slopes: float) -> Constraint:
    """A limit on a weighted sum of rates."""
    return Constraint("accuracy_drop", "q", ("g",), np.array([slopes]), np.zeros(1), limit, parity=False)


def parity(limit: float, count: int) -> Constraint:
    """A limit on the largest difference between rates."""
    groups = tuple(map(str, range(count)))
    return Constraint("accuracy_difference", "q", groups, np.eye(count), np.zeros(count), limit, parity=True)


def test_multipliers_find_the_constrained_optimum() -> None:
    """min (q - .9)^2 / 2 with q <= .6 is reached at q = .6, where the multiplier is .3; a slack one ends at 0."""
    multipliers = Multipliers((at_most(0.6, 1.0), at_most(0.8, 1.0)), rate=0.1)
    for _ in range(300):
        multipliers.step(0.9 + multipliers.pressure())  # what minimises the Lagrangian
    assert multipliers.values == pytest.approx([0.3, 0.0], abs=1e-6)
    assert 0.9 + multipliers.pressure() == pytest.approx([0.6], abs=1e-6)


def test_of_several_constraints_those_that_bind_share_the_pressure() -> None:
    """min |q - (.9, .8)|^2 / 2 with q1 + q2 <= 1 and q1 <= .5: stationarity gives l1 = .3 and l2 = .1 at (.5, .5)."""
    multipliers = Multipliers((at_most(1.0, 1.0, 1.0), at_most(0.5, 1.0, 0.0)), rate=0.1)
    wanted = np.array([0.9, 0.8])
    for _ in range(2000):
        multipliers.step(wanted + multipliers.pressure())
    assert multipliers.values == pytest.approx([0.3, 0.1], abs=1e-5)
    assert wanted + multipliers.pressure() == pytest.approx([0.5, 0.5], abs=1e-5)


def test_a_difference_is_closed_from_both_ends() -> None:
    """min |q - (.9, .6)|^2 / 2 with |q1 - q2| <= .1: both move by .1."""
    multipliers = Multipliers((parity(0.1, 2),), rate=0.1)
    wanted = np.array([0.9, 0.6])
    for _ in range(2000):
        multipliers.step(wanted + multipliers.pressure())
    assert wanted + multipliers.pressure() == pytest.approx([0.8, 0.7], abs=1e-5)


def test_damping_calms_them() -> None:
    """The same optimum; a rate at which the plain ascent still swings is settled with the proportional part."""

    def swing(damping: float) -> float:
        multipliers, q, path = Multipliers((at_most(0.6, 1.0),), rate=0.2, damping=damping), 0.9, []
        for _ in range(200):
            q += 0.1 * (0.9 - q + float(multipliers.pressure()[0]))  # descends slowly, as weights do
            multipliers.step(np.array([q]))
            path.append(q)
        return float(np.abs(np.diff(path)).sum())

    assert swing(4.0) < 0.7 * swing(0.0)


def test_what_cannot_be_met_stops_them_and_is_said() -> None:
    one = at_most(0.1, 1.0)
    multipliers = Multipliers((one, at_most(0.9, 1.0)), most=3.0)
    for _ in range(100):
        multipliers.step(np.array([0.5]))
    assert multipliers.values == pytest.approx([3.0, 0.0])
    assert multipliers.saturated == (one,)


def test_a_parity_presses_the_worst_up_and_the_best_down() -> None:
    multipliers = Multipliers((parity(0.02, 3),))
    multipliers.step(np.array([0.9, 0.95, 0.7]))
    middle, best, worst = multipliers.pressure()
    assert worst > 0 > best
    assert 0 >= middle > best, "above the middle of the extremes, but less"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=3, max_size=3), st.floats(0.01, 0.5), st.integers(1, 30))
def test_they_stay_within_bounds_and_go_on_from_their_state(rates: list[float], limit: float, steps: int) -> None:
    multipliers = Multipliers((parity(limit, 3), at_most(limit, 1, 0, 0)))
    for _ in range(steps):
        violations = multipliers.step(np.array(rates))
    assert multipliers.values.min() >= 0
    assert multipliers.values.max() <= multipliers.most
    assert bool((multipliers.values[violations < 0] == 0).all()), "what holds is not pressed"
    other = Multipliers(multipliers.constraints)
    other.restore(json.loads(json.dumps(multipliers.state())))
    again = np.array(rates)[::-1].copy()
    multipliers.step(again)
    other.step(again)
    assert other.values.tolist() == multipliers.values.tolist()
    assert [len(part) for part in multipliers.by_constraint()] == [6, 1]


ROWS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(-1, 2), st.integers(-1, 1)), min_size=1, max_size=60
)  # label, and the level of two attributes


@settings(max_examples=80, deadline=None)
@given(ROWS, st.floats(0, 50), st.integers(0, 1000))
def test_weights_keep_the_totals_of_the_labels(rows: list[tuple[int, int, int]], strength: float, seed: int) -> None:
    labels, tone, sex = (torch.tensor(column) for column in zip(*rows, strict=True))
    of_row = torch.stack([torch.where(tone < 0, -1, tone * 3 + labels), torch.where(sex < 0, -1, 9 + sex * 3 + labels)])
    pressure = strength * torch.from_numpy(np.random.default_rng(seed).standard_normal(15))
    weights = row_weights(of_row, pressure, labels)
    for label in labels.unique():
        assert float(weights[labels == label].mean()) == pytest.approx(1)
    assert float(weights.min()) > 0
    assert float(weights.max() / weights.min()) <= (WEIGHTS[1] / WEIGHTS[0]) ** 2 * (1 + 1e-9)
    for label in labels.unique():  # rows of nobody known weigh the same, and a row that is pressed more no less
        here = labels == label
        unknown = weights[here & (tone < 0) & (sex < 0)]
        assert unknown.numel() < 2 or float(unknown.max() - unknown.min()) == 0
        asked = (torch.where(of_row >= 0, pressure[of_row.clamp(min=0)], 0.0).sum(0))[here]
        order = asked.argsort()
        assert bool((weights[here][order].diff() >= -1e-12).all())


def test_without_pressure_or_groups_every_row_weighs_one() -> None:
    labels = torch.tensor([0, 1, 1, 0])
    assert row_weights(torch.tensor([[0, 1, 3, 2]]), torch.zeros(4), labels).tolist() == [1, 1, 1, 1]
    assert row_weights(torch.full((2, 4), -1), torch.full((4,), 3.0), labels).tolist() == [1, 1, 1, 1]
