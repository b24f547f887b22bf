import numpy as np
import pytest
from scipy.stats import binom

from fairdeploy.errors import ConfigError
from fairdeploy.evidence.intervals import clopper_pearson, loss_upper_bound, two_sided
from fairdeploy.evidence.planner import (
    exact_rows_needed,
    gap_rows_needed,
    rate_rows_needed,
    rows_needed,
    smallest_gap,
    smallest_margin,
)

FLIP_RATES = (0.005, 0.01, 0.02, 0.05, 0.1)
TABLE = {
    0.005: (1717, 2800, 5131, 12438, 24763),
    0.01: (600, 856, 1397, 3162, 6215),
    0.02: (232, 298, 425, 837, 1578),
    0.05: (73, 86, 107, 167, 274),
}


@pytest.mark.parametrize("margin", TABLE)
def test_rows_needed_gives_the_checked_table(margin):
    assert tuple(rows_needed(margin, flip_rate) for flip_rate in FLIP_RATES) == TABLE[margin]


def test_more_groups_need_more_rows_each():
    assert [rows_needed(0.01, 0.02, groups=groups) for groups in (2, 8, 40)] == [1901, 2829, 3831]


@pytest.mark.parametrize(
    ("margin", "flip_rate", "loss"),
    [(0.01, 0.005, 0.0), (0.01, 0.02, 0.0), (0.02, 0.05, 0.0), (0.02, 0.05, 0.008), (0.05, 0.1, 0.0)],
)
def test_the_planned_rows_give_the_planned_power(margin, flip_rate, loss):
    n = rows_needed(margin, flip_rate, loss=loss)
    chances = [(flip_rate + loss) / 2, (flip_rate - loss) / 2, 1 - flip_rate]
    lost, gained, _ = np.random.default_rng(0).multinomial(n, chances, 4000).T
    assert (loss_upper_bound(lost, gained, n, 0.95) < margin).mean() == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(("n", "groups", "points"), [(1000, 5, 3.1), (333, 15, 6.4)])
def test_the_smallest_margin_gives_the_checked_values(n, groups, points):
    assert round(100 * smallest_margin(n, 0.08, groups=groups), 1) == points


def test_the_smallest_margin_inverts_the_rows_needed():
    assert smallest_margin(3162, 0.05) == pytest.approx(0.01, rel=1e-3)
    assert smallest_margin(2 * 3162, 0.05, design_effect=2) == pytest.approx(0.01, rel=1e-3)
    assert smallest_margin(0, 0.05) is None


def test_a_rate_needs_the_rows_that_give_the_power():
    n = rate_rows_needed(0.85, 0.9)
    hits = np.random.default_rng(0).binomial(n, 0.9, 4000)
    z = (hits / n - 0.85) / np.sqrt(0.85 * 0.15 / n)
    assert (z > 1.645).mean() == pytest.approx(0.8, abs=0.03)
    assert rate_rows_needed(0.9, 0.9) is None


def test_a_gap_of_two_groups_needs_the_closed_form():
    # range of two normals: |N(0, 2)|, quantiles at .95 and .8 are sqrt(2) times 1.960 and 1.2816
    expected = 0.09 * 2 * ((1.960 + 1.2816) / 0.05) ** 2
    assert gap_rows_needed(0.05, 0.9, levels=2) == pytest.approx(expected, rel=0.03)
    assert gap_rows_needed(0.05, 0.9, levels=5, rates=2) > gap_rows_needed(0.05, 0.9, levels=5)


@pytest.mark.parametrize(
    ("margin", "flip_rate", "options"),
    [(0, 0.02, {}), (-0.1, 0.02, {}), (float("nan"), 0.02, {}), (0.01, 2, {}), (0.01, 0.02, {"alpha": 0}),
     (0.01, 0.02, {"power": 1}), (0.01, 0.02, {"groups": 0}), (0.01, 0.02, {"loss": 0.01})],
)  # fmt: skip
def test_impossible_plans_are_refused(margin, flip_rate, options):
    with pytest.raises(ConfigError, match="cannot plan"):
        rows_needed(margin, flip_rate, **options)


def test_a_true_gap_needs_more_rows_and_one_at_the_bound_cannot_be_proven():
    equal = gap_rows_needed(0.05, 0.9, levels=5)
    assert equal < gap_rows_needed(0.05, 0.9, levels=5, gap=0.01) < gap_rows_needed(0.05, 0.9, levels=5, gap=0.02)
    assert gap_rows_needed(0.05, 0.9, levels=5, gap=0.05) is None
    n = gap_rows_needed(0.05, 0.9, levels=5, gap=0.02)
    assert smallest_gap(n, 0.9, levels=5, gap=0.02) == pytest.approx(0.05, rel=1e-3)
    assert smallest_gap(0, 0.9, levels=5) is None
    assert smallest_gap(1, 0.5, levels=40) is None


def test_a_true_loss_needs_more_rows_and_a_wider_margin():
    assert rows_needed(0.02, 0.05, loss=0.01) > rows_needed(0.02, 0.05)
    assert smallest_margin(2000, 0.05, loss=0.01) > smallest_margin(2000, 0.05)
    n = rows_needed(0.02, 0.05, loss=0.01)
    assert smallest_margin(n, 0.05, loss=0.01) == pytest.approx(0.02, rel=1e-3)


@pytest.mark.parametrize(("margin", "flip_rate"), [(0.02, 0.005), (0.05, 0.01), (0.01, 0.005), (0.05, 0.1)])
def test_where_few_rows_flip_the_plan_has_the_power_that_the_formula_misses(margin, flip_rate):
    def power(n):
        chances = [flip_rate / 2, flip_rate / 2, 1 - flip_rate]
        lost, gained, _ = np.random.default_rng(0).multinomial(n, chances, 20_000).T
        return (loss_upper_bound(lost, gained, n, 0.95) < margin).mean()

    n = exact_rows_needed(margin, flip_rate)
    assert power(n) >= 0.79
    assert rows_needed(margin, flip_rate) <= n <= 1.25 * rows_needed(margin, flip_rate)
    if (margin, flip_rate) in ((0.02, 0.005), (0.05, 0.01)):
        assert power(rows_needed(margin, flip_rate)) < 0.78


@pytest.mark.parametrize(
    ("bound", "expected"), [(0.95, 0.99), (0.1, 0.02), (0.02, 0.005), (0.85, 0.9), (0.5, 0.6), (0.9, 0.88)]
)
def test_a_rate_is_planned_for_the_exact_bound(bound, expected):
    n = rate_rows_needed(bound, expected)
    successes = np.arange(n + 1)
    lower, upper = clopper_pearson(successes, n, two_sided(0.95))
    passes = lower > bound if expected > bound else upper < bound
    assert binom.pmf(successes, n, expected)[passes].sum() >= 0.8
