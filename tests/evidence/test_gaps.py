import numpy as np
import pytest

from fairdeploy.evidence import Schema, Tally, metrics
from fairdeploy.evidence.cells import over
from fairdeploy.evidence.gaps import GapEstimate, gap_estimate
from fairdeploy.evidence.statistics import estimate

LEVELS = ("a", "b", "c", "d", "e")


def simulate(rng, *, n, rates, size=1, icc=0.0):
    """Draw five groups of n rows in clusters of `size`; every label is 1."""
    group = np.repeat(LEVELS, n)
    owner = np.arange(len(group)) // size
    draw = np.where(rng.random(len(group)) < np.sqrt(icc), rng.random(len(group))[owner], rng.random(len(group)))
    predicted = (draw < np.repeat(rates, n)).astype(int)
    ids = rng.integers(0, 2**40) + np.arange(len(group))
    return Tally.count(
        Schema(attributes={"g": LEVELS}, contexts={}, classes=("no", "yes"), clustered=size > 1),
        ids=ids, labels=np.ones(len(group), int), attributes={"g": group}, contexts={},
        clusters=(ids[0] + owner) if size > 1 else None, reference=predicted, deployed=predicted,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("n", "rates", "size", "icc"),
    [
        (30, [0.95] * 5, 1, 0),
        (200, [0.9] * 5, 1, 0),
        (200, np.linspace(0.9, 0.85, 5), 1, 0),
        (200, [0.9] * 5, 5, 0.3),
        (50, [0.9] * 5, 5, 0.3),
    ],
)
def test_the_interval_covers_the_true_gap(n, rates, size, icc):
    rng = np.random.default_rng(0)
    covered = []
    for run in range(150):
        tally = simulate(rng, n=n, rates=rates, size=size, icc=icc)
        lower, upper = gap_estimate(tally, metrics.equal_opportunity_difference, "g", seed=run).interval(0.95)
        covered.append(lower <= np.ptp(rates) + 1e-12 and np.ptp(rates) <= upper)
    assert np.mean(covered) >= 0.95 - 0.036  # two standard errors of 150 runs


def test_the_interval_is_not_needlessly_wide():
    tally = simulate(np.random.default_rng(1), n=1000, rates=[0.9] * 5)
    estimate = gap_estimate(tally, metrics.equal_opportunity_difference, "g", seed=0)
    # the 95 % point of the range of five standard normal numbers is 3.858
    assert estimate.interval(0.95)[1] - estimate.value == pytest.approx(3.858 * np.sqrt(0.09 / 1000), rel=0.1)


def test_the_value_is_the_metric_and_the_levels_are_named(tally_of):
    tally = tally_of(
        {
            ("a", 1, 1, 1): 90,
            ("a", 1, 1, 0): 10,
            ("b", 1, 1, 1): 60,
            ("b", 1, 1, 0): 40,
            ("a", 0, 0, 0): 50,
            ("a", 0, 0, 1): 9,
            ("b", 0, 0, 0): 50,
            ("b", 0, 0, 1): 8,
        }
    )
    for metric in metrics.GAPS.values():
        estimate = gap_estimate(tally, metric, "g", seed=0)
        assert estimate.value == pytest.approx(metric(tally, "g"), abs=1e-12)
        lower, upper = estimate.interval(0.95)
        assert lower < estimate.value < upper
        inverse = metric.name in ("true_negative_rate_ratio", "false_negative_rate_ratio")
        assert (estimate.highest, estimate.lowest) == (("b", "a") if inverse else ("a", "b"))


def test_equalized_odds_takes_the_worse_of_two_gaps_in_one_interval(tally_of):
    tally = tally_of(
        {("a", 1, 1, 1): 100, ("b", 1, 1, 1): 100, ("a", 0, 0, 0): 100, ("b", 0, 0, 1): 30, ("b", 0, 0, 0): 70}
    )
    odds = gap_estimate(tally, metrics.equalized_odds_difference, "g", seed=0)
    opportunity = gap_estimate(tally, metrics.equal_opportunity_difference, "g", seed=0)
    assert odds.value == pytest.approx(0.3)
    assert opportunity.value == 0
    assert odds.interval(0.95)[0] > 0
    assert opportunity.interval(0.95)[0] == 0


@pytest.mark.parametrize("few", [0, 1])
def test_equalized_odds_is_as_uncertain_as_the_rarer_label(tally_of, few):
    rows = {(g, label, label, label): 20 if label == few else 3000 for g in "ab" for label in (0, 1)}
    estimate = gap_estimate(tally_of(rows), metrics.equalized_odds_difference, "g", seed=0)
    assert estimate.interval(0.95)[1] > 0.1


@pytest.mark.parametrize("missing", [0, 1])
def test_a_group_without_positives_or_negatives_leaves_the_gap_undefined(tally_of, missing):
    tally = tally_of({("a", 1, 1, 1): 50, ("a", 0, 0, 0): 50, ("b", 1 - missing, 1, 1): 50})
    estimate = gap_estimate(tally, metrics.equalized_odds_difference, "g", seed=0)
    assert estimate.value is None
    assert estimate.undefined == ("b",)
    assert estimate.interval(0.95) == (0, 1)


