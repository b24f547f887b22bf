"""Simulations with known truth: one group exactly at the margin must not be released more often than alpha."""

import numpy as np
import pytest

from fairdeploy.evidence.clusters import cluster_count, effective_buckets, effective_change, effective_rate
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


def simulate_sizes(sizes, *, lost, gained, icc, runs, seed):
    """Draw paired outcomes of clusters of the given sizes, each in a bucket of its own; counts [buckets, runs]."""
    rng = np.random.default_rng(seed)
    sizes = np.asarray(sizes)
    owner, starts = np.repeat(np.arange(len(sizes)), sizes), np.cumsum(sizes) - sizes
    chances = [lost, gained, 1 - lost - gained]
    shared = rng.choice([1, -1, 0], p=chances, size=(len(sizes), runs))[owner]
    own = rng.choice([1, -1, 0], p=chances, size=(len(owner), runs))
    rows = np.where(rng.random((len(owner), runs)) < np.sqrt(icc), shared, own)
    n = np.repeat(sizes[:, None], runs, axis=1)
    return PairedCounts(n, 0 * n, 0 * n, np.add.reduceat(rows == 1, starts), np.add.reduceat(rows == -1, starts))


UNEQUAL = {
    "one of 500 among 200 single rows": ([500] + [1] * 200, 0.05),
    "ten of 50 among 200 single rows": ([50] * 10 + [1] * 200, 0.05),
    "geometric": (np.random.default_rng(1).geometric(0.1, 200).tolist(), 0.09),
}


@pytest.mark.parametrize(("sizes", "at_most"), UNEQUAL.values(), ids=UNEQUAL.keys())
@pytest.mark.parametrize("gained", [0.0, 0.01])
def test_false_release_at_the_margin_is_bounded_with_unequal_clusters(sizes, at_most, gained):
    counts = simulate_sizes(sizes, lost=0.05 + gained, gained=gained, icc=0.3, runs=600, seed=2)
    released = effective_change(counts, clustered=True).bounds(0.95)[1] < 0.05
    assert released.mean() <= at_most + 0.02  # two standard errors of 600 runs


def test_one_large_cluster_among_single_rows_is_not_many_clusters():
    n = np.array([[500]] + [[1]] * 200)
    assert effective_buckets(n) == pytest.approx(700**2 / 250_200)
    rate = effective_rate(n, n, clustered=True)
    assert rate.effect == pytest.approx([250_200 / 700])
    assert "few large clusters" in rate.notes[0]
    assert rate.buckets.tolist() == [201]


def test_a_few_large_clusters_are_not_outvoted_by_many_small_ones():
    """30 people of 100 rows beside 3,000 of one: a lot of small ones moved, and still nobody knows of the large."""
    small = np.full((480, 1), 6)
    n = np.concatenate([np.full((30, 1), 100), small])
    lost = np.concatenate([np.zeros((30, 1), int), np.arange(480)[:, None] % 10 == 0]).astype(int)
    change = effective_change(PairedCounts(n, 0 * n, 0 * n, lost, 0 * n), clustered=True)
    assert change.effect == pytest.approx([(n**2).sum() / n.sum()])
    assert "few large clusters" in change.notes[0]
    equal = effective_change(PairedCounts(small, 0 * small, 0 * small, lost[30:], 0 * small), clustered=True)
    assert "few" not in equal.notes[0]


def test_the_small_clusters_do_not_speak_for_a_large_one_that_never_moved():
    n = np.array([[60]] * 20 + [[1]] * 300)
    lost = np.array([[0]] * 20 + [[1]] * 15 + [[0]] * 285)
    change = effective_change(PairedCounts(n, 0 * n, 0 * n, lost, 0 * n), clustered=True)
    together = (n**2).sum() / n.sum()
    assert change.effect[0] > 0.9 * together


@pytest.mark.parametrize("clusters", [1, 50, 400, 1500])
def test_the_number_of_clusters_is_estimated_from_the_buckets_they_fill(clusters):
    rng = np.random.default_rng(0)
    filled = [len(np.unique(rng.integers(0, BUCKETS, clusters))) for _ in range(50)]
    assert np.mean([cluster_count(one, 10_000) for one in filled]) == pytest.approx(clusters, rel=0.03)
    assert cluster_count(BUCKETS, 600) == 600


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
    assert "few large clusters" in rate.notes[0]
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
