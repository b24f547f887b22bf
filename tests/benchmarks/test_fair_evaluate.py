"""Records and comparisons, against fairlearn, scikit-learn and bootstraps that go row by row."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fairlearn.metrics import demographic_parity_difference, equalized_odds_difference
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, roc_auc_score, roc_curve

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import fair_data
import fair_evaluate
from fair_data import Split
from fair_evaluate import EQUAL, GAPS, compare, pack, quantities, records, table, unpack

from fairdeploy.errors import DataError
from fairdeploy.evidence.resampling import cluster_weights

TASK = replace(fair_data.task("kiosk"), groups=("a", "b", "c"), clusters=24)
SCENES = 90


def split_of(seed=0, *, presence=False):
    """Scenes of one family, each seen once in each group, labels in turn."""
    scene = np.repeat(np.arange(SCENES), 3)
    labels = scene % 2
    groups = np.tile(np.arange(3), SCENES)
    family = np.random.default_rng(seed).integers(0, TASK.clusters // 2, SCENES)[scene]
    if presence:
        groups = np.where(labels == 1, groups, -1)
    return Split(np.zeros(len(scene)), labels, groups, 2 * family + labels, scene)


def scores_of(split, *, against=0.0, seed=0, decimals=2):
    """Return scores that follow label and family, and are lower for the last group's positives."""
    random = np.random.default_rng(seed)
    family = np.random.default_rng(100).normal(size=TASK.clusters)[split.clusters]
    z = 2 * split.labels - 1 + family - against * (split.groups == 2) * split.labels + random.normal(size=len(split))
    return np.round(1 / (1 + np.exp(-z)), decimals)


def arms(seeds, **against):
    found = {name: [] for name in ("dense", *against)}
    for seed in range(seeds):
        split = split_of(seed)
        scores = {name: scores_of(split, against=value, seed=seed) for name, value in against.items()}
        made = records({"dense": scores_of(split, seed=50 + seed), **scores}, split, TASK, dense="dense")
        for name in found:
            found[name].append(made[name])
    return found


@pytest.fixture(scope="module")
def one():
    split = split_of()
    scores = {"dense": scores_of(split, seed=9), "pruned": scores_of(split, against=1.0)}
    return split, scores, records(scores, split, TASK, dense="dense")["pruned"]


def test_rates_and_gaps_are_those_of_fairlearn(one):
    split, scores, found = one
    yes = scores["pruned"] >= 0.5
    sensitive = {"sensitive_features": split.groups}
    assert found["equalized_odds_difference"] == pytest.approx(
        equalized_odds_difference(split.labels, yes, **sensitive)
    )
    parity = demographic_parity_difference(split.labels, yes, **sensitive)
    assert found["demographic_parity_difference"] == pytest.approx(parity)
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(split.labels, yes))
    for group, name in enumerate(TASK.groups):
        mine = split.groups == group
        assert found[f"accuracy:{name}"] == pytest.approx(np.mean(yes[mine] == split.labels[mine]))
        assert found[f"tpr:{name}"] == pytest.approx(np.mean(yes[mine & (split.labels == 1)]))
        assert found[f"fpr:{name}"] == pytest.approx(np.mean(yes[mine & (split.labels == 0)]))
        assert found[f"auc:{name}"] == pytest.approx(roc_auc_score(split.labels[mine], scores["pruned"][mine]))
    assert found["worst_group_accuracy"] == min(found[f"accuracy:{name}"] for name in TASK.groups)
    assert found["worst_auc"] == min(found[f"auc:{name}"] for name in TASK.groups)


def test_drops_are_counted_from_the_dense_network(one):
    split, scores, found = one
    right = {name: (said >= 0.5) == split.labels for name, said in scores.items()}
    lost = [np.mean(right["dense"][mine]) - np.mean(right["pruned"][mine]) for mine in split.groups == np.c_[[0, 1, 2]]]
    everyone = np.mean(right["dense"]) - np.mean(right["pruned"])
    assert found["accuracy_lost"] == pytest.approx(everyone)
    assert found["worst_accuracy_lost"] == pytest.approx(max(lost))
    assert found["worst_excess_drop"] == pytest.approx(max(lost) - everyone)
    assert found["excess_drop:c"] == pytest.approx(lost[2] - everyone)


@pytest.mark.parametrize("decimals", [1, 2, 6])
def test_the_gap_at_a_common_fpr_is_read_off_the_roc_curves(decimals):
    split = split_of()
    said = scores_of(split, against=1.0, decimals=decimals)
    found = records({"dense": said}, split, TASK, dense="dense")["dense"]["gap_at_common_fpr"]
    curves = [
        roc_curve(split.labels[mine], said[mine], drop_intermediate=False)[:2]
        for mine in split.groups == np.c_[[0, 1, 2]]
    ]
    reached = []
    for fpr, tpr in curves:
        last = np.flatnonzero(fpr <= fair_evaluate.COMMON_FPR)[-1]
        share = (fair_evaluate.COMMON_FPR - fpr[last]) / (fpr[last + 1] - fpr[last])
        reached.append(tpr[last] + share * (tpr[last + 1] - tpr[last]))
    assert found == pytest.approx(np.ptp(reached))


