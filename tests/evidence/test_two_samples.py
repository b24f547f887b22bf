import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import confint_proportions_2indep

from fairdeploy.evidence.two_samples import (
    difference_bounds,
    difference_z,
    newcombe,
    ratio_bounds,
    ratio_z,
    score_difference,
    score_ratio,
)


def rounded(interval, digits):
    return [round(float(end), digits) for end in interval]


def test_two_samples_give_the_values_that_were_checked_before():
    assert rounded(newcombe(56, 70, 48, 80, 0.95), 5) == [0.05243, 0.33387]
    assert rounded(score_ratio(5, 30, 50, 100, 0.95), 5) == [0.14340, 0.69576]
    # Newcombe 1998, Statistics in Medicine 17, 873, table II, method 6
    assert rounded(score_difference(56, 70, 48, 80, 0.95), 4) == [0.0528, 0.3382]
    assert rounded(score_difference(9, 10, 3, 10, 0.95), 4) == [0.1700, 0.8406]
    assert rounded(score_difference(10, 10, 0, 20, 0.95), 4) == [0.7156, 1.0]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.integers(1, 60))
def test_two_samples_equal_statsmodels(hits, misses, other_hits, other_misses):
    counts = hits, hits + misses, other_hits, other_hits + other_misses
    theirs = confint_proportions_2indep(*counts, method="newcomb", compare="diff")
    assert [float(end) for end in newcombe(*counts, 0.95)] == pytest.approx(list(theirs), abs=1e-9)
    theirs = confint_proportions_2indep(*counts, method="score", compare="ratio")
    assert [float(end) for end in score_ratio(*counts, 0.95)] == pytest.approx(list(theirs), rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_the_difference_is_tested_at_the_likeliest_nuisance(n, m, data):
    x, y = data.draw(st.integers(0, n)), data.draw(st.integers(0, m))
    d = data.draw(st.integers(-90, 90)) / 100
    other = np.linspace(max(0, -d) + 1e-12, min(1, 1 - d) - 1e-12, 40_001)
    likelihood = stats.binom.logpmf(x, n, other + d) + stats.binom.logpmf(y, m, other)
    best = other[likelihood.argmax()]
    variance = ((best + d) * (1 - best - d) / n + best * (1 - best) / m) * (n + m) / (n + m - 1)
    expected = (x / n - y / m - d) / np.sqrt(variance)
    assert float(difference_z(x, n, y, m, d)) == pytest.approx(expected, rel=0.02, abs=0.02)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.data())
def test_two_sample_scores_invert_their_tests_and_mirror(n, m, data):
    x, y = data.draw(st.integers(0, n)), data.draw(st.integers(0, m))
    lower, upper = (float(end) for end in score_difference(x, n, y, m, 0.9))
    assert -1 <= lower <= x / n - y / m <= upper <= 1
    assert rounded(score_difference(y, m, x, n, 0.9), 9) == pytest.approx([-upper, -lower], abs=1e-8)
    if n + m > 5 and max(-lower, upper) < 0.999:
        z = [float(difference_z(x, n, y, m, end)) for end in (lower, upper)]
        assert z == pytest.approx([1.644854, -1.644854], abs=1e-3)
    if x and y:
        low, high = (float(end) for end in score_ratio(x, n, y, m, 0.9))
        assert low <= x / n / (y / m) <= high
        assert [1 / high, 1 / low] == pytest.approx([float(end) for end in score_ratio(y, m, x, n, 0.9)], rel=1e-6)
        assert float(ratio_z(x, n, y, m, high)) == pytest.approx(-1.644854, abs=1e-3)


def test_two_samples_without_rows_or_successes_know_nothing():
    assert [float(end) for end in score_difference(0, 0, 3, 9, 0.95)] == [-1, 1]
    assert [float(end) for end in newcombe(3, 9, 0, 0, 0.95)] == [-1, 1]
    assert [float(end) for end in score_ratio(0, 9, 0, 9, 0.95)] == [0, np.inf]
    assert float(score_ratio(0, 20, 9, 20, 0.95)[0]) == 0
    assert float(score_ratio(9, 20, 0, 20, 0.95)[1]) == np.inf


