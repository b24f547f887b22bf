"""Score metrics against a brute-force computation on the scores themselves, within the error that they state."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from fairdeploy.errors import ConfigError, DataError, IntegrityError
from fairdeploy.evidence import Schema
from fairdeploy.evidence.cells import over
from fairdeploy.evidence.scores import (
    SCORES,
    Scores,
    area_under_curve,
    cross_area_under_curve,
    estimate_scores,
    expected_calibration_error,
)

SCHEMA = Schema(attributes={"g": ("a", "b")}, contexts={"light": ("day",)}, classes=("no", "yes"))
ROWS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 1), st.floats(0, 1)), min_size=1, max_size=60)


def count(group, labels, scores, *, start=0, schema=SCHEMA, clusters=None):
    return Scores.count(
        schema, ids=np.arange(start, start + len(labels)), labels=np.array(labels, int),
        attributes={"g": np.array(group, str)}, clusters=clusters, scores=np.array(scores, float),
    )  # fmt: skip


def simulate(rng, n, *, quality=1.0, noise=0.0):
    group, label = rng.choice(["a", "b"], n), rng.integers(0, 2, n)
    logit = quality * (2 * label - 1) + rng.normal(0, 1, n)
    both = [1 / (1 + np.exp(-(logit + extra))) for extra in (0, rng.normal(0, noise, n))]
    return group, label, *both


def ece_by_hand(label, score):
    place = np.minimum((score * 10).astype(int), 9)
    return sum(abs((label - score)[place == at].sum()) for at in range(10)) / len(label)


def auc_by_hand(positive, negative):
    difference = positive[:, None] - negative[None, :]
    return np.mean((difference > 0) + 0.5 * (difference == 0))


@settings(max_examples=80, deadline=None)
@given(ROWS)
def test_metrics_are_those_of_the_scores_within_what_they_state(rows):
    group, label, score = map(np.array, zip(*rows, strict=True))
    scores = count(group, label, score)
    for level in ("a", "b"):
        here = group == level
        if not here.any():
            assert all(metric(scores, {"g": level}) is None for metric in SCORES.values())
            continue
        error = abs(expected_calibration_error(scores, {"g": level}) - ece_by_hand(label[here], score[here]))
        # a score at an edge of a tenth may fall to the other side by a rounding of the product
        edge = np.isclose((score[here] * 100) % 1, 0) | np.isclose((score[here] * 100) % 1, 1)
        assert edge.any() or error <= expected_calibration_error.quantisation(scores, {"g": level}) + 1e-12
        positive, negative = score[here & (label == 1)], score[here & (label == 0)]
        others = score[~here & (label == 0)]
        for metric, against in ((area_under_curve, negative), (cross_area_under_curve, others)):
            found = metric(scores, {"g": level})
            if not len(positive) or not len(against):
                assert found is None
                continue
            bound = metric.quantisation(scores, {"g": level}) + 1e-12
            assert abs(found - auc_by_hand(positive, against)) <= bound
            assert metric is not area_under_curve or abs(found - roc_auc_score(label[here], score[here])) <= bound


@settings(max_examples=40, deadline=None)
@given(ROWS, ROWS)
def test_shards_add_up_to_the_whole_and_survive_json(first, second):
    parts = [count(*zip(*rows, strict=True), start=at) for rows, at in ((first, 0), (second, len(first)))]
    whole = count(*zip(*(first + second), strict=True))
    assert parts[0] + parts[1] == parts[1] + parts[0] == whole
    assert whole + Scores.zero(whole.schema) == whole
    assert Scores.from_json(whole.to_json()) == whole
    assert whole.rows == len(first + second)


def test_many_classes_are_judged_by_the_confidence_of_the_largest():
    schema = Schema(attributes={"g": ("a", "b")}, contexts={}, classes=("x", "y", "z"))
    rng = np.random.default_rng(0)
    scores, label = rng.dirichlet([1, 1, 1], 500), rng.integers(0, 3, 500)
    histogram = count(rng.choice(["a", "b"], 500), label, scores, schema=schema)
    expected = ece_by_hand((scores.argmax(1) == label).astype(int), scores.max(1))
    assert expected_calibration_error(histogram) == pytest.approx(expected, abs=0.005)
    with pytest.raises(ConfigError, match="area_under_curve needs two classes, not 3"):
        area_under_curve(histogram)


def test_everyone_has_no_others_to_be_crossed_with():
    assert cross_area_under_curve(count(["a", "b"], [0, 1], [0.2, 0.8])) is None


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        ([0.5, np.nan], "row 1 is nan"),
        ([np.inf, 0.5], "row 0 is inf"),
        ([0.5, -0.01], "row 1 is -0.01"),
        ([1.01, 0.5], "row 0 is 1.01"),
        (["0.5", "0.5"], "not text"),
        ([True, False], "not text"),
        ([None, 0.5], "not text"),
        ([[0.5], [0.5]], r"shape \[2, 1\]"),
        ([0.5], r"shape \[1\]"),
        ([[0.5, np.nan], [0.5, 0.5]], "row 0"),
    ],
)
def test_impossible_scores_are_refused_with_their_row(scores, says):
    with pytest.raises(DataError, match=says):
        Scores.count(SCHEMA, ids=[1, 2], labels=[0, 1], attributes={"g": ["a", "b"]}, clusters=None, scores=scores)


def test_a_changed_file_is_refused():
    text = count(["a", "b"], [0, 1], [0.2, 0.8]).to_json()
    plain = json.loads(text)
    for changed in (
        json.dumps({**plain, "counts": [2, 1]}),
        json.dumps({**plain, "bins": 10}),
        text.replace("fairdeploy-scores/1", "fairdeploy-tally/2"),
        "{}",
    ):
        with pytest.raises(IntegrityError, match="not a valid score histogram"):
            Scores.from_json(changed)


@pytest.mark.parametrize("name", sorted(SCORES))
@pytest.mark.parametrize("n", [30, 1000])
def test_bounds_err_as_rarely_as_they_say(name, n):
    metric, rng, runs = SCORES[name], np.random.default_rng(n), 120
    group, label, score, noisy = simulate(rng, 200_000, noise=0.5)
    large, other = count(group, label, noisy), count(group, label, score)
    truth = metric(large, {"g": "a"})
    change = truth - metric(other, {"g": "a"})
    part = over(large, ("g",), ())
    wrong = np.zeros(4)
    for run in range(runs):
        group, label, score, noisy = simulate(rng, n, noise=0.5)
        found = estimate_scores(metric, count(group, label, noisy), count(group, label, score), part, seed=run)
        lower, upper = (side[0] for side in found.bounds(0.95))
        low, high = (side[0] for side in found.change_bounds(0.95))
        wrong += [lower > truth, upper < truth, low > change, high < change]
    assert (wrong / runs <= 0.055 + 2 * np.sqrt(0.05 * 0.95 / runs)).all(), wrong / runs


@pytest.mark.parametrize(("n", "worse"), [(500, 0.08), (2000, 0.05)])
def test_a_calibrated_reference_does_not_hide_an_overconfident_artifact(n, worse):
    """The reference's calibration error is all chance, and must not be taken off the artifact's."""
    rng, released, runs = np.random.default_rng(0), 0, 60
    for run in range(runs):
        score = rng.uniform(0.1, 0.9, n)
        label, group = rng.random(n) < score, np.full(n, "a")
        deployed, reference = (count(group, label, one) for one in (score + worse, score))
        found = estimate_scores(expected_calibration_error, deployed, reference, over(deployed, (), ()), seed=run)
        released += found.change_bounds(0.95)[1][0] < worse
    assert released <= runs * 0.055 + 2 * np.sqrt(runs * 0.05 * 0.95)


def test_one_row_and_three_rows_prove_nothing():
    for rows in (1, 3):
        scores = count(["a"] * rows + ["b"] * 50, [1] * rows + [0, 1] * 25, [0.99] * rows + [0.1, 0.9] * 25)
        part = over(scores, ("g",), ())
        for name in ("expected_calibration_error", "cross_area_under_curve"):
            found = estimate_scores(SCORES[name], scores, scores, part, seed=0)
            lower, upper = found.change_bounds(0.95)
            assert lower[0] < -0.3
            assert upper[0] > 0.3


def test_the_same_rows_are_needed_and_the_seed_decides():
    first, other = count(["a", "b"], [0, 1], [0.2, 0.8]), count(["a", "b"], [1, 1], [0.2, 0.8])
    part = over(first, ("g",), ())
    with pytest.raises(DataError, match="not of the same rows"):
        estimate_scores(area_under_curve, first, other, part, seed=0)
    alone = estimate_scores(expected_calibration_error, first, None, part, seed=0)
    assert np.isnan(alone.change).all()
    draws = [
        estimate_scores(expected_calibration_error, first, first, part, seed=seed).upper.tobytes() for seed in (1, 1, 2)
    ]
    assert draws[0] == draws[1] != draws[2]