def test_a_shift_of_one_groups_threshold_is_no_gap_at_a_common_fpr():
    split = split_of()
    said = np.random.default_rng(4).random(SCENES)[split.scenes] / 2 + split.labels / 3
    shifted = np.where(split.groups == 2, said**2, said)
    found = records({"dense": said, "shifted": shifted}, split, TASK, dense="dense")["shifted"]
    assert found["equalized_odds_difference"] > 0.2
    assert found["gap_at_common_fpr"] == pytest.approx(0)


def test_groups_are_exchanged_within_their_scene_and_label_only(one):
    split, _, found = one
    by_scene = np.random.default_rng(5).random(SCENES)[split.scenes]
    alike = records({"dense": by_scene}, split, TASK, dense="dense")["dense"]
    assert [alike[name + EQUAL] for name in GAPS] == pytest.approx([0, 0, 0, 0])
    assert 0 < found["equalized_odds_difference" + EQUAL] < found["equalized_odds_difference"] - 0.02


def test_what_an_equal_network_shows_is_what_equal_networks_show():
    split = replace(split_of(), scenes=np.zeros(3 * SCENES, int))
    shown, expected = [], []
    for seed in range(12):
        said = np.random.default_rng(seed).random(len(split))
        made = records({"dense": said}, split, TASK, dense="dense")["dense"]
        shown.append(made["equalized_odds_difference"])
        expected.append(made["equalized_odds_difference" + EQUAL])
    assert np.mean(expected) == pytest.approx(np.mean(shown), abs=3 * stats.sem(shown))


def test_without_negatives_by_group_only_true_positive_rates_compare():
    split = split_of(presence=True)
    said = scores_of(split, against=1.0)
    found = records({"dense": said}, split, TASK, dense="dense")["dense"]
    assert not {"equalized_odds_difference", "demographic_parity_difference", "fpr:a"} & set(found)
    mine = (split.groups == 2) | (split.labels == 0)
    assert found["auc:c"] == pytest.approx(roc_auc_score(split.labels[mine], said[mine]))
    assert found["true_positive_rate_gap"] > found["true_positive_rate_gap" + EQUAL]
    assert found["accuracy:c"] == found["tpr:c"]
    assert "true_positive_rate_gap" in compare([found], [found], [found], task=TASK)


def test_a_record_is_json(one):
    assert json.loads(json.dumps(one[2], allow_nan=False)) == one[2]


def test_a_table_is_read_back(one):
    split, scores, found = one
    counted = table(scores["pruned"] >= 0.5, split, TASK)
    assert counted.sum() == len(split)
    assert np.array_equal(unpack(found["table"], TASK), counted)
    assert np.array_equal(unpack(pack(counted), TASK), counted)


def slow_quantities(yes, split, weights):
    """The gap and the accuracy of weighted rows, label by label and group by group."""
    rates = np.array(
        [[np.average(yes[m], weights=weights[m]) for m in ((split.groups == g) & (split.labels == y) for g in range(3))]
         for y in (0, 1)]
    )  # fmt: skip
    recalls = [np.average((yes == y)[split.labels == y], weights=weights[split.labels == y]) for y in (0, 1)]
    return max(np.ptp(rates[0]), np.ptp(rates[1])), np.mean(recalls)


def test_the_bootstrap_is_the_one_row_by_row(monkeypatch):
    found = arms(2, first=0.4, second=1.0)
    made = compare(found["first"], found["second"], found["dense"], task=TASK)
    weights = cluster_weights(0, TASK.clusters)
    differences = np.zeros((2, len(weights)))
    for seed in range(2):
        split = split_of(seed)
        for sign, against in ((0.5, 0.4), (-0.5, 1.0)):
            yes = scores_of(split, against=against, seed=seed) >= 0.5
            slow = [slow_quantities(yes, split, one[split.clusters]) for one in weights]
            differences += sign * np.array(slow).T
    for name, drawn in zip(("equalized_odds_difference", "accuracy"), differences, strict=True):
        assert made[name].clusters == pytest.approx(tuple(np.quantile(drawn, (0.025, 0.975))))


