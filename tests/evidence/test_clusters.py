"""Simulations with known truth: one group exactly at the margin must not be released more often than alpha."""

import numpy as np
import pytest

from fairdeploy.evidence.clusters import effective_change, effective_rate
from fairdeploy.evidence.intervals import tango
from fairdeploy.evidence.metrics import PairedCounts
from fairdeploy.evidence.tally import BUCKETS

RUNS = 1500


def simulate(*, clusters, size, lost, gained, icc, seed):
    """Draw paired outcomes [runs] of clusters whose rows agree with correlation `icc`; counts [buckets, runs]."""
    rng = np.random.default_rng(seed)
    shape = (RUNS, clusters, size)
    outcome = [1, -1, 0]
    chances = [lost, gained, 1 - lost - gained]
    shared = rng.choice(outcome, p=chances, size=(RUNS, clusters, 1))
    own = rng.choice(outcome, p=chances, size=shape)
    rows = np.where(rng.random(shape) < np.sqrt(icc), shared, own)
    bucket = rng.integers(0, BUCKETS, (RUNS, clusters)) + np.arange(RUNS)[:, None] * BUCKETS

    def per_bucket(values):
        return (
            np.bincount(bucket.ravel(), weights=values.sum(2).ravel(), minlength=RUNS * BUCKETS)
            .reshape(RUNS, BUCKETS)
            .T.astype(int)
        )

    n, zero = per_bucket(np.ones(shape)), np.zeros((BUCKETS, RUNS), int)
    return PairedCounts(n, zero, zero, per_bucket(rows == 1), per_bucket(rows == -1))


CASES = [(200, 0.03, 0.01), (200, 0.01, 0.0), (60, 0.02, 0.0), (400, 0.02, 0.01), (200, 0.005, 0.0)]


@pytest.mark.parametrize(("clusters", "lost", "gained"), CASES)
def test_false_release_at_the_margin_is_at_most_alpha_with_clusters(clusters, lost, gained):
    counts = simulate(clusters=clusters, size=5, lost=lost, gained=gained, icc=0.3, seed=1)
    released = effective_change(counts, clustered=True).bounds(0.95)[1] < lost - gained
    assert released.mean() <= 0.055 + 0.006  # two standard errors of 1,500 runs


def test_counting_rows_instead_of_clusters_would_release_too_often():
    counts = simulate(clusters=200, size=5, lost=0.03, gained=0.01, icc=0.3, seed=1)
    row_wise = tango(counts.lost.sum(0), counts.gained.sum(0), counts.n.sum(0), 0.9)[1] < 0.02
    assert row_wise.mean() > 0.1


def test_the_design_effect_is_found():
    counts = simulate(clusters=2000, size=5, lost=0.1, gained=0.05, icc=0.3, seed=3)
    effect = effective_change(counts, clustered=True).effect
    assert effect.mean() == pytest.approx(2.2, abs=0.15)  # plus what two buckets of rows that move together add


def test_without_flips_the_rows_of_a_bucket_count_as_one():
    n = np.full((100, 1), 7)
    zero = np.zeros_like(n)
    change = effective_change(PairedCounts(n, zero, zero, zero, zero), clustered=True)
    assert change.effect.tolist() == [7]
    assert change.buckets.tolist() == [100]
    rate = effective_rate(n, n, clustered=True)
    assert rate.effect.tolist() == [7]


def test_few_clusters_count_as_one_row_each_and_say_so():
    n = np.zeros((BUCKETS, 2), int)
    n[:4] = 50
    hits = n.copy()
    hits[0] = 25
    rate = effective_rate(hits, n, clustered=True)
    assert (rate.effect >= 50).all()
    assert "few clusters" in rate.notes[0]
    assert effective_rate(hits, n, clustered=False).effect.tolist() == [1, 1]


def test_the_design_effect_is_never_below_one():
    n = np.full((100, 1), 10)
    hits = np.full((100, 1), 5)  # buckets that agree better than chance
    assert effective_rate(hits, n, clustered=True).effect.tolist() == [1]


def test_an_empty_cell_is_the_whole_range():
    n = np.zeros((BUCKETS, 1), int)
    assert [end.tolist() for end in effective_rate(n, n, clustered=True).clopper_pearson(0.95)] == [[0], [1]]
    change = effective_change(PairedCounts(n, n, n, n, n), clustered=True)
    assert [end.tolist() for end in change.tango(0.95)] == [[-1], [1]]
