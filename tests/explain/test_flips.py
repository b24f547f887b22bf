"""Flips of random predictions against a row-by-row account, for every kind of gate and any number of classes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairdeploy.data import Rows
from fairdeploy.evidence.records import StageName
from fairdeploy.explain.cell import counting
from fairdeploy.explain.flips import Flips, Stages
from fairdeploy.gates import CellVerdict
from fairdeploy.model import ModelSpec, TensorSpec

NAMES: tuple[StageName, ...] = ("dense", "pruned", "compact", "exported", "quantised", "runtime")
GATES = [
    ("true_positive_rate", "max_drop", "dense", "lost"),
    ("true_positive_rate", "max_drop", "compact", "lost"),
    ("true_positive_rate", "min", None, "lost"),
    ("false_positive_rate", "max_increase", "dense", "gained"),
    ("false_positive_rate", "max", None, "gained"),
    ("accuracy", "min", None, "lost"),
    ("selection_rate", "max_drop", "compact", "lost"),
    ("equalized_odds_difference", "max", None, "lost"),
    ("demographic_parity_difference", "max", None, "any"),
    ("flip_rate", "max", "dense", "any"),
    ("flip_rate_to_negative", "max", "compact", "any"),
]


def cell_of(metric: str, condition: str, against: str | None, group: dict[str, str], **more: object) -> CellVerdict:
    known = {"rule": metric, "metric": metric, "condition": condition, "against": against, "group": group}
    empty = dict.fromkeys(("value", "lower", "upper", "n"))
    said = {"status": "fail", "bound": 0.1, "unit": "rate", "method": "", "confidence": 0.95, "reason": ""}
    return CellVerdict.model_validate({**known, **empty, **said, **more})


def stages_of(predicted: np.ndarray, labels: np.ndarray, groups: np.ndarray, classes: int, seed: int) -> Stages:
    """Probabilities whose largest is the wanted class."""
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(classes), predicted.shape).astype(np.float32)
    top = probabilities.argmax(-1)
    stage, row = np.indices(predicted.shape)
    largest, wanted = probabilities[stage, row, top].copy(), probabilities[stage, row, predicted].copy()
    probabilities[stage, row, top], probabilities[stage, row, predicted] = wanted, largest
    n = len(labels)
    rows = Rows(
        ids=np.array([f"r{at}" for at in range(n)]),
        labels=labels,
        attributes={"g": groups},
        contexts={"light": np.array(["dim", "bright"])[np.arange(n) % 2]},
        clusters=np.array([f"p{at // 3}" for at in range(n)]),
    )
    spec = ModelSpec(
        task="binary-classification" if classes == 2 else "multiclass-classification",
        inputs={"x": TensorSpec(shape=("batch", 2))},
        classes=("no", "yes") if classes == 2 else tuple(f"c{at}" for at in range(classes)),
    )
    return Stages.of(dict(zip(NAMES, probabilities, strict=True)), rows, spec)


def by_hand(metric: str, label: int, path: list[int]) -> tuple[bool, list[bool], bool]:
    """Whether a row counts, whether what counts is there at each stage, and whether the whole path is a flip."""
    admitted = {"true_positive_rate": label == 1, "false_positive_rate": label == 0}.get(metric, True)
    if metric in ("true_positive_rate", "false_positive_rate", "selection_rate", "demographic_parity_difference"):
        good = [one == 1 for one in path]
        return admitted, good, good[0] != good[-1]
    good = [one == label for one in path]
    if metric == "flip_rate":
        return True, good, path[0] != path[-1]
    if metric == "flip_rate_to_negative":
        return True, good, path[0] > path[-1]
    return True, good, good[0] != good[-1]


@pytest.mark.parametrize("gate", GATES, ids=lambda gate: f"{gate[0]}.{gate[1]}")
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 40), everyone=st.booleans())
def test_every_row_is_accounted_for(gate: tuple[str, str, str | None, str], seed: int, n: int, everyone: bool) -> None:
    metric, condition, against, harm = gate
    random = np.random.default_rng(seed)
    labels, predicted = random.integers(0, 2, n), random.integers(0, 2, (6, n))
    groups = random.choice(["a", "b"], n)
    group = {"g": "*"} if metric.endswith("difference") else {} if everyone else {"g": "b"}
    cell = cell_of(metric, condition, against, group)
    stages = stages_of(predicted, labels, groups, 2, seed)
    flips = Flips(stages, counting(cell, stages.spec.classes), group, {})

    start = 3 if against == "compact" else 0
    lost = dict.fromkeys(NAMES[start + 1 :], 0)
    gained, fell, rose = dict(lost), dict(lost), dict(lost)
    flipped, rows = set(), 0
    for at in range(n):
        path = predicted[start:, at].tolist()
        counts, good, flip = by_hand(metric, int(labels[at]), path)
        if not counts or (group == {"g": "b"} and groups[at] != "b"):
            continue
        rows += 1
        for step in range(1, len(path)):
            fell[NAMES[start + step]] += good[step - 1] and not good[step]
            rose[NAMES[start + step]] += good[step] and not good[step - 1]
        if flip:
            flipped.add(f"r{at}")
            last = max(step for step in range(1, len(path)) if path[step] != path[step - 1])
            (lost if good[0] else gained)[NAMES[start + last]] += 1

    assert int(flips.inside.sum()) == rows
    found = flips.by_stage()
    assert {one.stage: (one.lost, one.gained, one.changed) for one in found} == {
        name: (lost[name], gained[name], 0) for name in lost
    }
    assert {one.stage: (one.fell, one.rose) for one in found} == {name: (fell[name], rose[name]) for name in fell}
    assert {flips.flip(row).trace.id for row in flips.ordered()} == flipped
    assert (flips.count("lost"), flips.count("gained")) == (sum(lost.values()), sum(gained.values()))
    harmful = {"lost": sum(lost.values()), "gained": sum(gained.values())}.get(harm, len(flipped))
    assert sum(flips.harmful_at().values()) == int(flips.harmful.sum()) == harmful
    for axis in {share.axis for share in flips.shares(group, {})} - {"cluster"}:
        parts = [share for share in flips.shares(group, {}) if share.axis == axis]
        assert (sum(p.rows for p in parts), sum(p.flips for p in parts)) == (rows, harmful)
        assert sum(p.share_of_flips for p in parts) == pytest.approx(1)
        assert sum(p.share_of_rows for p in parts) == pytest.approx(1)


def test_a_row_that_came_back_and_was_lost_again_is_lost_where_it_stayed_lost() -> None:
    path = np.array([[1], [0], [0], [1], [0], [0]])
    stages = stages_of(path, np.array([1]), np.array(["a"]), 2, 0)
    flips = Flips(stages, counting(cell_of("true_positive_rate", "max_drop", "dense", {}), ("no", "yes")), {}, {})
    assert flips.harmful_at() == {"quantised": 1}
    assert [(one.stage, one.fell, one.rose) for one in flips.by_stage() if one.fell or one.rose] == [
        ("pruned", 1, 0),
        ("exported", 0, 1),
        ("quantised", 1, 0),
    ]
    assert stages.trace(0).changed_at == ("pruned", "exported", "quantised")


def test_one_class_against_the_rest_counts_only_that_class() -> None:
    labels = np.array([2, 2, 2, 0])
    predicted = np.array([[2, 2, 0, 0], [2, 1, 2, 1]])[[0, 0, 0, 0, 0, 1]]
    stages = stages_of(predicted, labels, np.array(["a"] * 4), 3, 0)
    cell = cell_of("true_positive_rate", "max_drop", "dense", {}, of_class="c2")
    flips = Flips(stages, counting(cell, stages.spec.classes), {}, {})
    assert int(flips.inside.sum()) == 3
    assert [(flips.flip(row).direction, flips.flip(row).trace.id) for row in flips.ordered()] == [
        ("lost", "r1"),
        ("gained", "r2"),
    ]
    assert "predicted c2" in flips.counting.words


def test_from_one_wrong_class_to_another_is_a_flip_but_no_loss() -> None:
    predicted = np.array([[1], [1], [1], [1], [1], [2]])
    stages = stages_of(predicted, np.array([0]), np.array(["a"]), 3, 0)
    flips = Flips(stages, counting(cell_of("flip_rate", "max", "dense", {}), stages.spec.classes), {}, {})
    assert (flips.count("lost"), flips.count("gained"), flips.count("changed")) == (0, 0, 1)
    assert flips.harmful_at() == {"runtime": 1}
    accuracy = Flips(stages, counting(cell_of("accuracy", "max_drop", "dense", {}), stages.spec.classes), {}, {})
    assert not accuracy.flipped.any()
    assert stages.trace(0).points[0].score == pytest.approx(float(stages.probabilities[0, 0, 0]))


def test_what_was_wrong_before_is_counted_in_the_cell_by_the_gates_own_direction() -> None:
    predicted = np.array([[1, 1, 0, 0, 0, 1]] * 5 + [[1, 1, 1, 0, 0, 1]])
    groups = np.array(["a"] * 5 + ["b"])
    stages = stages_of(predicted, np.zeros(6, int), groups, 2, 0)
    for metric, condition in (("false_positive_rate", "max"), ("accuracy", "min")):
        cell = cell_of(metric, condition, None, {"g": "a"})
        flips = Flips(stages, counting(cell, ("no", "yes")), cell.group, {})
        assert (flips.wrong_before, int(flips.harmful.sum())) == (2, 1)


def test_a_context_narrows_the_cell() -> None:
    predicted = np.array([[1] * 6] * 5 + [[0] * 6])
    stages = stages_of(predicted, np.ones(6, int), np.array(["a"] * 6), 2, 0)
    cell = cell_of("true_positive_rate", "max_drop", "dense", {"g": "a"}, context={"light": "dim"})
    flips = Flips(stages, counting(cell, ("no", "yes")), cell.group, cell.context)
    assert int(flips.inside.sum()) == 3
    shares = list(flips.shares(cell.group, cell.context))
    assert [(share.axis, share.level, share.flips) for share in shares] == [("cluster", "p0", 2)]
