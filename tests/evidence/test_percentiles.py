import numpy as np
import pytest
from scipy import signal, stats

from fairdeploy.evidence.percentiles import batch_inflation, percentile, percentile_bounds


@pytest.mark.parametrize(("n", "percent"), [(59, 50), (299, 99), (500, 90), (500, 99), (20, 50), (298, 99), (3, 50)])
def test_percentile_bounds_are_the_tightest_order_statistics_that_cover(n, percent):
    spread_out = np.argsort(np.arange(n) * (np.sqrt(5) - 1) / 2 % 1)  # every batch has its share of each size
    samples = np.arange(1.0, n + 1)[spread_out]  # the r-th order statistic is r
    lower, upper = percentile_bounds(samples, percent, 0.95)
    share = percent / 100
    above = [r for r in range(1, n + 1) if stats.binom.cdf(r - 1, n, share) >= 0.95]
    below = [r for r in range(1, n + 1) if stats.binom.sf(r - 1, n, share) >= 0.95]
    assert upper == (min(above) if above else None)
    assert lower == (max(below) if below else None)


def test_percentile_bounds_hold_in_simulation():
    rng = np.random.default_rng(0)
    true = stats.expon.ppf(0.9)
    held = [percentile_bounds(rng.exponential(size=200), 90, 0.95) for _ in range(2000)]
    assert np.mean([upper >= true for _, upper in held]) >= 0.94
    assert np.mean([lower <= true for lower, _ in held]) >= 0.94


def autoregressive(rng, *, runs, lag_one):
    """Draw [700 series, runs] standard normal numbers whose neighbours are correlated."""
    shocks = np.sqrt(1 - lag_one**2) * rng.standard_normal((700, runs + 100))
    return signal.lfilter([1], [1, -lag_one], shocks, axis=1)[:, 100:]


@pytest.mark.parametrize("lag_one", [0.3, 0.6])
@pytest.mark.parametrize(("runs", "percent"), [(100, 50), (200, 90), (500, 50), (500, 90), (500, 99)])
def test_percentile_bounds_hold_where_neighbouring_runs_resemble_each_other(runs, percent, lag_one):
    true = stats.norm.ppf(percent / 100)
    series = autoregressive(np.random.default_rng(1), runs=runs, lag_one=lag_one)
    bounds = [percentile_bounds(one, percent, 0.95) for one in series]
    assert (
        np.mean([upper is not None and upper < true for _, upper in bounds]) <= 0.07 + 0.019
    )  # two standard errors of 700 series
    assert (
        np.mean([lower is not None and lower > true for lower, _ in bounds]) <= 0.07 + 0.019
    )  # two standard errors of 700 series


def test_runs_in_blocks_have_no_more_worth_than_the_blocks():
    blocks = np.repeat(np.random.default_rng(0).permutation(np.arange(25.0)), 25)
    assert batch_inflation(blocks > 12) == pytest.approx(25, rel=0.05)
    lower, upper = percentile_bounds(blocks, 50, 0.95)
    assert (lower, upper) == pytest.approx((8, 16), abs=1)  # order statistics 8 and 18 of 25 cover one-sidedly
    assert percentile_bounds(blocks, 90, 0.95)[1] is None  # 0.9 ** 25 > 0.05


def test_independent_runs_lose_little():
    rng = np.random.default_rng(2)
    inflation = [batch_inflation(rng.random(500) > 0.9) for _ in range(300)]
    assert min(inflation) == 1
    assert np.mean(inflation) < 1.25
    assert batch_inflation(np.zeros(500, bool)) == 1


def test_without_runs_there_is_no_bound():
    assert percentile_bounds([], 50, 0.95) == (None, None)


def test_a_percentile_is_a_sample():
    assert percentile([1.0, 2.0, 3.0, 10.0], 50) == 2
    assert percentile([1.0, 2.0, 3.0, 10.0], 99) == 10
