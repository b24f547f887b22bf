import warnings

import numpy as np
import pytest
from fairlearn import metrics as fairlearn
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score

from fairdeploy.errors import ConfigError
from fairdeploy.evidence import Schema, Tally, metrics, words
from fairdeploy.evidence.gaps import gap_estimate

SCHEMA = Schema(attributes={"g": ("a", "b", "c")}, contexts={"light": ("day", "night")}, classes=("no", "yes"))
ROWS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["day", "night"]), *[st.integers(0, 1)] * 3),
    min_size=1,
    max_size=40,
)


def columns(rows):
    return [np.array(column) for column in zip(*rows, strict=True)]


def count(rows):
    group, light, label, reference, deployed = columns(rows)
    return Tally.count(
        SCHEMA, ids=np.arange(len(rows)), labels=label, attributes={"g": group}, contexts={"light": light},
        clusters=None, reference=reference, deployed=deployed,
    )  # fmt: skip


def by_mask(name, label, prediction):
    """Compute a rate from its textbook definition on raw arrays."""
    if name == "accuracy":
        return np.mean(label == prediction) if len(label) else None
    if name == "selection_rate":
        return np.mean(prediction) if len(label) else None
    truth, _, outcome = name.partition("_")
    outcome = int(outcome.startswith("positive"))
    kept = prediction[label == (outcome if truth == "true" else 1 - outcome)]
    return np.mean(kept == outcome) if len(kept) else None


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_rates_equal_a_computation_by_mask(rows):
    tally = count(rows)
    group, light, label, reference, deployed = columns(rows)
    for name, metric in metrics.RATES.items():
        for level in "abc":
            for of, prediction in (("deployed", deployed), ("reference", reference)):
                mask = (group == level) & (light == "day")
                expected = by_mask(name, label[mask], prediction[mask])
                found = metric(tally, {"g": level}, context={"light": "day"}, of=of)
                assert found == (None if expected is None else pytest.approx(expected, abs=1e-12))
        assert metric(tally) == (
            by_mask(name, label, deployed) if found is None else pytest.approx(by_mask(name, label, deployed))
        )


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_lost_and_gained_equal_a_count_by_mask(rows):
    tally = count(rows)
    group, _, label, reference, deployed = columns(rows)
    counts = metrics.accuracy.counts(tally, ("g",)).map(lambda column: column.sum(0))
    lost = [int(((group == g) & (reference == label) & (deployed != label)).sum()) for g in "abc"]
    gained = [int(((group == g) & (reference != label) & (deployed == label)).sum()) for g in "abc"]
    assert counts.lost.tolist()[:3] == lost
    assert counts.gained.tolist()[:3] == gained
    assert (counts.deployed == counts.reference - counts.lost + counts.gained).all()


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_gaps_equal_fairlearn_wherever_it_is_defined(rows):
    tally = count(rows)
    group, _, label, _, deployed = columns(rows)
    given_all = set(group) == set("abc")
    full = given_all and all(set(label[group == g]) == {0, 1} for g in "abc")
    frame = {"y_true": label, "y_pred": deployed, "sensitive_features": group}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fairlearn divides by empty groups
        expected = {
            "demographic_parity_difference": fairlearn.demographic_parity_difference(**frame) if given_all else None,
            "equalized_odds_difference": fairlearn.equalized_odds_difference(**frame) if full else None,
            "accuracy_difference": fairlearn.MetricFrame(metrics=accuracy_score, **frame).difference()
            if given_all
            else None,
        }
    for name, value in expected.items():
        assert metrics.GAPS[name](tally, "g") == (None if value is None else pytest.approx(value, abs=1e-12))
    if full:
        worst = fairlearn.MetricFrame(metrics=accuracy_score, **frame).group_min()
        assert metrics.worst_group_accuracy(tally, "g") == pytest.approx(worst, abs=1e-12)