@pytest.mark.parametrize(("n", "m"), [(200, 200), (2000, 100), (100, 1000)])
def test_the_gates_bound_keeps_its_error_exactly_at_the_margin(n, m):
    """Every outcome is enumerated with its probability, so there is no Monte-Carlo error."""
    alone = []
    for margin in (0.02, 0.1):
        for reference in (1.0, 0.99, 0.9):
            x, y = np.meshgrid(likely(n, reference - margin), likely(m, reference), indexing="ij")
            chance = stats.binom.pmf(x, n, reference - margin) * stats.binom.pmf(y, m, reference)
            assert chance.sum() == pytest.approx(1, abs=1e-6)
            assert chance[difference_bounds(x, n, y, m, 0.95)[0] > -margin].sum() <= 0.055
            alone.append(chance[score_difference(x, n, y, m, 0.9)[0] > -margin].sum())
    if (n, m) == (2000, 100):
        assert max(alone) > 0.06


def likely(n, rate):
    return np.arange(stats.binom.ppf(1e-7, n, rate), stats.binom.ppf(1 - 1e-7, n, rate) + 1)


def test_the_gates_bounds_mirror_and_hold_the_score_interval():
    x, n, y, m = [0, 7, 10, 3], [10, 20, 10, 3], [4, 0, 9, 50], [20, 30, 10, 60]
    lower, upper = difference_bounds(x, n, y, m, 0.95)
    inner = score_difference(x, n, y, m, 0.9)
    assert (lower <= inner[0]).all()
    assert (upper >= inner[1]).all()
    assert np.allclose(difference_bounds(y, m, x, n, 0.95), (-upper, -lower), atol=1e-9)
    assert [float(end) for end in difference_bounds(0, 0, 4, 9, 0.95)] == [-1, 1]


@pytest.mark.parametrize(("n", "m"), [(300, 50), (200, 200)])
def test_a_ratio_exactly_at_the_margin_is_released_in_at_most_5_7_percent_and_more_by_scores_alone(n, m):
    hits, other = (one.ravel() for one in np.meshgrid(np.arange(n + 1), np.arange(1, m + 1), indexing="ij"))
    _, upper = ratio_bounds(hits, n, other, m, 0.95)
    _, score = score_ratio(hits, n, other, m, 0.9)
    released, by_scores = [], []
    for ratio in (0.8, 1.05, 1.25, 1.5):
        for rate in (0.005, 0.02, 0.1, 0.3, 0.54, 0.62):
            chance = stats.binom.pmf(hits, n, ratio * rate) * stats.binom.pmf(other, m, rate)
            released.append(chance[upper < ratio].sum())
            by_scores.append(chance[score < ratio].sum())
    assert max(released) <= 0.057
    assert max(by_scores) > 0.06


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(0, 60), st.integers(1, 60), st.integers(0, 60))
def test_the_bounds_of_a_ratio_turn_over_with_its_samples_and_hold_the_score_interval(
    hits, misses, other, other_misses
):
    own, theirs = (hits, hits + misses), (other, other + other_misses)
    lower, upper = (float(end) for end in ratio_bounds(*own, *theirs, 0.95))
    turned = [float(1 / end) for end in ratio_bounds(*theirs, *own, 0.95)]
    assert [lower, upper] == pytest.approx(turned[::-1], rel=1e-6)
    score = [float(end) for end in score_ratio(*own, *theirs, 0.9)]
    assert lower <= score[0] * (1 + 1e-9)
    assert upper >= score[1] * (1 - 1e-9)


def test_an_empty_sample_bounds_no_ratio():
    assert [float(end) for end in ratio_bounds(0, 0, 5, 10, 0.95)] == [0, np.inf]
    assert [float(end) for end in ratio_bounds(5, 10, 0, 0, 0.95)] == [0, np.inf]
    assert float(ratio_bounds(3, 10, 0, 10, 0.95)[1]) == np.inf