def test_a_missing_group_and_a_lone_group_leave_the_gap_undefined(tally_of):
    missing = gap_estimate(tally_of({("a", 1, 1, 1): 50}), metrics.accuracy_difference, "g", seed=0)
    assert (missing.value, missing.undefined) == (None, ("b",))
    lone = gap_estimate(tally_of({("a", 1, 1, 1): 50}, levels=("a",)), metrics.accuracy_difference, "g", seed=0)
    assert (lone.value, lone.undefined) == (None, ())


def test_a_group_of_one_row_looks_uncertain_and_all_equal_predictions_are_not_certainty(tally_of):
    one = tally_of({("a", 1, 1, 1): 5000, ("b", 1, 1, 1): 1})
    assert gap_estimate(one, metrics.equal_opportunity_difference, "g", seed=0).interval(0.95)[1] > 0.5
    none = tally_of({("a", 1, 0, 0): 40, ("b", 1, 0, 0): 40})
    assert gap_estimate(none, metrics.demographic_parity_difference, "g", seed=0).interval(0.95)[1] > 0.03


def test_the_margin_is_the_deviation_that_the_wanted_share_does_not_exceed():
    estimate = GapEstimate(0.2, "a", "b", (), 9, None, np.arange(1, 101) / 1000, "by hand")
    assert estimate.interval(0.95) == pytest.approx((0.2 - 0.096, 0.2 + 0.096))
    assert estimate.interval(0.9) == pytest.approx((0.2 - 0.091, 0.2 + 0.091))


def test_the_smallest_group_is_known_by_its_rows_and_buckets():
    clusters = simulate(np.random.default_rng(0), n=50, rates=[0.9] * 5, size=5, icc=0.3)
    estimate = gap_estimate(clusters, metrics.accuracy_difference, "g", seed=0)
    assert estimate.smallest_n == 50
    assert 8 <= estimate.smallest_buckets <= 10
    rows = simulate(np.random.default_rng(0), n=50, rates=[0.9] * 5)
    assert gap_estimate(rows, metrics.accuracy_difference, "g", seed=0).smallest_buckets is None


def test_the_same_seed_gives_the_same_bytes_and_another_does_not():
    tally = simulate(np.random.default_rng(2), n=100, rates=[0.8] * 5, size=5, icc=0.3)
    first, again, other = (
        gap_estimate(tally, metrics.accuracy_difference, "g", seed=seed).deviations.tobytes() for seed in (7, 7, 8)
    )
    assert first == again != other


@pytest.mark.parametrize("n", [30, 1000])
@pytest.mark.parametrize("rates", [[0.3] * 5, [0.3, 0.3, 0.3, 0.3, 0.24], [0.9] * 5])
def test_the_interval_covers_the_true_ratio(n, rates):
    rng = np.random.default_rng(n)
    truth, covered = min(rates) / max(rates), []
    for run in range(100):
        tally = simulate(rng, n=n, rates=rates)
        lower, upper = gap_estimate(tally, metrics.equal_opportunity_ratio, "g", seed=run).interval(0.95)
        covered.append(lower <= truth <= upper)
    assert np.mean(covered) >= 0.95 - 0.044  # two standard errors of 100 runs


@pytest.mark.parametrize(("n", "least", "most"), [(20, 0.1, 1), (2000, 0.0015, 0.3)])
def test_a_group_that_was_never_selected_does_not_prove_a_ratio_of_zero(tally_of, n, least, most):
    tally = tally_of({("a", 1, 1, 1): n // 2, ("a", 1, 1, 0): n // 2, ("b", 1, 0, 0): n})
    estimate = gap_estimate(tally, metrics.equal_opportunity_ratio, "g", seed=0)
    lower, upper = estimate.interval(0.95)
    assert estimate.value == 0 == lower
    assert least < upper <= most


def test_statistics_that_are_known_already_give_the_same_gap(tally_of):
    tally = tally_of({(g, label, label, p): 20 + 7 * p for g in "ab" for label in (0, 1) for p in (0, 1)})
    metric = metrics.predictive_parity_difference
    part, alone = over(tally, ("g",), ()), gap_estimate(tally, metric, "g", seed=4)
    for seed, same in ((4, True), (5, False)):
        known = estimate(tally, metrics.positive_predictive_value, part, seed=seed)
        given = gap_estimate(tally, metric, "g", seed=4, statistics={"positive_predictive_value": known})
        assert (given.deviations.tobytes() == alone.deviations.tobytes()) is same


def test_labels_of_equal_counts_are_drawn_apart(tally_of):
    rows = {(g, label, label, p): 200 if p == label else 50 for g in "ab" for label in (0, 1) for p in (0, 1)}
    tally = tally_of(rows)
    both, one = (
        gap_estimate(tally, metric, "g", seed=0).interval(0.95)[1]
        for metric in (metrics.equalized_odds_difference, metrics.equal_opportunity_difference)
    )
    # the larger of two independent |normal| numbers reaches 2.236 in 5 % of cases, one alone 1.960
    assert both / one == pytest.approx(2.236 / 1.960, rel=0.05)
