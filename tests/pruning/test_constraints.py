"""Constraints against fairlearn and brute force, multipliers against a closed-form optimum."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from fairlearn import metrics as fairlearn
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score

from fairdeploy.data import Rows
from fairdeploy.errors import StageError
from fairdeploy.project import Constraints
from fairdeploy.pruning.constraints import Cells, Constraint, conflict, constraints_of
from fairdeploy.pruning.multipliers import WEIGHTS, Multipliers, row_weights

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
    cells = Cells.of(rows, LEVELS, classes)
    return {f"{one.name}/{one.quantity}": one for one in constraints_of(limits, cells, cells.rates(dense))}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("attribute", LEVELS)
def test_parities_are_fairlearns(seed: int, attribute: str) -> None:
    rows = drawn(seed)
    guess, known = predicted(rows, seed), rows.attributes[attribute] != "unknown"
    rates = Cells.of(rows, LEVELS, 2).rates(guess == rows.labels)
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
    mine, rates = by_name(rows, ALL, dense), Cells.of(rows, LEVELS, 2).rates(guess)
    assert mine["accuracy_drop/accuracy lost by sex"].values(rates) == pytest.approx(list(lost.values()))
    everyone = dense[known].mean() - guess[known].mean()
    beyond = mine["excess_drop/accuracy lost beyond everybody's by sex"].values(rates)
    assert beyond == pytest.approx([value - everyone for value in lost.values()])


@given(seed=st.integers(0, 10_000), limit=st.floats(0.01, 0.5))
@settings(max_examples=40, deadline=None)
def test_nothing_is_violated_where_the_limit_holds_and_the_inequalities_agree(seed: int, limit: float) -> None:
    rows = drawn(seed)
    rates = Cells.of(rows, LEVELS, 2).rates(predicted(rows, seed) == rows.labels)
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
    rates = Cells.of(rows, LEVELS, 4).rates(guess == rows.labels)
    recalls = [(guess == 2)[(rows.labels == 2) & (rows.attributes["tone"] == tone)].mean() for tone in LEVELS["tone"]]
    assert mine["equalized_odds_difference/recall of class 2 by tone"].values(rates) == pytest.approx(recalls)
    with pytest.raises(StageError, match="defined for two classes"):
        by_name(rows, Constraints(demographic_parity_difference=0.1), guess == rows.labels, classes=4)


@pytest.mark.parametrize(
    ("attributes", "labels", "said"),
    [
        (["f"] * 6, [0, 1] * 3, "no rows in group 'm' of sex"),
        (["f", "f", "f", "m", "m", "m"], [0, 1, 1, 1, 1, 1], "no rows with label 0 in group 'm' of sex"),
        (["f", "f", "f", "m", "m", "m"], [1] * 6, "no rows with label 0 in group 'f' of sex"),
    ],
)
def test_a_group_without_rows_of_a_label_is_named(attributes: list[str], labels: list[int], said: str) -> None:
    rows = Rows(np.arange(6).astype(str), np.array(labels), {"sex": np.array(attributes)})
    cells = Cells.of(rows, {"sex": ("f", "m")}, 2)
    with pytest.raises(StageError, match=said):
        constraints_of(Constraints(equalized_odds_difference=0.1), cells, cells.rates(np.ones(6, bool)))


def two_groups(limits: Constraints) -> tuple[Constraint, ...]:
    """Of group f one half has label 1, of group m a quarter; the dense network makes no mistakes."""
    rows = Rows(np.arange(80).astype(str), np.r_[np.arange(40) % 2, np.arange(40) % 4 == 0].astype(int),
                {"sex": np.repeat(["f", "m"], 40)})  # fmt: skip
    cells = Cells.of(rows, {"sex": ("f", "m")}, 2)
    return constraints_of(limits, cells, cells.rates(np.ones(80, bool)))


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


def test_multipliers_find_the_constrained_optimum() -> None:
    """min (q - .9)^2 / 2 with q <= .6 is reached at q = .6, where the multiplier is .3; a slack one ends at 0."""
    upper = Constraint("accuracy_drop", "q", ("g",), np.ones((1, 1)), np.zeros(1), 0.6, parity=False)
    slack = Constraint("accuracy_drop", "q", ("g",), np.ones((1, 1)), np.zeros(1), 0.8, parity=False)
    multipliers = Multipliers((upper, slack), rate=0.1)
    path = []
    for _ in range(300):
        q = 0.9 + multipliers.pressure()  # what minimises the Lagrangian
        multipliers.step(q)
        path.append(multipliers.values.copy())
    assert path[-1] == pytest.approx([0.3, 0.0], abs=1e-6)
    assert 0.9 + multipliers.pressure() == pytest.approx([0.6], abs=1e-6)


def test_multipliers_of_what_cannot_be_met_stop_and_say_so() -> None:
    one = Constraint("accuracy_drop", "q", ("g",), np.ones((1, 1)), np.zeros(1), 0.1, parity=False)
    multipliers = Multipliers((one,), most=3.0)
    for _ in range(100):
        multipliers.step(np.array([0.5]))
    assert multipliers.values == pytest.approx([3.0])
    assert multipliers.saturated == (one,)


def test_parity_presses_the_worst_up_and_the_best_down() -> None:
    rows = drawn(0)
    (constraint,) = [
        one for name, one in by_name(rows, Constraints(equal_opportunity_difference=0.02), rows.labels == 1).items()
        if "tone" in name
    ]  # fmt: skip
    rates = np.full(constraint.measures.shape[1], 0.9)
    rates[[1, 3, 5]] = 0.9, 0.95, 0.7
    multipliers = Multipliers((constraint,))
    multipliers.step(rates)
    pressure = multipliers.pressure()
    assert pressure[5] > 0 > pressure[3]
    assert pressure[[0, 2, 4]] == pytest.approx(0)


@given(seed=st.integers(0, 10_000), strength=st.floats(0, 50))
@settings(max_examples=40, deadline=None)
def test_weights_keep_the_totals_of_the_labels(seed: int, strength: float) -> None:
    rows, random = drawn(seed), np.random.default_rng(seed)
    cells = Cells.of(rows, LEVELS, 2)
    weights = row_weights(cells.of_row, strength * random.standard_normal(len(cells.names)), rows.labels)
    for label in (0, 1):
        assert weights[rows.labels == label].mean() == pytest.approx(1)
    assert weights.min() > 0
    assert weights.max() / weights.min() <= (WEIGHTS[1] / WEIGHTS[0]) ** 2
