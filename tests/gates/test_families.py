"""Gates on what is no rate: ratios, statistics, excess drops, growing gaps; within contexts, for a class, on scores."""

import numpy as np
import pytest
from sklearn import metrics as sk

from fairdeploy.errors import ConfigError
from fairdeploy.evidence import Schema, Tally, judge, statistics
from fairdeploy.evidence.scores import Scores
from fairdeploy.gates import Gates, Rule, gate

FACTS = {
    "target": "here", "level": "device", "level_reason": "this host", "spec_digest": "b" * 64,
    "data_fingerprint": "c" * 64, "reference_digests": {}, "requested_precision": "int8", "seed": 3,
}  # fmt: skip
N = 3000


def rows(seed=0, *, harm=0.0, classes=2):
    rng = np.random.default_rng(seed)
    group, race = rng.choice(["a", "b"], N), rng.choice(["x", "y"], N)
    light = rng.choice(["day", "night"], N)
    label = rng.integers(0, classes, N)
    reference = np.where(rng.random(N) < 0.1, (label + 1) % classes, label)
    spoilt = (rng.random(N) < np.where((group == "b") & (light == "night"), harm, 0)) & (reference == label)
    deployed = np.where(spoilt, (label + 1) % classes, reference)
    return group, race, light, label, reference, deployed


def tally_of(group, race, light, label, reference, deployed):
    names = ("no", "yes") if label.max() < 2 else ("cat", "dog", "owl")
    schema = Schema(
        attributes={"g": ("a", "b"), "race": ("x", "y")}, contexts={"light": ("day", "night")}, classes=names
    )
    return Tally.count(
        schema, ids=np.arange(N).astype(str), labels=label, attributes={"g": group, "race": race},
        contexts={"light": light}, clusters=None, reference=reference, deployed=deployed,
    )  # fmt: skip


def decide(columns, condition, metric, bound, **options):
    rule = Rule(metric=metric, condition=condition, bound=bound, **options)
    tally = tally_of(*columns)
    verdict = gate(judge(tallies={"dense": tally}, **FACTS), Gates(rules=(rule,)))
    return {(*cell.group.items(), *cell.context.items()): cell for cell in verdict.cells}


B = (("g", "b"),)
OVER_G = (("g", "*"),)


def test_a_statistic_is_that_of_scikit_learn_and_decided_by_its_bounds():
    group, _, _, label, reference, deployed = columns = rows(harm=0.3)
    own = group == "b"
    for name, truth in (("positive_predictive_value", sk.precision_score), ("f1_score", sk.f1_score)):
        cell = decide(columns, "min", name, 0.5)[B]
        assert cell.value == pytest.approx(truth(label[own], deployed[own]))
        assert cell.status == "pass"
        assert cell.lower < cell.value < cell.upper
        assert decide(columns, "min", name, 0.95)[B].status == "fail"
        assert decide(columns, "min", name, round(cell.value, 2))[B].status == "inconclusive"
        drop = decide(columns, "max_drop", name, 0.02, against="dense")[B]
        assert drop.value == pytest.approx(truth(label[own], reference[own]) - truth(label[own], deployed[own]))
        assert drop.status == "fail"
        assert decide(rows(), "max_drop", name, 0.02, against="dense")[B].status == "pass"


def test_four_fifths_is_a_ratio_that_must_be_at_least():
    columns = rows(harm=0.3)
    cell = decide(columns, "min", "demographic_parity_ratio", 0.8)[OVER_G]
    assert (cell.unit, cell.status) == ("ratio", "pass")
    assert decide(columns, "min", "demographic_parity_ratio", 0.99)[OVER_G].status != "pass"
    assert cell.lower < cell.value <= 1


def test_a_ratio_to_the_reference_is_decided_by_paired_bounds():
    group, _, _, label, reference, deployed = columns = rows(harm=0.3)
    own = (group == "b") & (label == 0)
    cell = decide(columns, "max_ratio", "false_positive_rate", 1.2, against="dense")[B]
    assert cell.value == pytest.approx(deployed[own].mean() / reference[own].mean())
    assert (cell.unit, cell.status) == ("ratio", "fail")
    assert "times that of the dense network" in cell.reason
    assert decide(rows(), "max_ratio", "false_positive_rate", 1.2, against="dense")[B].status == "pass"


def test_an_excess_drop_is_a_groups_loss_beyond_everyones():
    group, _, _, label, reference, deployed = columns = rows(harm=0.3)
    lost = (reference == label).astype(int) - (deployed == label)
    cells = decide(columns, "max", "accuracy_excess_drop", 0.02, against="dense")
    assert cells[B].value == pytest.approx(lost[group == "b"].mean() - lost.mean())
    assert cells[B].status == "fail"
    assert cells[(("g", "a"),)].status == "pass"
    assert () not in cells


def test_a_gap_that_grew_fails_and_levelling_down_does_not():
    columns = rows(harm=0.3)
    cell = decide(columns, "max_increase", "accuracy_difference", 0.03, against="dense")[OVER_G]
    group, _, _, label, reference, deployed = columns
    gaps = [
        abs((one == label)[group == "a"].mean() - (one == label)[group == "b"].mean()) for one in (deployed, reference)
    ]
    assert cell.value == pytest.approx(gaps[0] - gaps[1])
    assert cell.value <= cell.upper
    assert cell.status == "fail"
    assert decide(rows(), "max_increase", "equalized_odds_difference", 0.03, against="dense")[OVER_G].status == "pass"


