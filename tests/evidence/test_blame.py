import numpy as np
import pytest

from fairdeploy.evidence.blame import max_t
from fairdeploy.evidence.clusters import effective_change
from fairdeploy.evidence.intervals import holm, mcnemar_p
from fairdeploy.evidence.metrics import PairedCounts
from fairdeploy.evidence.tally import BUCKETS

RUNS = 150
TWO_ERRORS = 2 * np.sqrt(0.05 * 0.95 / RUNS)


def draw(rng, *, n, lost, gained, size=1, icc=0.0):
    """Draw n rows of each group, in clusters of `size` that hold rows of every group; [buckets, everyone + groups]."""
    bucket, shared = rng.integers(0, BUCKETS, n // size), rng.random(n // size)
    columns = []
    for fall, rise in zip(lost, gained, strict=True):
        own = rng.random((n // size, size))
        u = np.where(rng.random(own.shape) < np.sqrt(icc), shared[:, None], own)
        rows = [(u < fall).sum(1), ((u >= fall) & (u < fall + rise)).sum(1), np.full(n // size, size)]
        columns.append([np.bincount(bucket, weights=one, minlength=BUCKETS).astype(int) for one in rows])
    falls, rises, count = (np.stack(one, axis=1) for one in zip(*columns, strict=True))
    return tuple(np.concatenate([one.sum(1, keepdims=True), one], axis=1) for one in (falls, rises, count))


@pytest.mark.parametrize(("size", "icc"), [(1, 0.0), (5, 0.3)])
@pytest.mark.parametrize("flips", [0.005, 0.05])
def test_an_unharmed_group_is_blamed_in_at_most_five_percent(size, icc, flips):
    rng = np.random.default_rng(0)
    blamed = []
    for _ in range(RUNS):
        lost, gained, _ = draw(rng, n=500, lost=[flips / 2] * 6, gained=[flips / 2] * 6, size=size, icc=icc)
        blamed.append((max_t(lost, gained) < 0.05).any())
    assert np.mean(blamed) <= 0.05 + TWO_ERRORS


def test_a_harmed_group_is_found_more_often_than_by_holm_and_no_other_is_blamed():
    rng = np.random.default_rng(1)
    found, by_holm, wrong = [], [], []
    for _ in range(RUNS):
        lost, gained, n = draw(rng, n=500, lost=[0.0225] + [0.0025] * 7, gained=[0.0025] * 8)
        p = max_t(lost, gained)
        found.append(p[1] < 0.05)
        wrong.append((p[2:] < 0.05).any())
        sums = effective_change(PairedCounts(n, 0 * n, 0 * n, lost, gained), clustered=False)
        by_holm.append(holm(mcnemar_p(sums.lost, sums.gained))[1] < 0.05)
    assert np.mean(found) > 0.75 > 0.65 > np.mean(by_holm)
    assert np.mean(wrong) <= 0.05 + TWO_ERRORS


@pytest.mark.parametrize(("lost", "gained"), [(4, 0), (7, 1), (16, 6), (12, 3), (3, 5)])
def test_one_cell_of_single_rows_is_mcnemars_exact_test(lost, gained):
    falls, rises = np.zeros((BUCKETS, 1), int), np.zeros((BUCKETS, 1), int)
    falls[:lost], rises[lost : lost + gained] = 1, 1
    expected = float(mcnemar_p(lost, gained)) if lost > gained else 1
    assert max_t(falls, rises)[0] == pytest.approx(expected, abs=0.01)


def test_a_cluster_counts_once_however_many_rows_it_lost():
    falls = np.zeros((BUCKETS, 1), int)
    falls[:3] = 40
    assert max_t(falls, 0 * falls)[0] == pytest.approx(1 / 8, abs=0.02)


def test_cells_without_flips_are_not_blamed_and_cost_nothing():
    falls = np.zeros((BUCKETS, 41), int)
    falls[:8, 0] = 1
    p = max_t(falls, 0 * falls)
    assert p[0] == pytest.approx(2**-8, abs=0.004)
    assert (p[1:] == 1).all()
    assert max_t(0 * falls, 0 * falls).tolist() == [1] * 41


def test_the_order_of_p_values_is_that_of_the_statistics_and_a_seed_gives_the_same_bytes():
    rng = np.random.default_rng(2)
    lost, gained, _ = draw(rng, n=400, lost=[0.05, 0.04, 0.03, 0.02], gained=[0.02] * 4)
    p = max_t(lost, gained, seed=3)
    net = lost - gained
    statistic = net.sum(0) / np.sqrt((net**2).sum(0))
    assert (np.diff(p[np.argsort(-statistic)]) >= 0).all()
    assert p.tobytes() == max_t(lost, gained, seed=3).tobytes() != max_t(lost, gained, seed=4).tobytes()
