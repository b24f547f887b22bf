"""Statistics against scikit-learn, and their bounds against the truth of a simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta
from sklearn import metrics as sklearn

from fairdeploy.errors import ConfigError
from fairdeploy.evidence import Schema, Tally
from fairdeploy.evidence import statistics as module
from fairdeploy.evidence.cells import cells, over
from fairdeploy.evidence.statistics import STATISTICS, Statistic, estimate, estimates, load, names, register

TRUTH = {
    "positive_predictive_value": lambda y, p: sklearn.precision_score(y, p, zero_division=np.nan),
    "negative_predictive_value": lambda y, p: sklearn.precision_score(y, p, pos_label=0, zero_division=np.nan),
    "balanced_accuracy": lambda y, p: sklearn.recall_score(y, p, average="macro") if len(set(y)) == 2 else np.nan,
    "f1_score": lambda y, p: sklearn.f1_score(y, p, zero_division=np.nan),
}  # fmt: skip
ROWS = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), *[st.integers(0, 1)] * 3), min_size=1, max_size=40
)
BINARY = Schema(attributes={"g": ("a", "b"), "h": ("x", "y")}, contexts={}, classes=("no", "yes"))


def count(schema, columns, label, reference, deployed, clusters=None):
    return Tally.count(
        schema, ids=np.arange(len(label)), labels=label, attributes=columns, contexts={}, clusters=clusters,
        reference=reference, deployed=deployed,
    )  # fmt: skip


def same(found, expected):
    return found is None if np.isnan(expected) else found == pytest.approx(expected, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(ROWS)
def test_statistics_are_scikit_learns_in_every_group_and_intersection(rows):
    g, h, label, reference, deployed = map(np.array, zip(*rows, strict=True))
    tally = count(BINARY, {"g": g, "h": h}, label, reference, deployed)
    for name, truth in TRUTH.items():
        for group in ({}, {"g": "a"}, {"g": "a", "h": "y"}):
            here = np.all([{"g": g, "h": h}[axis] == level for axis, level in group.items()] or [g == g], axis=0)
            for of, predicted in (("deployed", deployed), ("reference", reference)):
                expected = truth(label[here], predicted[here]) if here.any() else np.nan
                assert same(STATISTICS[name](tally, group, of=of), expected)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), *[st.integers(0, 2)] * 2), min_size=1, max_size=40))
def test_many_classes_have_a_macro_recall_and_each_class_its_own_statistics(rows):
    g, label, deployed = map(np.array, zip(*rows, strict=True))
    schema = Schema(attributes={"g": ("a", "b")}, contexts={}, classes=("x", "y", "z"))
    tally = count(schema, {"g": g}, label, deployed, deployed)
    full = set(label) == {0, 1, 2}
    expected = sklearn.balanced_accuracy_score(label, deployed) if full else np.nan
    assert same(STATISTICS["balanced_accuracy"](tally), expected)
    with pytest.raises(ConfigError, match="needs two classes, not 3"):
        STATISTICS["f1_score"](tally)
    for index in range(3):
        one = tally.one_vs_rest(index)
        assert one.schema.classes == ("other", schema.classes[index])
        expected = sklearn.precision_score(label == index, deployed == index, zero_division=np.nan)
        assert same(STATISTICS["positive_predictive_value"](one), expected)


def test_bounds_of_a_proportion_are_clopper_pearsons():
    share = Statistic("share_right", "share", lambda t: np.trace(t, axis1=-2, axis2=-1) / t.sum((-2, -1)))
    for right, wrong in ((40, 0), (35, 5), (3, 0), (1, 0), (0, 7)):
        label = np.ones(right + wrong, int)
        schema = Schema(attributes={"g": ("a",)}, contexts={}, classes=("no", "yes"))
        deployed = np.arange(right + wrong) < right
        tally = count(schema, {"g": np.full(right + wrong, "a")}, label, label, deployed.astype(int))
        lower, upper = estimate(tally, share, over(tally, ("g",), ()), seed=1).bounds(0.95)
        n = right + wrong
        assert lower[0] == pytest.approx(beta.ppf(0.05, right, wrong + 1) if right else 0, abs=0.015)
        assert upper[0] == pytest.approx(beta.ppf(0.95, right + 1, wrong) if wrong else 1, abs=0.015)
        assert n == estimate(tally, share, over(tally, ("g",), ()), seed=1).n[0]


def simulate(rng, n, groups, *, flip, size=1):
    """Labels half and half; the reference is right in 80 %, and its positives turn negative in `flip` of the rows."""
    rows = n * groups
    owner = np.arange(rows) // size
    draw = np.where(rng.random(rows) < np.sqrt(0.3 if size > 1 else 0), rng.random(rows)[owner], rng.random(rows))
    label = rng.integers(0, 2, rows)
    reference = np.where(rng.random(rows) < 0.8, label, 1 - label)
    deployed = np.where((reference == 1) & (draw < flip), 0, reference)
    levels = tuple(f"g{at}" for at in range(groups))
    schema = Schema(attributes={"g": levels}, contexts={}, classes=("no", "yes"), clustered=size > 1)
    return count(schema, {"g": np.repeat(levels, n)}, label, reference, deployed, owner if size > 1 else None)


def truths(flip):
    right, wrong = 0.8 * (1 - flip), 0.2 * (1 - flip)
    after = np.array([[1 - wrong, wrong], [1 - right, right]])
    before = np.array([[0.8, 0.2], [0.2, 0.8]])
    return {name: (one.value(after), one.value(after) - one.value(before)) for name, one in STATISTICS.items()}


@pytest.mark.parametrize("n", [30, 300, 3000])
def test_a_group_at_the_margin_is_released_as_rarely_as_said(n):
    groups = {30: 400, 300: 400, 3000: 250}[n]
    tally = simulate(np.random.default_rng(n), n, groups, flip=0.05)
    part = over(tally, ("g",), ())
    allowed = 0.055 + 2 * np.sqrt(0.05 * 0.95 / groups)
    found = estimates(tally, list(STATISTICS.values()), part, seed=n)
    for one, (value, change) in zip(found, truths(0.05).values(), strict=True):
        assert np.mean(one.bounds(0.95)[0] > value) <= allowed
        assert np.mean(one.bounds(0.95)[1] < value) <= allowed
        assert np.mean(one.change_bounds(0.95)[0] > change) <= allowed
        assert np.mean(one.change_bounds(0.95)[1] < change) <= allowed


def test_the_bounds_are_not_needlessly_wide():
    tally = simulate(np.random.default_rng(0), 1000, 300, flip=0.05)
    part = over(tally, ("g",), ())
    for one, (value, _) in zip(
        estimates(tally, list(STATISTICS.values()), part, seed=0), truths(0.05).values(), strict=True
    ):
        assert np.mean(one.bounds(0.95)[0] > value) >= 0.02


def test_rows_of_one_cluster_count_less():
    tally = simulate(np.random.default_rng(0), 1000, 1, flip=0.2, size=5)
    alone = simulate(np.random.default_rng(0), 1000, 1, flip=0.2)
    part = over(tally, ("g",), ())
    widths = [
        np.subtract(*estimate(one, STATISTICS["balanced_accuracy"], part, seed=0).change_bounds(0.95)[::-1])
        for one in (tally, alone)
    ]
    assert widths[0] > 1.2 * widths[1]


@pytest.mark.parametrize("name", sorted(STATISTICS))
@pytest.mark.parametrize("rows", [1, 3])
def test_one_row_and_three_rows_prove_nothing(name, rows):
    label = np.array([1, 0, 1][:rows] if name != "negative_predictive_value" else [0, 1, 0][:rows])
    schema = Schema(attributes={"g": ("a",)}, contexts={}, classes=("no", "yes"))
    tally = count(schema, {"g": np.full(rows, "a")}, label, label, label)
    found = estimate(tally, STATISTICS[name], over(tally, ("g",), ()), seed=0)
    lower, _ = found.bounds(0.95)
    low, high = found.change_bounds(0.95)
    assert np.isnan(lower[0]) or (lower[0] < 0.4 and low[0] < -0.3 and high[0] > 0.3)


def test_what_has_no_denominator_is_undefined_in_all_its_bounds():
    label = np.array([0, 0, 1])
    tally = count(BINARY, {"g": list("aab"), "h": list("xxx")}, label, label, np.array([0, 0, 1]))
    found = estimate(tally, STATISTICS["positive_predictive_value"], over(tally, ("g",), ()), seed=0)
    assert np.isnan(found.deployed[0])
    assert found.deployed[1] == 1
    assert all(np.isnan(side[0]) for side in (*found.bounds(0.95), *found.change_bounds(0.95)))
    empty = estimate(Tally.zero(BINARY), STATISTICS["f1_score"], over(Tally.zero(BINARY), ("g",), ()), seed=0)
    assert np.isnan(empty.deployed).all()
    assert empty.n.tolist() == [0, 0]


def test_a_seed_gives_the_same_bytes_whatever_else_is_estimated():
    tally = simulate(np.random.default_rng(0), 50, 3, flip=0.1)
    f1, others = STATISTICS["f1_score"], list(STATISTICS.values())
    for part in cells(tally, contexts=False, intersections=False):
        alone = estimate(tally, f1, part, seed=5).change_lower.tobytes()
        together = estimates(tally, others, part, seed=5)[others.index(f1)].change_lower.tobytes()
        assert alone == together != estimate(tally, f1, part, seed=6).change_lower.tobytes()


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(module, "STATISTICS", dict(STATISTICS))


def specificity(tables):
    return tables[..., 0, 0] / tables[..., 0, :].sum(-1)


def test_a_user_adds_a_statistic(registry, tally_of):
    mine = register(Statistic("my_specificity", "specificity", specificity))
    assert load("my_specificity") is mine
    assert "my_specificity" in names()
    assert mine(tally_of({("a", 0, 0, 0): 3, ("a", 0, 0, 1): 1}), {"g": "a"}) == 0.75


@pytest.mark.parametrize(
    ("statistic", "says"),
    [
        (specificity, "is no Statistic"),
        (Statistic("accuracy", "a", specificity), "is taken"),
        (Statistic("equalized_odds_difference", "a", specificity), "is taken"),
        (Statistic("f1_score", "a", specificity), "is taken"),
        (Statistic("not a name", "a", specificity), "no identifier"),
        (Statistic("one_number", "a", lambda tables: tables.sum()), "one value per table"),
        (Statistic("breaks", "a", lambda tables: tables[7]), "breaks: its function fails"),
    ],
)
def test_what_is_no_statistic_is_refused(registry, statistic, says):
    with pytest.raises(ConfigError, match=says):
        register(statistic)


class Entry:
    def __init__(self, name, found):
        self.name, self.value, self.found = name, "package:thing", found

    def load(self):
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def test_a_package_brings_a_statistic_that_is_imported_when_it_is_asked_for(registry, monkeypatch):
    entries = [
        Entry("brought", Statistic("brought", "brought", specificity)),
        Entry("broken", ImportError("no such module")),
        Entry("alias", Statistic("otherwise", "otherwise", specificity)),
    ]
    monkeypatch.setattr(module, "entry_points", lambda group: entries if group == "fairdeploy.metrics" else [])
    assert {"brought", "broken", "f1_score"} <= set(names())
    assert load("brought").words == "brought"
    with pytest.raises(ConfigError, match=r"'broken' \(package:thing\) cannot be imported: no such module"):
        load("broken")
    with pytest.raises(ConfigError, match="use one name"):
        load("alias")
    with pytest.raises(ConfigError, match="unknown statistic 'f1'; known: alias, balanced_accuracy"):
        load("f1")