def test_pairing_bounds_a_growing_gap_better_than_two_gaps_by_themselves():
    cells = decide(rows(harm=0.02), "max_increase", "accuracy_difference", 0.03, against="dense")
    alone = decide(rows(harm=0.02), "max", "accuracy_difference", 0.03)
    grown = cells[OVER_G].upper - cells[OVER_G].value
    assert grown < 0.5 * (alone[OVER_G].upper - alone[OVER_G].value)


def test_a_group_is_judged_within_a_context_only_where_a_gate_says_so():
    columns = rows(harm=0.06)
    plain = decide(columns, "max_drop", "accuracy", 0.06, against="dense")
    assert len(plain) == 5
    within = decide(columns, "max_drop", "accuracy", 0.06, against="dense", within="light")
    assert {key: within[key].value for key in plain} == {key: plain[key].value for key in plain}
    assert len(within) == 15
    group, _, light, label, reference, deployed = columns
    chosen = (group == "b") & (light == "night")
    cell = within[(("g", "b"), ("light", "night"))]
    lost = (reference == label).astype(int) - (deployed == label)
    assert cell.value == pytest.approx(lost[chosen].mean())
    assert cell.n == chosen.sum()
    assert "g b in light night" in cell.reason
    assert plain[B].value < cell.value


def test_a_context_that_is_not_declared_decides_nothing():
    (cell,) = decide(rows(), "max_drop", "accuracy", 0.06, against="dense", within="lihgt").values()
    assert cell.status == "inconclusive"
    assert "did you mean 'light'" in cell.reason


@pytest.mark.parametrize(
    ("metric", "condition", "against"),
    [("accuracy", "min", None), ("accuracy", "max_drop", "dense"), ("balanced_accuracy", "min", None)],
)
def test_intersections_are_judged_beside_the_groups(metric, condition, against):
    bound = 0.5 if condition == "min" else 0.1
    cells = decide(rows(), condition, metric, bound, against=against, intersections=True)
    assert len(cells) == 5 + 4
    assert {cell.status for cell in cells.values()} == {"pass"}


def test_one_class_of_many_against_the_rest():
    columns = rows(harm=0.3, classes=3)
    group, _, _, label, reference, deployed = columns
    own = (group == "b") & (label == 1)
    cells = decide(columns, "max_drop", "true_positive_rate", 0.02, against="dense", of_class="dog")
    assert cells[B].value == pytest.approx((reference[own] == 1).mean() - (deployed[own] == 1).mean())
    assert cells[B].status == "fail"
    assert "true positive rate (class dog)" in cells[B].reason
    (cell,) = decide(columns, "min", "true_positive_rate", 0.5, of_class="cow").values()
    assert cell.status == "inconclusive"
    with pytest.raises(ConfigError, match="needs two classes"):
        decide(columns, "min", "true_positive_rate", 0.5)


def test_scores_are_gated_where_there_are_any_and_inconclusive_where_there_are_none():
    group, race, _, label, reference, deployed = columns = rows()
    rng = np.random.default_rng(1)
    tally = tally_of(*columns)
    made = {
        name: Scores.count(
            tally.schema, ids=np.arange(N).astype(str), labels=label, attributes={"g": group, "race": race},
            clusters=None, scores=np.clip(0.5 + (found - 0.5) * rng.random(N), 0, 1),
        )
        for name, found in (("deployed", deployed), ("dense", reference))
    }  # fmt: skip
    rule = Rule(metric="area_under_curve", condition="min", bound=0.6)
    with_scores = gate(judge(tallies={"dense": tally}, scores=made, **FACTS), Gates(rules=(rule,)))
    assert with_scores.status == "pass"
    without = gate(judge(tallies={"dense": tally}, **FACTS), Gates(rules=(rule,)))
    assert without.status == "inconclusive"
    assert "no scores" in without.sentence


@pytest.mark.parametrize(
    "rule",
    [
        {"metric": "size_mb", "condition": "max", "bound": 1, "within": "light"},
        {"metric": "accuracy", "condition": "min", "bound": 0.5, "of_class": "cat"},
        {"metric": "area_under_curve", "condition": "min", "bound": 0.5, "within": "light"},
        {"metric": "demographic_parity_ratio", "condition": "min", "bound": 1},
        {"metric": "demographic_parity_ratio", "condition": "max", "bound": 0.8},
        {"metric": "accuracy_difference", "condition": "max_increase", "bound": 0.1},
    ],
)
def test_rules_without_meaning_are_refused(rule):
    with pytest.raises(ValueError, match="validation error"):
        Rule(**rule)


def test_a_statistic_that_a_user_registers_can_be_gated():
    name = "share_of_the_table"
    added = statistics.register(statistics.Statistic(name, "share", lambda t: t[..., 1, 1] / t.sum((-2, -1))))
    try:
        group, _, _, label, _, deployed = columns = rows()
        own = group == "b"
        cell = decide(columns, "min", name, 0.3)[B]
        assert cell.value == pytest.approx(((label == 1) & (deployed == 1))[own].mean())
        assert cell.status == "pass"
        assert cell.reason.startswith("The share of g b is ")
    finally:
        del statistics.STATISTICS[added.name]
