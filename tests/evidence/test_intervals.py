import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import ndtr
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from fairdeploy.evidence.intervals import (
    clopper_pearson,
    holm,
    loss_upper_bound,
    mcnemar,
    mcnemar_p,
    newcombe_paired,
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
    assert [float(end) for end in newcombe_paired(0, 0, 0, 0, 0.95)] == [-1, 1]


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


def rounded(interval, digits):
    return [round(float(end), digits) for end in interval]


TABLES = {  # both right, reference only, deployed only, neither: exact, mid-p, asymptotic p; Newcombe's interval
    (1, 1, 7, 12): (0.070313, 0.039063, 0.033895, [-0.5069, -0.0256]),
    (59, 6, 16, 80): (0.052479, 0.034690, 0.033006, [-0.1186, -0.0046]),
    (980, 12, 3, 5): (0.035156, 0.021271, None, [0.00108, 0.01831]),
    (30, 0, 0, 0): (1, 1, None, [-0.11351, 0.11351]),
}


@pytest.mark.parametrize("table", TABLES)
def test_mcnemar_and_newcombe_give_the_published_values(table):
    both, lost, gained, neither = table
    exact, mid_p, asymptotic, interval = TABLES[table]
    assert float(mcnemar(lost, gained)) == pytest.approx(exact, abs=5.1e-7)
    assert float(mcnemar(lost, gained, "mid-p")) == pytest.approx(mid_p, abs=5.1e-7)
    assert asymptotic in (None, round(float(mcnemar(lost, gained, "asymptotic")), 6))
    digits = 4 if both in (1, 59) else 5
    assert rounded(newcombe_paired(both, lost, gained, neither, 0.95), digits) == interval


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 50), st.integers(0, 50))
def test_mcnemar_equals_statsmodels_and_the_sum_of_its_definition(lost, gained):
    assert float(mcnemar(lost, gained)) == float(mcnemar(gained, lost))
    if lost + gained:
        for variant, exact in (("exact", True), ("asymptotic", False)):
            theirs = statsmodels_mcnemar([[9, lost], [gained, 9]], exact=exact, correction=False).pvalue
            assert float(mcnemar(lost, gained, variant)) == pytest.approx(theirs, abs=1e-12)
    fewer, flips = min(lost, gained), stats.binom(lost + gained, 0.5)
    assert float(mcnemar(lost, gained, "mid-p")) == pytest.approx(2 * flips.cdf(fewer) - flips.pmf(fewer), abs=1e-12)