RATIOS = {
    "demographic_parity_ratio": fairlearn.demographic_parity_ratio,
    "equalized_odds_ratio": fairlearn.equalized_odds_ratio,
    "equal_opportunity_ratio": fairlearn.true_positive_rate_ratio,
    "accuracy_ratio": fairlearn.accuracy_score_ratio,
    "false_positive_rate_ratio": fairlearn.false_positive_rate_ratio,
    "true_negative_rate_ratio": fairlearn.true_negative_rate_ratio,
    "false_negative_rate_ratio": fairlearn.false_negative_rate_ratio,
    "false_positive_rate_difference": fairlearn.false_positive_rate_difference,
}


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), *[st.integers(0, 1)] * 2), max_size=40))
def test_ratios_equal_fairlearn_wherever_they_are_defined(rows):
    every = [*rows, *((g, label, 1 - label) for g in "abc" for label in (0, 1))]
    group, label, deployed = columns(every)
    tally = Tally.count(
        SCHEMA, ids=np.arange(len(every)), labels=label, attributes={"g": group},
        contexts={"light": np.full(len(every), "day")}, clusters=None, reference=label, deployed=deployed,
    )  # fmt: skip
    for name, truth in RATIOS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # fairlearn divides 0 by 0
            expected = truth(label, deployed, sensitive_features=group)
        found = metrics.GAPS[name](tally, "g")
        rates = [[rate(tally, {"g": level}) for level in "abc"] for rate in metrics.GAPS[name].rates]
        if metrics.GAPS[name].ratio and not all(any(row) for row in rates):
            assert found is None
        else:
            assert found == pytest.approx(expected, abs=1e-12)


def test_a_ratio_of_zeros_is_undefined(tally_of):
    tally = tally_of({("a", 1, 0, 0): 50, ("b", 1, 0, 0): 50, ("a", 0, 0, 0): 5, ("b", 0, 0, 0): 5})
    for name in ("demographic_parity_ratio", "equalized_odds_ratio", "equal_opportunity_ratio"):
        assert metrics.GAPS[name](tally, "g") is None
        assert gap_estimate(tally, metrics.GAPS[name], "g", seed=0).why_undefined == "no level has a rate above 0"


def test_equal_opportunity_is_undefined_when_a_group_has_no_positives(tally_of):
    tally = tally_of({("a", 1, 1, 1): 50, ("a", 0, 0, 0): 50, ("b", 0, 0, 0): 50})
    assert metrics.equal_opportunity_difference(tally, "g") is None
    assert metrics.equalized_odds_difference(tally, "g") is None
    assert metrics.demographic_parity_difference(tally, "g") == 0.5


def test_a_missing_group_or_a_single_one_leaves_gaps_undefined(tally_of):
    assert metrics.accuracy_difference(tally_of({("a", 1, 1, 1): 9}), "g") is None
    assert metrics.worst_group_accuracy(tally_of({("a", 1, 1, 1): 9}), "g") is None
    assert metrics.accuracy_difference(tally_of({("a", 1, 1, 1): 9}, levels=("a",)), "g") is None


def test_unknown_counts_as_a_group_as_soon_as_it_has_rows(tally_of):
    known = {("a", 1, 1, 1): 9, ("b", 1, 1, 1): 9}
    assert metrics.accuracy_difference(tally_of(known), "g") == 0
    assert metrics.accuracy_difference(tally_of({**known, ("", 1, 1, 0): 1}), "g") == 1


def test_flips_are_counted_by_direction(tally_of):
    tally = tally_of({("a", 1, 1, 0): 3, ("a", 0, 0, 1): 2, ("b", 1, 1, 1): 5})
    flipped = [int(metric.counts(tally)[0].sum()) for metric in metrics.FLIPS.values()]
    assert flipped == [5, 3, 2]


def test_many_classes_are_refused_where_two_are_needed(tally_of):
    tally = tally_of({("a", 2, 1, 2): 3, ("b", 0, 0, 0): 3}, classes=("x", "y", "z"))
    assert metrics.accuracy(tally) == 1
    assert metrics.accuracy(tally, of="reference") == 0.5
    for metric in (metrics.true_positive_rate, metrics.false_positive_rate, metrics.selection_rate):
        with pytest.raises(ConfigError, match="needs two classes, not 3"):
            metric(tally)
    with pytest.raises(ConfigError, match="two classes"):
        metrics.equalized_odds_difference(tally, "g")
    with pytest.raises(ConfigError, match="two classes"):
        metrics.flip_rate_to_negative.counts(tally)


def test_unknown_names_are_refused(tally_of):
    with pytest.raises(ConfigError, match="'z' is not a level of g"):
        metrics.accuracy(tally_of({("a", 1, 1, 1): 1}), {"g": "z"})
    with pytest.raises(ConfigError, match="no attribute or context 'tone'"):
        metrics.accuracy(tally_of({("a", 1, 1, 1): 1}), {"tone": "a"})


def test_groups_have_words():
    assert words({"skin_tone": "VI"}) == "skin tone VI"
    assert words({"sex": "F", "age": "unknown"}) == "sex F and unknown age"
    assert words({"skin_tone": "*"}) == "all levels of skin tone"
    assert words({}) == "everyone"
