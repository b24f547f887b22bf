import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal, stats
from scipy.special import ndtr
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from fairdeploy.evidence.intervals import (
    batch_inflation,
    clopper_pearson,
    holm,
    loss_upper_bound,
    mcnemar_p,
    percentile,
    percentile_bounds,
    tango,
    tango_z,
    wilson,
)


@pytest.mark.parametrize(
    ("lost", "gained", "n", "lower", "upper"),
    [(1, 7, 21, -0.5172, -0.0260), (6, 16, 161, -0.1240, -0.0054), (0, 0, 30, -0.11351, 0.11351)],
)
def test_tango_gives_the_published_values(lost, gained, n, lower, upper):
    digits = 5 if n == 30 else 4
    assert [round(float(end), digits) for end in tango(lost, gained, n, 0.95)] == [lower, upper]


def test_tango_gives_the_values_that_were_checked_before():
    assert [round(float(end), 5) for end in tango(12, 3, 1000, 0.95)] == [0.00162, 0.01821]
    assert float(ndtr(tango_z(12, 3, 1000, 0.02))) == pytest.approx(0.0118816, abs=5e-8)
    assert float(ndtr(tango_z(12, 3, 1000, 0.01))) == pytest.approx(0.399854, abs=5e-7)


def test_tango_without_flips_has_its_closed_form():
    z2 = stats.norm.ppf(0.95) ** 2
    for n in (1, 30, 299, 10_000):
        assert float(tango(0, 0, n, 0.9)[1]) == pytest.approx(z2 / (n + z2), abs=1e-9)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 200), st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_tango_inverts_its_test_and_mirrors(lost, gained, both, confidence):
    n = lost + gained + both
    lower, upper = (float(end) for end in tango(lost, gained, n, confidence))
    assert -1 <= lower <= (lost - gained) / n <= upper <= 1
    z = stats.norm.ppf((1 + confidence) / 2)
    assert float(tango_z(lost, gained, n, lower)) == pytest.approx(z, rel=1e-4)
    assert float(tango_z(lost, gained, n, upper)) == pytest.approx(-z, rel=1e-4)
    mirrored = tango(gained, lost, n, confidence)
    assert (-float(mirrored[1]), -float(mirrored[0])) == pytest.approx((lower, upper), abs=1e-9)


@pytest.mark.parametrize("margin", [0.01, 0.02, 0.05])
@pytest.mark.parametrize("gained", [0.0, 0.0005, 0.01])
def test_the_gates_bound_keeps_its_error_exactly_at_the_margin(margin, gained):
    """Every outcome is enumerated with its probability, so there is no Monte-Carlo error."""
    for n in (90, 140, 268, 300, 475, 1000):
        b, c = np.meshgrid(np.arange(min(n, 140)), np.arange(min(n, 60)), indexing="ij")
        b, c = b[b + c <= n], c[b + c <= n]
        chance = stats.binom.pmf(b, n, margin + gained) * stats.binom.pmf(c, n - b, gained / (1 - margin - gained))
        assert chance.sum() == pytest.approx(1, abs=1e-4)
        assert chance[loss_upper_bound(b, c, n, 0.95) < margin].sum() <= (0.055 if n >= 200 else 0.0605)


def test_tango_where_all_rows_flip_stays_inside():
    lower, upper = tango([5, 0], [0, 5], [5, 5], 0.95)
    assert upper[0] == 1
    assert lower[1] == -1
    assert 0 < lower[0] < 1


def test_without_rows_an_interval_is_everything():
    assert [float(end) for end in tango(0, 0, 0, 0.95)] == [-1, 1]
    assert [float(end) for end in wilson(0, 0, 0.95)] == [0, 1]
    assert [float(end) for end in clopper_pearson(0, 0, 0.95)] == [0, 1]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 80), st.integers(0, 80), st.sampled_from([0.8, 0.95, 0.99]))
def test_proportions_equal_statsmodels(successes, failures, confidence):
    n = successes + failures
    if n == 0:
        return
    for ours, theirs in ((wilson, "wilson"), (clopper_pearson, "beta")):
        expected = proportion_confint(successes, n, alpha=1 - confidence, method=theirs)
        assert [float(end) for end in ours(successes, n, confidence)] == pytest.approx(list(expected), abs=1e-9)


def test_proportions_give_the_values_that_were_checked_before():
    assert np.round(wilson([0, 8], [3, 10], 0.95), 6).tolist() == [[0, 0.490162], [0.561497, 0.943318]]
    assert np.round(clopper_pearson([0, 8], [3, 10], 0.95), 6).tolist() == [[0, 0.443905], [0.707598, 0.974789]]


def test_299_rows_without_a_flip_prove_less_than_one_percent():
    assert float(clopper_pearson(0, 299, 0.9)[1]) < 0.01 < float(clopper_pearson(0, 298, 0.9)[1])


@pytest.mark.parametrize(("lost", "gained", "two_sided_p"), [(7, 1, 0.070313), (16, 6, 0.052479), (12, 3, 0.035156)])
def test_exact_mcnemar_is_half_the_published_p(lost, gained, two_sided_p):
    assert 2 * float(mcnemar_p(lost, gained)) == pytest.approx(two_sided_p, abs=6e-7)
    expected = stats.binomtest(lost, lost + gained, 0.5, alternative="greater").pvalue
    assert float(mcnemar_p(lost, gained)) == pytest.approx(expected, abs=1e-12)
    assert float(mcnemar_p(0, gained)) == 1


def test_holm_gives_the_checked_values_and_statsmodels():
    p = [0.04, 0.001, 0.3, 0.012, 0.02]
    assert holm(p).tolist() == pytest.approx([0.08, 0.005, 0.3, 0.048, 0.06])
    assert holm(p).tolist() == pytest.approx(multipletests(p, method="holm")[1].tolist())


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
