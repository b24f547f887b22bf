import numpy as np
import pytest

from fairdeploy.errors import ConfigError
from fairdeploy.evidence import Schema, Tally
from fairdeploy.evidence.intervals import loss_upper_bound
from fairdeploy.evidence.planner import (
    Assumptions,
    gap_rows_needed,
    plan_rule,
    rate_rows_needed,
    rows_needed,
    smallest_margin,
)
from fairdeploy.gates import Rule

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


@pytest.mark.parametrize(
    "bad", [{"flip_rate": 0}, {"rate": 1}, {"power": 1.5}, {"icc": -0.1}, {"icc": 1.1}, {"rate": float("nan")}]
)
def test_impossible_assumptions_are_refused(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        Assumptions(**bad)


LABELS = {("a", 1, 1, 1): 3000, ("a", 0, 0, 0): 1000, ("b", 1, 1, 1): 500, ("b", 0, 0, 0): 3500}


def test_a_change_is_planned_on_its_own_denominator(tally_of):
    rule = Rule(metric="true_positive_rate", condition="max_drop", bound=0.02, against="dense")
    everyone, a, b = plan_rule(rule, tally_of(LABELS), assumptions=Assumptions(flip_rate=0.05))
    assert [row.rows_available for row in (everyone, a, b)] == [3500, 3000, 500]
    assert {row.rows_needed for row in (everyone, a, b)} == {rows_needed(0.02, 0.05, groups=3)}
    assert [row.enough for row in (everyone, a, b)] == [True, True, False]
    assert a.smallest_margin < 0.02 < b.smallest_margin
    assert "flips 5.0%" in b.assumption
    assert b.assumption == f"{b.shared_assumption}; design effect 1"  # rows are not clustered


def test_rates_gaps_and_flips_are_planned_and_latency_is_not(tally_of):
    tally = tally_of(LABELS)
    worst = plan_rule(Rule(metric="worst_group_accuracy", condition="min", bound=0.85), tally)
    assert [row.group for row in worst] == [{"g": "a"}, {"g": "b"}]
    assert all(row.enough and row.smallest_margin < 0.05 for row in worst)
    hopeless = plan_rule(Rule(metric="accuracy", condition="min", bound=0.95), tally)
    assert all(row.rows_needed is None and not row.enough for row in hopeless)
    (gap,) = plan_rule(Rule(metric="equalized_odds_difference", condition="max", bound=0.05), tally)
    assert gap.rows_available == 500
    assert not gap.enough
    assert gap.group == {"g": "*"}
    flips = plan_rule(Rule(metric="flip_rate", condition="max", bound=0.05, against="dense"), tally)
    assert all(row.enough for row in flips)
    assert plan_rule(Rule(metric="latency_p90_ms", condition="max", bound=5), tally) == ()


def people(sizes):
    """A tally of people of g "a" with 10 positives each and of g "b" with `sizes` rows, all negative but the first."""
    owner = np.repeat(np.arange(5 + len(sizes)), [10] * 5 + sizes)
    label = np.where(owner < 5, 1, np.diff(owner, prepend=-1) > 0).astype(int)
    return Tally.count(
        Schema(attributes={"g": ("a", "b")}, contexts={}, classes=("no", "yes"), clustered=True),
        ids=np.arange(len(owner)), labels=label, attributes={"g": np.where(owner < 5, "a", "b")}, contexts={},
        clusters=owner, reference=label, deployed=label,
    )  # fmt: skip


def test_each_cell_has_the_design_effect_of_its_own_rows():
    tally = people([50, 2, 2])
    needed = rows_needed(0.02, 0.05, groups=3)
    given = Assumptions(flip_rate=0.05, icc=0.2)

    def plan(metric):
        rule = Rule(metric=metric, condition="max_drop", bound=0.02, against="dense")
        return plan_rule(rule, tally, assumptions=given)

    everyone, a, b = plan("accuracy")
    assert (a.design_effect, b.design_effect) == (round(1 + 9 * 0.2, 2), round(1 + (2508 / 54 - 1) * 0.2, 2))
    assert everyone.design_effect == round(1 + ((5 * 100 + 2508) / 104 - 1) * 0.2, 2)
    assert [row.rows_needed for row in (a, b)] == [int(np.ceil(row.design_effect * needed)) for row in (a, b)]
    assert a.assumption.endswith("; design effect 2.8")
    assert a.shared_assumption == b.shared_assumption == a.assumption.removesuffix("; design effect 2.8")
    assert plan("true_positive_rate")[2].design_effect == 1  # one positive row of each
    assert plan("false_positive_rate")[1].design_effect == 1  # no row at all
    gap = Rule(metric="accuracy_difference", condition="max", bound=0.1)
    (row,) = plan_rule(gap, tally, assumptions=given)
    assert (row.rows_available, row.design_effect) == (54, b.design_effect)


def test_a_missing_group_is_planned_as_missing(tally_of):
    rule = Rule(metric="accuracy", condition="max_drop", bound=0.02, against="dense")
    missing = plan_rule(rule, tally_of({("a", 1, 1, 1): 9}))[2]
    assert (missing.group, missing.rows_available, missing.enough, missing.smallest_margin) == (
        {"g": "b"},
        0,
        False,
        None,
    )