def test_the_bootstrap_is_close_to_one_that_draws_families_and_asks_fairlearn():
    found = arms(1, first=0.0, second=1.5)
    made = compare(found["first"], found["second"], found["dense"], task=TASK)["equalized_odds_difference"]
    split, random = split_of(), np.random.default_rng(0)
    said = [scores_of(split, against=against) >= 0.5 for against in (0.0, 1.5)]
    drawn = []
    for _ in range(150):
        families = [random.choice(np.unique(split.clusters[split.labels == y]), 12) for y in (0, 1)]
        rows = np.concatenate([np.flatnonzero(split.clusters == one) for one in np.concatenate(families)])
        one, other = (
            equalized_odds_difference(split.labels[rows], yes[rows], sensitive_features=split.groups[rows])
            for yes in said
        )
        drawn.append(one - other)
    assert np.ptp(made.clusters) == pytest.approx(np.ptp(np.quantile(drawn, (0.025, 0.975))), rel=0.3)
    assert np.mean(made.clusters) == pytest.approx(np.mean(np.quantile(drawn, (0.025, 0.975))), abs=0.05)


def test_the_interval_over_seeds_is_students():
    found = arms(4, first=0.4, second=1.0)
    made = compare(found["first"], found["second"], found["dense"], task=TASK)
    for name in ("equalized_odds_difference", "worst_auc"):
        differences = [a[name] - b[name] for a, b in zip(found["first"], found["second"], strict=True)]
        interval = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
        assert made[name].over_seeds == pytest.approx((interval.low, interval.high))
        assert made[name].difference == pytest.approx(np.mean(differences))
    assert made["worst_auc"].clusters is None
    assert not any(name.endswith(EQUAL) for name in made)


def test_clear_only_if_both_intervals_are():
    found = arms(5, first=0.0, second=2.5)
    made = compare(found["first"], found["second"], found["dense"], task=TASK)
    assert made["true_positive_rate_gap"].clear
    assert made["true_positive_rate_gap"].difference < -0.2
    one_seed = compare(*([one[0]] for one in (found["first"], found["second"], found["dense"])), task=TASK)
    assert one_seed["true_positive_rate_gap"].clusters[1] < 0
    assert not one_seed["true_positive_rate_gap"].clear
    assert not made["worst_auc"].clear
    itself = compare(found["first"], found["first"], found["dense"], task=TASK)
    assert not any(one.clear or one.difference for one in itself.values())


def test_drops_from_the_dense_network_are_resampled_with_it():
    found = arms(2, first=0.4, second=1.0)
    made = compare(found["first"], found["second"], found["dense"], task=TASK)
    assert made["excess_drop:c"].clusters == pytest.approx(
        tuple(-np.array(made["accuracy:c"].clusters[::-1])), abs=0.05
    )
    assert made["accuracy_lost"].clusters == pytest.approx(tuple(-np.array(made["accuracy"].clusters[::-1])))


def test_arms_on_other_rows_or_of_other_seeds_are_refused():
    found = arms(2, first=0.4)
    with pytest.raises(DataError, match="seed number 1 are not of the same rows"):
        compare(found["first"], [found["first"][0], found["first"][0]], found["dense"], task=TASK)
    with pytest.raises(DataError, match="2, 1 and 2 records"):
        compare(found["first"], found["first"][:1], found["dense"], task=TASK)
    with pytest.raises(DataError, match="0, 0 and 0 records"):
        compare([], [], [], task=TASK)


@pytest.mark.parametrize("text", ["", "not base64!", "eJwDAAAAAAE=", pack(np.zeros((2, 2, 2, 2)))])
def test_a_table_that_is_none_is_refused(text):
    with pytest.raises(DataError, match="not one of the task 'kiosk'"):
        unpack(text, TASK)


@pytest.mark.parametrize("wrong", [np.nan, -0.1, 1.1])
def test_scores_that_are_no_probabilities_are_refused(wrong):
    split = split_of()
    said = scores_of(split)
    said[7] = wrong
    with pytest.raises(DataError, match="'pruned': one probability for each of the 270 rows"):
        records({"dense": scores_of(split), "pruned": said}, split, TASK, dense="dense")


def test_scores_of_other_rows_or_without_the_dense_are_refused():
    split = split_of()
    with pytest.raises(DataError, match="'short': one probability"):
        records({"short": scores_of(split)[1:]}, split, TASK, dense="short")
    with pytest.raises(DataError, match="no scores of the dense network 'dense': there are pruned"):
        records({"pruned": scores_of(split)}, split, TASK, dense="dense")


def test_a_cell_without_rows_has_no_rate():
    counted = table(scores_of(split_of()) >= 0.5, split_of(), TASK).sum(0)
    counted[1, 0] = 0
    found = quantities(counted, TASK.groups, counted)
    assert np.isnan(found["fpr:b"])
    assert np.isnan(found["equalized_odds_difference"])
    assert not np.isnan(found["tpr:b"])
