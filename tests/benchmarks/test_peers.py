"""What others do is emulated on counts: here against the libraries themselves."""

import sys
from pathlib import Path

import numpy as np
import pytest
from fairlearn.metrics import MetricFrame, equalized_odds_difference, false_positive_rate, true_positive_rate

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import peers
from releases import INTERSECTIONS, KINDS, STAGES, TONES, draw_release, draw_truth

GROUP_OF_HARM = "one group degraded"


@pytest.fixture(scope="module")
def release():
    rng = np.random.default_rng(3)
    return draw_release(draw_truth(GROUP_OF_HARM, 0.03, rng), 150, rng, clustered=False)


def test_the_interval_drawn_from_counts_is_that_of_metricframe(release):
    tone, labels, deployed = release.columns["attributes"]["tone"], release.columns["labels"], release.predictions
    frame = MetricFrame(
        metrics={"tpr": true_positive_rate, "fpr": false_positive_rate},
        y_true=labels,
        y_pred=deployed["runtime"],
        sensitive_features=tone,
        n_boot=200,
        ci_quantiles=list(peers.FAIRLEARN_QUANTILES),
        random_state=0,
    )
    theirs = [float(side.max()) for side in frame.difference_ci()]
    tally = release.tally("dense", "runtime")
    ours = [peers.fairlearn_difference_ci(tally, "tone", np.random.default_rng(seed)) for seed in range(20)]
    spread = np.std(ours, axis=0)
    assert np.abs(np.mean(ours, axis=0) - theirs) == pytest.approx(0, abs=4 * float(spread.max()))
    assert theirs[1] - theirs[0] > 10 * float(spread.max())


def test_the_point_gate_sees_fairlearns_gap_and_its_growth_only(release):
    tally = release.tally("dense", "runtime")
    before, after = (
        equalized_odds_difference(
            release.columns["labels"], release.predictions[stage],
            sensitive_features=release.columns["attributes"]["tone_and_sex"],
        )
        for stage in ("dense", "runtime")
    )  # fmt: skip
    growth = max(
        after - before,
        *(
            peers._equalized_odds_difference(tally, attribute, "deployed")
            - peers._equalized_odds_difference(tally, attribute, "reference")
            for attribute in ("tone", "sex")
        ),
    )
    assert peers.point_gate_on_the_gap(tally, growth + 1e-9) == "pass"
    assert peers.point_gate_on_the_gap(tally, growth - 1e-9) == "fail"


def test_tfma_compares_the_measured_change_and_its_interval_is_wider(release):
    tally = release.tally("dense", "runtime")
    label, before, after = release.columns["labels"], release.predictions["dense"], release.predictions["runtime"]
    tone = release.columns["attributes"]["tone_and_sex"]
    worst = max(
        float((before == label)[inside].mean() - (after == label)[inside].mean())
        for level in INTERSECTIONS
        for inside in [(tone == level) & (label == 1)]
    )
    assert peers.tfma_change_threshold(tally, (worst + 1e-9, 0.99)) == "pass"
    assert peers.tfma_change_threshold(tally, (worst - 1e-9, 0.99)) == "fail"
    assert peers.tfma_interval(tally, (worst + 1e-9, 0.99), 0) == "inconclusive"
    assert peers.tfma_interval(tally, (0.99, 0.99), 0) == "pass"


@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_release_is_what_its_truth_says(kind, clustered):
    rng = np.random.default_rng([KINDS.index(kind), clustered])
    truth = draw_truth(kind, 0.03, rng)
    release = draw_release(truth, 20_000, rng, clustered=clustered)
    label = release.columns["labels"] == 1
    right = {stage: classes == release.columns["labels"] for stage, classes in release.predictions.items()}
    assert (kind == "harmless") == (truth.stage == "") == (not truth.losses.any())
    for tone in TONES:
        inside = (release.columns["attributes"]["tone"] == tone) & label
        drop = right["dense"][inside].mean() - right["runtime"][inside].mean()
        assert drop == pytest.approx(truth.drop("true_positive_rate", {"tone": tone}), abs=0.006)
    for before, after in zip(STAGES, STAGES[1:], strict=False):
        lost = right[before][label].mean() - right[after][label].mean()
        expected = truth.losses.mean() if after == truth.stage else 0.0
        assert lost == pytest.approx(expected, abs=0.003)
    flips = (release.predictions["dense"] != release.predictions["runtime"])[~label].mean()
    assert flips == pytest.approx(0.02, abs=0.003)


def test_rows_of_one_person_agree_as_much_as_is_said():
    rng = np.random.default_rng(5)
    release = draw_release(draw_truth("harmless", 0.03, rng), 20_000, rng, clustered=True)
    right = (release.predictions["dense"] == release.columns["labels"]).reshape(-1, 5).astype(float)
    assert np.corrcoef(right, rowvar=False)[np.triu_indices(5, 1)].mean() == pytest.approx(0.3, abs=0.03)
