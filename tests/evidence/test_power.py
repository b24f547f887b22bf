import numpy as np
import pytest
from scipy import stats

from fairdeploy.evidence import metrics
from fairdeploy.evidence.intervals import clopper_pearson
from fairdeploy.evidence.planner import gap_rows_needed, rate_rows_needed, rows_needed
from fairdeploy.evidence.plans import Assumptions
from fairdeploy.evidence.power import draw_cells, draw_levels, simulated_power
from fairdeploy.gates import Rule

DROP = Rule(metric="accuracy", condition="max_drop", bound=0.02, against="dense")


@pytest.mark.parametrize("loss", [0.0, 0.008])
def test_a_planned_drop_passes_as_often_as_planned_and_half_the_rows_do_not(loss):
    given = Assumptions(flip_rate=0.05, loss=loss)
    n = rows_needed(0.02, 0.05, loss=loss)
    assert simulated_power(DROP, n, assumptions=given) == pytest.approx(0.8, abs=0.04)
    assert simulated_power(DROP, n // 2, assumptions=given) < 0.65


def test_a_loss_at_the_margin_passes_as_often_as_the_gate_errs():
    assert simulated_power(DROP, 800, assumptions=Assumptions(flip_rate=0.05, loss=0.02)) <= 0.055 + 0.014


def test_clustered_rows_need_their_design_effect():
    given = Assumptions(flip_rate=0.05, icc=0.3)
    n = rows_needed(0.02, 0.05)
    alone = simulated_power(DROP, n, assumptions=given, rows_per_cluster=5)
    planned = simulated_power(DROP, int(2.2 * n), assumptions=given, rows_per_cluster=5)
    assert alone < 0.55 < 0.74 < planned


def test_a_rate_is_gated_by_the_exact_bound():
    rule, n = Rule(metric="accuracy", condition="min", bound=0.85), 300
    hits = np.arange(n + 1)
    exact = stats.binom.pmf(hits, n, 0.9)[clopper_pearson(hits, n, 0.9)[0] > 0.85].sum()
    assert simulated_power(rule, n, assumptions=Assumptions()) == pytest.approx(exact, abs=0.04)
    flips = Rule(metric="flip_rate", condition="max", bound=0.05, against="dense")
    n = rate_rows_needed(0.05, 0.02)
    assert simulated_power(flips, n, assumptions=Assumptions(flip_rate=0.02)) == pytest.approx(0.8, abs=0.12)


@pytest.mark.parametrize("gap", [0.0, 0.02])
def test_a_planned_gap_passes_as_often_as_planned(gap):
    rule = Rule(metric="equalized_odds_difference", condition="max", bound=0.08)
    n = gap_rows_needed(0.08, 0.9, levels=4, rates=2, gap=gap)
    given = Assumptions(gap=gap)
    assert 0.7 <= simulated_power(rule, n, assumptions=given, levels=4, runs=150) <= 0.95
    assert simulated_power(rule, n // 2, assumptions=given, levels=4, runs=50) < 0.5
    equal = gap_rows_needed(0.08, 0.9, levels=4, rates=2)
    assert simulated_power(rule, equal, assumptions=Assumptions(gap=0.04), levels=4, runs=100) < 0.5


def test_what_is_drawn_is_what_was_asked_for():
    rng = np.random.default_rng(0)
    (lost, gained), rows = draw_cells(rng, 1003, [0.2, 0.1], 300, rows_per_cluster=5, icc=0.3)
    assert (rows.sum(0) == 1003).all()
    assert lost.sum(0).mean() == pytest.approx(200.6, rel=0.02)
    assert gained.sum(0).mean() == pytest.approx(100.3, rel=0.03)
    assert lost.sum(0).var() == pytest.approx(2.2 * 1003 * 0.16, rel=0.25)  # the design effect of 5 rows at .3
    for metric in (
        metrics.demographic_parity_difference,
        metrics.equalized_odds_difference,
        metrics.accuracy_difference,
    ):
        tally = draw_levels(rng, metric, 2000, [0.9, 0.7], rows_per_cluster=1, icc=0)
        assert metric(tally, "level") == pytest.approx(0.2, abs=0.05)


def test_a_seed_gives_the_same_share():
    given = Assumptions(flip_rate=0.05)
    assert simulated_power(DROP, 500, assumptions=given) == simulated_power(DROP, 500, assumptions=given)
    assert simulated_power(DROP, 500, assumptions=given) != simulated_power(DROP, 500, assumptions=given, seed=1)
