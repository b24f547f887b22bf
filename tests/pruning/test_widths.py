"""Widths: never over the budget, gates that fall with the rank, and slopes that say what a channel costs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fairdeploy.compaction import ChannelGroup
from fairdeploy.project import Budget
from fairdeploy.pruning.budget import BudgetUse, Costs, groups_and_costs
from fairdeploy.pruning.counts import Scores, masks_of
from fairdeploy.pruning.scores import Subject, l2
from fairdeploy.pruning.widths import Widths
from tests.compaction import hard

EXAMPLE = (torch.zeros(2, 3, 8, 8),)
FACTORS = st.lists(st.floats(-2, 2), min_size=3, max_size=3)
SHARES = st.floats(0.05, 1)


@cache
def chain() -> tuple[nn.Module, Sequence[ChannelGroup], Costs, Scores]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 12, 3, padding=1), nn.ReLU(),
            nn.Conv2d(12, 24, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 3),
        ).eval()  # fmt: skip
    groups, costs = groups_and_costs(model, EXAMPLE)
    return model, groups, costs, l2(Subject(model, groups))


def made(budget: Budget, factors: Sequence[float] = (0, 0, 0)) -> tuple[Widths, BudgetUse]:
    _, groups, costs, scores = chain()
    widths = Widths(groups, scores)
    widths.factors = np.array(factors, float)
    return widths, BudgetUse(budget, costs)


def least(use: BudgetUse) -> float:
    _, groups, _, scores = chain()
    return use(masks_of(groups, scores, {group.name: 1 for group in groups}))


@settings(max_examples=60, deadline=None)
@given(FACTORS, SHARES, SHARES)
def test_a_budget_is_never_exceeded_and_used_up(factors: list[float], keep: float, share: float) -> None:
    widths, use = made(Budget(macs=keep, parameters=min(1.0, keep + 0.1)), factors)
    scale = widths.scale_of(use, share)
    used = widths.use_at(scale, use)
    assert used <= max(share, least(use))
    larger = max(scale * 1.001, 1e-3)
    everything = all(
        count == group.size for count, group in zip(widths.counts(scale).values(), chain()[1], strict=True)
    )
    assert everything or used < least(use) + 1e-12 or widths.use_at(larger, use) >= used


@settings(max_examples=30, deadline=None)
@given(FACTORS, st.floats(0.1, 0.9))
def test_the_largest_scale_that_fits_is_found(factors: list[float], keep: float) -> None:
    widths, use = made(Budget(macs=keep), factors)
    scale = widths.scale_of(use)
    fits = [tried for tried in np.linspace(0.0, float(np.exp(-min(factors))), 300) if widths.use_at(tried, use) <= 1]
    assert not fits or scale >= fits[-1] - 1e-3


@settings(max_examples=60, deadline=None)
@given(FACTORS, st.floats(0, 2), st.floats(0.01, 1))
def test_gates_fall_with_the_rank_and_rise_with_the_scale(factors: list[float], scale: float, warmth: float) -> None:
    widths, _ = made(Budget(macs=0.5), factors)
    lower, higher = (
        widths.gates(torch.tensor(list(widths.counts(one).values())), warmth) for one in (scale, scale * 1.2)
    )
    _, groups, _, scores = chain()
    for group in groups:
        gate = lower[group.name]
        in_order = gate[torch.from_numpy(np.argsort(-scores[group.name], kind="stable"))]
        assert bool((in_order.diff() <= 0).all())
        assert 0 <= float(gate.min()) <= float(gate.max()) <= 1
        assert bool((higher[group.name] >= gate).all())
        count = widths.counts(scale)[group.name]
        assert 1 <= count <= group.size
        width = max(1.0, warmth * group.size)
        if width / 2 <= count <= group.size - width / 2:  # the slope lies within the group: gates add up to the count
            assert float(gate.sum()) == pytest.approx(count, abs=0.6)


def test_cold_gates_of_whole_counts_are_masks() -> None:
    widths, _ = made(Budget(macs=0.5))
    _, groups, _, scores = chain()
    counts = dict(zip((group.name for group in groups), (5, 12, 1), strict=True))
    gates = widths.gates(torch.tensor([float(count) for count in counts.values()]), 0.01)
    for name, mask in masks_of(groups, scores, counts).items():
        assert gates[name].numpy().tolist() == mask.astype(float).tolist()


def test_gates_have_a_slope_by_the_widths() -> None:
    widths, _ = made(Budget(macs=0.5))
    counts = torch.tensor([6.2, 4.7, 11.1], dtype=torch.float64, requires_grad=True)
    total = sum(gate.sum() for gate in widths.gates(counts, 0.3).values())
    assert isinstance(total, torch.Tensor)
    (slopes,) = torch.autograd.grad(total, [counts])
    assert slopes.tolist() == pytest.approx([1, 1, 1], abs=0.25), "a channel more is about one more open gate"


def test_slopes_are_what_widths_cost() -> None:
    """In MACs, by hand: 8 x 8 places in the first two layers, 3 x 3 in the third."""
    widths, use = made(Budget(macs=1.0))
    scale = widths.scale_of(use, 0.4)
    counts = np.array([max(1, round(count)) for count in widths.counts(scale).values()])

    def macs(first: int, second: int, third: int) -> int:
        return 64 * 27 * first + 64 * 9 * first * second + 9 * 9 * second * third + 3 * third

    for place, (slope, unit) in enumerate(zip(widths.slopes(scale, use), np.eye(3, dtype=int), strict=True)):
        rise = (macs(*(counts + unit)) - macs(*(counts - unit))) / 2
        assert slope == pytest.approx(rise * counts[place] / macs(16, 12, 24), rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(FACTORS, st.lists(st.floats(-50, 50), min_size=3, max_size=3))
def test_factors_stay_bounded_and_relative(factors: list[float], step: list[float]) -> None:
    widths, _ = made(Budget(macs=0.5), factors)
    widths.move(np.array(step))
    assert np.isfinite(widths.factors).all()
    assert widths.factors.mean() == pytest.approx(0, abs=1e-9)
    assert np.ptp(widths.factors) <= 4 + 1e-9


@pytest.mark.parametrize("name", ["attention_unbind", "grouped_query", "grouped"])
def test_channels_that_go_together_keep_the_budget_as_well(name: str) -> None:
    model, _ = hard.subject(name)
    groups, costs = groups_and_costs(model, hard.rows_for(name, 2, 0))
    widths, use = Widths(groups, l2(Subject(model, groups))), BudgetUse(Budget(macs=0.6), costs)
    scale = widths.scale_of(use)
    assert 0 < widths.use_at(scale, use) <= 1
    assert np.isfinite(widths.slopes(scale, use)).all()
    assert (widths.slopes(scale, use) >= 0).all()


def test_joint_channels_are_ranked_as_masks_keep_them() -> None:
    """Two heads of three channels, the first of larger norms throughout: each keeps as many."""
    group = ChannelGroup("q", 6, (), shape=(2, 3))
    scores = {"q": np.array([9.0, 8.0, 7.0, 3.0, 2.0, 1.0])}
    gates = Widths([group], scores).gates(torch.tensor([4.0]), temperature=0.0)["q"]
    assert (gates > 0.5).tolist() == masks_of([group], scores, {"q": 4})["q"].tolist() == [True, True, False] * 2
