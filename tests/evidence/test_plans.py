import numpy as np
import pytest

from fairdeploy.errors import ConfigError
from fairdeploy.evidence import Schema, Tally
from fairdeploy.evidence.planner import gap_rows_needed, rows_needed
from fairdeploy.evidence.plans import Assumptions, plan_rule
from fairdeploy.evidence.power import simulated_power
from fairdeploy.evidence.tally import BUCKETS
from fairdeploy.gates import Rule


@pytest.mark.parametrize(
    "bad",
    [
        {"flip_rate": 0},
        {"rate": 1},
        {"power": 1.5},
        {"icc": -0.1},
        {"icc": 5},
        {"icc": float("nan")},
        {"rate": float("nan")},
        {"power": 0.3},
        {"gap": 1},
        {"gap": -0.1},
        {"loss": 0.03},
        {"loss": -0.01},
    ],
)
def test_impossible_assumptions_are_refused(bad):
    with pytest.raises(ConfigError, match=f"^{next(iter(bad))} is .*: give a"):
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

    def effect(squares, rows, event=0.05):
        m = (squares - rows**2 / BUCKETS) / (1 - 1 / BUCKETS) / rows  # without pairs of unrelated clusters
        if rows / m < 10:
            return round(m, 2)
        moved = rows / m * (1 - (1 - event) ** (1 + (m - 1) * (1 - np.sqrt(0.2))))
        return round((moved * (1 + (m - 1) * 0.2) + 2 * m) / (moved + 2), 2)

    everyone, a, b = plan("accuracy")
    assert (a.design_effect, b.design_effect) == (effect(500, 50), effect(2508, 54))
    assert everyone.design_effect == effect(3008, 104)
    assert (a.design_effect, everyone.design_effect) == (a.rows_per_cluster, everyone.rows_per_cluster)  # few clusters
    assert all(2 * needed < row.rows_needed <= row.rows_per_cluster * needed for row in (a, b))
    assert a.assumption.endswith(f"; design effect {a.design_effect}")
    assert a.shared_assumption == b.shared_assumption == a.assumption.removesuffix(f"; design effect {a.design_effect}")
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


@pytest.mark.parametrize(("clusters", "size"), [(40, 10), (400, 5), (3000, 5), (5000, 1)])
def test_many_small_clusters_are_not_taken_for_large_ones(clusters, size):
    tally = people([size] * clusters)
    rule = Rule(metric="accuracy", condition="max_drop", bound=0.02, against="dense")
    b = plan_rule(rule, tally, assumptions=Assumptions(icc=1))[2]
    assert b.rows_per_cluster == pytest.approx(size, rel=0.15)
    assert b.design_effect == b.rows_per_cluster


def test_an_expected_loss_or_gap_is_planned_for(tally_of):
    tally = tally_of(LABELS)
    drop = Rule(metric="accuracy", condition="max_drop", bound=0.02, against="dense")
    costly = plan_rule(drop, tally, assumptions=Assumptions(flip_rate=0.05, loss=0.01))[1]
    assert costly.rows_needed == rows_needed(0.02, 0.05, groups=3, loss=0.01)
    assert "truly costs 1.0%" in costly.assumption
    hopeless = plan_rule(drop, tally, assumptions=Assumptions(flip_rate=0.05, loss=0.02))[1]
    assert (hopeless.rows_needed, hopeless.enough) == (None, False)
    assert hopeless.smallest_margin > 0.02
    gap = Rule(metric="accuracy_difference", condition="max", bound=0.05)
    (unequal,) = plan_rule(gap, tally, assumptions=Assumptions(gap=0.02))
    assert unequal.rows_needed == gap_rows_needed(0.05, 0.9, levels=2, gap=0.02)
    assert plan_rule(gap, tally, assumptions=Assumptions(gap=0.05))[0].rows_needed is None


def test_what_no_formula_covers_is_not_planned(tally_of):
    tally = tally_of(LABELS)
    assert plan_rule(Rule(metric="demographic_parity_ratio", condition="min", bound=0.8), tally) == ()
    assert plan_rule(Rule(metric="predictive_parity_difference", condition="max", bound=0.1), tally) == ()


@pytest.mark.parametrize(("clusters", "size", "icc", "flips"), [(95, 43, 0.1, 0.01), (400, 5, 0.3, 0.02)])
def test_clustered_rows_are_planned_to_the_power_that_is_wanted(clusters, size, icc, flips):
    rule = Rule(metric="accuracy", condition="max_drop", bound=0.02, against="dense")
    given = Assumptions(flip_rate=flips, icc=icc)
    b = plan_rule(rule, people([size] * clusters), assumptions=given)[2]
    power = [
        simulated_power(rule, n, assumptions=given, rows_per_cluster=size, runs=500)
        for n in (b.rows_needed, b.rows_needed // 2)
    ]
    assert power[0] >= b.planned_power - 0.04
    assert power[1] < b.planned_power - 0.1
