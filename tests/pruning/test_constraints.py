"""Constraints against fairlearn and brute force: whom they are about, what they mean, and which exclude each other."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from fairlearn import metrics as fairlearn
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.metrics import accuracy_score
from torch import nn

from fairdeploy.data import Rows
from fairdeploy.errors import DataError, StageError
from fairdeploy.project import Constraints
from fairdeploy.pruning.cells import Grouping
from fairdeploy.pruning.constraints import Constraint, conflict, constraints_of
from fairdeploy.pruning.fair import FairTraining
from fairdeploy.pruning.problem import Batch
from tests.pruning.problems import SAID, counted, problem_of, stream_of

LEVELS = {"tone": ("I", "II", "III"), "sex": ("f", "m")}
ALL = Constraints(
    equalized_odds_difference=0.05, equal_opportunity_difference=0.04, demographic_parity_difference=0.1,
    accuracy_difference=0.03, accuracy_drop=0.02, excess_drop=0.01,
)  # fmt: skip


def drawn(seed: int, count: int = 400, classes: int = 2) -> Rows:
    random = np.random.default_rng(seed)
    return Rows(
        ids=np.arange(count).astype(str),
        labels=random.integers(classes, size=count),
        attributes={name: random.choice([*levels, "unknown"], count) for name, levels in LEVELS.items()},
    )


def predicted(rows: Rows, seed: int, classes: int = 2) -> np.ndarray:
    random = np.random.default_rng(1000 + seed)
    return np.where(random.random(len(rows)) < 0.8, rows.labels, random.integers(classes, size=len(rows)))


def by_name(rows: Rows, limits: Constraints, dense: np.ndarray, classes: int = 2) -> dict[str, Constraint]:
    found = constraints_of(limits, *counted(rows, dense, LEVELS, classes))
    return {f"{one.name}/{one.quantity}": one for one in found}


def batch_of(groups: torch.Tensor) -> Batch:
    count = groups.shape[1]
    return Batch((torch.zeros(count),), torch.zeros(count, dtype=torch.int64), groups, None)


def rates_of(rows: Rows, right: np.ndarray, classes: int = 2) -> np.ndarray:
    return counted(rows, right, LEVELS, classes)[1]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("attribute", LEVELS)
def test_parities_are_fairlearns(seed: int, attribute: str) -> None:
    rows = drawn(seed)
    guess, known = predicted(rows, seed), rows.attributes[attribute] != "unknown"
    rates = rates_of(rows, guess == rows.labels)
    mine = by_name(rows, ALL, np.ones(len(rows), bool))
    worst = {name: one.worst(rates) for name, one in mine.items() if name.endswith(attribute)}
    said = {
        "y_true": rows.labels[known],
        "y_pred": guess[known],
        "sensitive_features": rows.attributes[attribute][known],
    }
    odds = [value for name, value in worst.items() if name.startswith("equalized_odds")]
    assert max(odds) == pytest.approx(fairlearn.equalized_odds_difference(**said))
    for name, peer in {
        "equal_opportunity_difference/true positive rate": fairlearn.equal_opportunity_difference(**said),
        "demographic_parity_difference/selection rate": fairlearn.demographic_parity_difference(**said),
        "accuracy_difference/accuracy": fairlearn.MetricFrame(metrics=accuracy_score, **said).difference(),
    }.items():
        assert worst[f"{name} by {attribute}"] == pytest.approx(peer)


def test_drops_are_counted_from_the_dense_network() -> None:
    rows = drawn(0)
    dense, guess = predicted(rows, 1) == rows.labels, predicted(rows, 2) == rows.labels
    known = rows.attributes["sex"] != "unknown"
    lost = {g: (dense[at].mean() - guess[at].mean()) for g in "fm" for at in [rows.attributes["sex"] == g]}
    mine, rates = by_name(rows, ALL, dense), rates_of(rows, guess)
    assert mine["accuracy_drop/accuracy lost by sex"].values(rates) == pytest.approx(list(lost.values()))
    everyone = dense[known].mean() - guess[known].mean()
    beyond = mine["excess_drop/accuracy lost beyond everybody's by sex"].values(rates)
    assert beyond == pytest.approx([value - everyone for value in lost.values()])


@given(seed=st.integers(0, 10_000), limit=st.floats(0.01, 0.5))
@settings(max_examples=40, deadline=None)
def test_nothing_is_violated_where_the_limit_holds_and_the_inequalities_agree(seed: int, limit: float) -> None:
    rows = drawn(seed)
    rates = rates_of(rows, predicted(rows, seed) == rows.labels)
    for one in by_name(
        rows, Constraints(equalized_odds_difference=limit, excess_drop=limit), rows.labels == 1
    ).values():
        holds = one.worst(rates) <= limit + 1e-12
        assert bool((one.violations(rates) <= 1e-12).all()) == holds
        matrix, bounds = one.inequalities()
        assert bool((matrix @ rates <= bounds + 1e-12).all()) == holds
        nudged = rates + 1e-6 * np.arange(len(rates))
        if not one.parity:
            moved = one.violations(nudged) - one.violations(rates)
            assert one.slopes() @ (nudged - rates) == pytest.approx(moved, abs=1e-12)


def test_more_classes_compare_the_recall_of_each() -> None:
    rows = drawn(3, classes=4)
    guess = predicted(rows, 3, classes=4)
    mine = by_name(rows, Constraints(equalized_odds_difference=0.1), guess == rows.labels, classes=4)
    assert len(mine) == 8
    rates = rates_of(rows, guess == rows.labels, classes=4)
    recalls = [(guess == 2)[(rows.labels == 2) & (rows.attributes["tone"] == tone)].mean() for tone in LEVELS["tone"]]
    assert mine["equalized_odds_difference/recall of class 2 by tone"].values(rates) == pytest.approx(recalls)
    with pytest.raises(StageError, match="defined for two classes"):
        by_name(rows, Constraints(demographic_parity_difference=0.1), guess == rows.labels, classes=4)


@pytest.mark.parametrize(
    ("attributes", "labels", "said"),
    [
        (["f"] * 6, [0, 1] * 3, "no rows in group 'm' of sex"),
        (["f", "f", "f", "m", "m", "m"], [0, 1, 1, 1, 1, 1], "no rows with label 0 in group 'm' of sex"),
    ],
)
def test_a_group_without_rows_of_a_label_is_named(attributes: list[str], labels: list[int], said: str) -> None:
    rows = Rows(np.arange(6).astype(str), np.array(labels), {"sex": np.array(attributes)})
    with pytest.raises(StageError, match=said):
        constraints_of(
            Constraints(equalized_odds_difference=0.1), *counted(rows, np.ones(6, bool), {"sex": ("f", "m")}, 2)
        )


def two_groups(limits: Constraints) -> tuple[Constraint, ...]:
    """Of group f one half has label 1, of group m a quarter; the dense network makes no mistakes."""
    rows = Rows(np.arange(80).astype(str), np.r_[np.arange(40) % 2, np.arange(40) % 4 == 0].astype(int),
                {"sex": np.repeat(["f", "m"], 40)})  # fmt: skip
    return constraints_of(limits, *counted(rows, np.ones(80, bool), {"sex": ("f", "m")}, 2))


@pytest.mark.parametrize(
    "limits",
    [
        Constraints(demographic_parity_difference=0.05, accuracy_drop=0.05),
        Constraints(demographic_parity_difference=0.05, accuracy_drop=0.1),
        Constraints(demographic_parity_difference=0.1, equalized_odds_difference=0.1),
        Constraints(demographic_parity_difference=0.2, accuracy_drop=0.05, excess_drop=0.1),
        Constraints(demographic_parity_difference=0.1, accuracy_drop=0.2, equalized_odds_difference=0.1),
        Constraints(equalized_odds_difference=0.01, accuracy_drop=0.01),
    ],
    ids=str,
)
def test_what_excludes_each_other_is_what_no_rates_meet(limits: Constraints) -> None:
    constraints = two_groups(limits)
    grid = np.array(list(product(np.linspace(0, 1, 21), repeat=4)))
    missed = min(np.max([(a @ grid.T - b[:, None]).max(0) for a, b in (c.inequalities() for c in constraints)], axis=0))
    found = conflict(constraints)
    if found is None:
        assert missed <= 0.05, "the grid's step"
    else:
        assert missed - 0.05 <= found.excess <= missed + 1e-9
        assert {one.name for one in found.constraints} == {"demographic_parity_difference", "accuracy_drop"}
        assert "exclude each other" in str(found)


def test_rates_out_of_reach_make_a_conflict() -> None:
    constraints = two_groups(Constraints(accuracy_drop=0.1, equalized_odds_difference=0.1))
    assert conflict(constraints) is None
    found = conflict(constraints, at_most=np.array([1.0, 1.0, 1.0, 0.5]))
    assert found is not None
    assert "accuracy_drop" in str(found)
    assert conflict(()) is None


def test_an_error_rate_is_held_whatever_the_dense_network_does() -> None:
    rows = drawn(1)
    right = predicted(rows, 1) == rows.labels
    mine = by_name(rows, Constraints(worst_group_error=0.1), np.zeros(len(rows), bool))
    one = mine["worst_group_error/error rate by tone"]
    wrong = [1 - right[rows.attributes["tone"] == tone].mean() for tone in LEVELS["tone"]]
    assert one.values(rates_of(rows, right)) == pytest.approx(wrong)
    assert one.worst(rates_of(rows, right)) == pytest.approx(max(wrong))
    assert one.violations(rates_of(rows, np.ones(len(rows), bool))) == pytest.approx(-0.1)


def test_one_class_compares_hit_rates() -> None:
    rows = drawn(2, classes=1)
    hit = np.random.default_rng(2).random(len(rows)) < 0.7
    limits = Constraints(equalized_odds_difference=0.1, accuracy_drop=0.1)
    mine = by_name(rows, limits, np.ones(len(rows), bool), classes=1)
    rates = [hit[rows.attributes["sex"] == sex].mean() for sex in LEVELS["sex"]]
    found = mine["equalized_odds_difference/hit rate by sex"]
    assert found.worst(rates_of(rows, hit, 1)) == pytest.approx(max(rates) - min(rates))
    assert mine["accuracy_drop/accuracy lost by sex"].values(rates_of(rows, hit, 1)) == pytest.approx(
        [1 - rate for rate in rates]
    )
    for name in ("demographic_parity_difference", "equal_opportunity_difference"):
        with pytest.raises(StageError, match="defined for two classes, and there is one; .* hit rates"):
            by_name(rows, Constraints.model_validate({name: 0.1}), hit, classes=1)


def test_cells_without_rows_that_no_constraint_needs_do_no_harm() -> None:
    rows = Rows(
        np.arange(6).astype(str), np.array([0, 1, 1, 1, 1, 1]), {"sex": np.array(["f", "f", "f", "m", "m", "m"])}
    )
    counts = counted(rows, np.array([1, 1, 0, 1, 1, 1], bool), {"sex": ("f", "m")}, 2)
    one, drop = constraints_of(Constraints(equal_opportunity_difference=0.1, accuracy_drop=0.1), *counts)
    assert one.worst(counts[1]) == pytest.approx(0.5)
    assert drop.values(counts[1]) == pytest.approx([0, 0])


def everybody(rows: Rows, right: np.ndarray, limits: Constraints) -> list[Constraint]:
    """Constraints over all levels and their intersections, counted by hand from joined columns."""
    tone, sex = (rows.attributes[name] for name in ("tone", "sex"))
    joined = np.where((tone == "unknown") | (sex == "unknown"), "unknown", np.char.add(np.char.add(tone, " and "), sex))
    levels = {**LEVELS, "tone and sex": tuple(f"{a} and {b}" for a, b in product(*LEVELS.values()))}
    whole = Rows(rows.ids, rows.labels, {**rows.attributes, "tone and sex": joined})
    return list(constraints_of(limits, *counted(whole, right, levels, 2), partial={"tone and sex"}))


@pytest.mark.parametrize("seed", range(3))
def test_intersections_are_groups_of_joined_columns(seed: int) -> None:
    rows, limits = drawn(seed), Constraints(equalized_odds_difference=0.1, excess_drop=0.1, intersections=True)
    right = predicted(rows, seed) == rows.labels
    found = FairTraining(
        limits, problem_of(*[stream_of(rows, right, LEVELS)] * 2, LEVELS, objective=SAID), nn.Identity()
    )
    wanted = everybody(rows, right, limits)
    assert [(str(one), one.groups) for one in found.constraints] == [(str(one), one.groups) for one in wanted]
    assert {len(one.groups) for one in wanted} == {2, 3, 6}
    rates = everybody_rates(rows, right)
    for mine, hand in zip(found.constraints, wanted, strict=True):
        assert mine.values(found.dense) == pytest.approx(hand.values(rates))


def everybody_rates(rows: Rows, right: np.ndarray) -> np.ndarray:
    tone, sex = (rows.attributes[name] for name in ("tone", "sex"))
    cells = [rows.attributes[name] == level for name, levels in LEVELS.items() for level in levels]
    cells += [(tone == a) & (sex == b) for a, b in product(*LEVELS.values())]
    return np.array([right[cell & (rows.labels == label)].mean() for cell in cells for label in (0, 1)])


def test_intersections_without_rows_are_left_out_and_named() -> None:
    rows = drawn(4)
    gone = (rows.attributes["tone"] == "II") & (rows.attributes["sex"] == "f") & (rows.labels == 1)
    gone |= (rows.attributes["tone"] == "III") & (rows.attributes["sex"] == "m")
    kept = rows.take(np.flatnonzero(~gone))
    right = predicted(kept, 4) == kept.labels
    limits = Constraints(equal_opportunity_difference=0.1, accuracy_drop=0.1, intersections=True)
    found = FairTraining(
        limits, problem_of(*[stream_of(kept, right, LEVELS)] * 2, LEVELS, objective=SAID), nn.Identity()
    )
    joint = {one.name: one for one in found.constraints if one.quantity.endswith("tone and sex")}
    assert joint["equal_opportunity_difference"].left_out == ("II and f", "III and m")
    assert joint["accuracy_drop"].left_out == ("III and m",)
    assert joint["accuracy_drop"].groups == ("I and f", "I and m", "II and f", "II and m", "III and f")
    said = [entry.reason for entry in found.decisions("recover")]
    assert sum("left out for want of rows: II and f, III and m" in reason for reason in said) == 1
    assert np.isfinite([one.worst(found.dense) for one in found.constraints]).all()


def test_only_the_attributes_that_are_named_are_constrained() -> None:
    rows = drawn(5)
    rows.attributes["sex"][:] = "f"
    stream = stream_of(rows, predicted(rows, 5) == rows.labels, LEVELS)
    problem = problem_of(stream, stream, LEVELS, objective=SAID)
    with pytest.raises(StageError, match="no rows in group 'm' of sex"):
        FairTraining(Constraints(accuracy_drop=0.1), problem, nn.Identity())
    found = FairTraining(Constraints(accuracy_drop=0.1, attributes=("tone",)), problem, nn.Identity())
    assert [one.quantity for one in found.constraints] == ["accuracy lost by tone"]
    found.multipliers.values[:] = [0, 0, 3]
    (batch, *_) = stream.epoch(0)
    heavy = found.weights(batch)[batch.groups[0] == 2].min()
    assert heavy > found.weights(batch)[batch.groups[0] != 2].max()


@pytest.mark.parametrize(
    ("limits", "declared", "said"),
    [
        ({"attributes": ["age"]}, LEVELS, "no attribute 'age' is declared under groups; declared: tone, sex"),
        ({}, {}, "no attributes are declared under groups; declared: none"),
        ({"intersections": True}, {"sex": ("f", "m")}, "there is only sex; declare another"),
    ],
)
def test_attributes_that_are_not_declared_are_refused(limits: Any, declared: Any, said: str) -> None:
    with pytest.raises(StageError, match=said):
        Constraints.model_validate({"accuracy_drop": 0.1, **limits}).of(declared)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({}, "at least one limit: equalized_odds_difference, .*, worst_group_error"),
        ({"attributes": ["sex"]}, "at least one limit"),
        ({"accuracy_drop": 0.1, "attributes": []}, "attributes"),
        ({"accuracy_drop": 0.1, "attributes": ["sex", "sex"], "intersections": True}, "two attributes or more"),
        ({"accuracy_drop": 0.1, "intersections": 1}, "intersections"),
        ({"accuracy_drop": 0.0}, "accuracy_drop"),
        ({"accuracy_dropp": 0.1}, "accuracy_dropp"),
    ],
)
def test_constraints_that_mean_nothing_are_refused(limits: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Constraints.model_validate(limits)


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, -1, 1]])
def test_a_label_that_is_no_class_is_refused(labels: list[int]) -> None:
    rows = Rows(np.arange(3).astype(str), np.array(labels), {"sex": np.array(["f", "m", "f"])})
    with pytest.raises(DataError, match=r"classes are 0 to 1"):
        counted(rows, np.ones(3, bool), {"sex": ("f", "m")}, 2)


def test_groups_of_three_attributes_know_who_is_unknown() -> None:
    declared = {"a": ("x", "y"), "b": ("p", "q", "r"), "c": ("u", "v")}
    grouping = Grouping.over(declared, ["c", "a", "b"], together=True)
    everyone = torch.tensor(list(product((-1, 0, 1), (-1, 0, 1, 2), (-1, 0, 1)))).T
    levels = grouping.groups["c and a and b"]
    for (a, b, c), joint in zip(
        everyone.T.tolist(), grouping.batch(batch_of(everyone)).groups[-1].tolist(), strict=True
    ):
        known = min(a, b, c) >= 0
        assert joint == (levels.index(f"{'uv'[c]} and {'xy'[a]} and {'pqr'[b]}") if known else -1)
