"""Impact ratios, four fifths and inequities against fairlearn, and against their formulas written another way."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from fairlearn.metrics import MetricFrame, false_negative_rate, false_positive_rate, selection_rate
from hypothesis import given, settings
from hypothesis import strategies as st

from fairdeploy.evidence import Schema, Tally, judge
from fairdeploy.evidence.compliance import Compliance, compliance

RACES, SEXES = ("a", "b", "c"), ("f", "m")
Rows = dict[str, np.ndarray]


def rows(seed: int, n: int = 900, *, rare: int = 0, unknown: int = 0) -> Rows:
    """Return n rows; the first `rare` are of race c, which no other row is, the last `unknown` of unknown sex."""
    rng = np.random.default_rng(seed)
    race = rng.choice(RACES[: 2 if rare else 3], n)
    race[:rare] = "c"
    sex = rng.choice(SEXES, n).astype("<U7")
    sex[n - unknown :] = ""
    label = rng.integers(0, 2, n)
    deployed = np.where(rng.random(n) < 0.2 + 0.2 * (race == "a"), 1 - label, label)
    return {"race": race, "sex": sex, "label": label, "deployed": deployed}


def judged(rows: Rows, classes: tuple[str, ...] = ("no", "yes")) -> Compliance:
    schema = Schema(attributes={"race": RACES, "sex": SEXES}, contexts={}, classes=classes)
    tally = Tally.count(
        schema, ids=np.arange(len(rows["label"])).astype(str), labels=rows["label"],
        attributes={"race": rows["race"], "sex": rows["sex"]}, contexts={}, clusters=None,
        reference=rows["label"], deployed=rows["deployed"],
    )  # fmt: skip
    evidence = judge(
        target="t", level=None, level_reason="", spec_digest="", data_fingerprint="", reference_digests={},
        requested_precision="", tallies={"reference": tally}, seed=0,
    )  # fmt: skip
    return compliance(evidence.record)


def by(metric: Callable[..., float], rows: Rows, names: tuple[str, ...]) -> dict[tuple[str, ...], float]:
    """Return fairlearn's value per group, keyed by the levels in the order of names."""
    features = {name: rows[name] for name in names}
    found = MetricFrame(metrics=metric, y_true=rows["label"], y_pred=rows["deployed"], sensitive_features=features)
    keys = [key if isinstance(key, tuple) else (key,) for key in found.by_group.index]
    return dict(zip(keys, found.by_group, strict=True))


AXES = (("race",), ("sex",), ("race", "sex"))


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10_000))
def test_impact_ratios_are_fairlearns_selection_rates_over_the_largest(seed: int) -> None:
    data = rows(seed)
    found = judged(data)
    assert [one.attributes for one in found.impacts] == list(AXES)
    for impact in found.impacts:
        rates = by(selection_rate, data, impact.attributes)
        for one in impact.categories:
            rate = rates[tuple(one.group[name] for name in impact.attributes)]
            assert one.selection_rate == pytest.approx(rate, abs=1e-12)
            assert one.impact_ratio == pytest.approx(rate / max(rates.values()), abs=1e-12)
            assert one.below_four_fifths == (rate / max(rates.values()) < 0.8)
        assert sum(one.n for one in impact.categories) == impact.rows == 900
        assert max(one.impact_ratio or 0 for one in impact.categories) == 1


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10_000))
def test_inequities_are_those_of_fairlearns_error_rates(seed: int) -> None:
    data = rows(seed)
    found = {(one.metric, one.attributes): one for one in judged(data).inequities}
    assert set(found) == set(product(("false_negative_rate", "false_positive_rate"), AXES))
    for (name, axes), one in found.items():
        metric = false_negative_rate if name == "false_negative_rate" else false_positive_rate
        values = np.array(list(by(metric, data, axes).values()))
        mean = np.prod(values) ** (1 / len(values))
        assert one.max_over_geometric_mean == pytest.approx(values.max() / mean, rel=1e-9)
        assert one.max_over_min == pytest.approx(values.max() / values.min(), rel=1e-9)
        pairs = np.abs(values[:, None] - values[None]).mean() / (2 * values.mean())
        assert one.gini == pytest.approx(pairs * len(values) / (len(values) - 1), rel=1e-9)
        assert [group.over_geometric_mean for group in one.groups] == pytest.approx(
            [group.rate / mean for group in one.groups if group.rate is not None]
        )


def test_a_category_under_two_percent_is_listed_but_sets_no_ratio() -> None:
    data = rows(1, rare=17)  # 1.9 % of 900
    data["deployed"][:17] = 1
    impact = judged(data).impacts[0]
    rare = impact.categories[2]
    assert (rare.group, rare.n, rare.left_out, rare.selection_rate) == ({"race": "c"}, 17, True, 1.0)
    assert rare.impact_ratio is rare.below_four_fifths is None
    assert impact.most_selected in ({"race": "a"}, {"race": "b"})
    data = rows(1, rare=18)  # 2 %
    data["deployed"][:18] = 1
    impact = judged(data).impacts[0]
    assert impact.most_selected == {"race": "c"}
    assert not impact.categories[2].left_out


def test_rows_of_unknown_category_are_counted_and_in_no_category() -> None:
    found = judged(rows(2, unknown=50))
    by_axes = {one.attributes: one for one in found.impacts}
    assert [by_axes[axes].unknown for axes in AXES] == [0, 50, 50]
    for impact in found.impacts:
        assert all("unknown" not in one.group.values() for one in impact.categories)
    assert all("unknown" not in group.group.values() for one in found.inequities for group in one.groups)


def test_nobody_selected_leaves_the_ratios_undefined() -> None:
    data = rows(3)
    data["deployed"][:] = 0
    for impact in judged(data).impacts:
        assert {one.impact_ratio for one in impact.categories} == {None}
        assert {one.below_four_fifths for one in impact.categories} == {None}
    (false_alarms,) = [one for one in judged(data).inequities if one.attributes == ("race",) and "pos" in one.metric]
    assert false_alarms.gini is false_alarms.max_over_min is false_alarms.max_over_geometric_mean is None


def test_a_group_without_positives_leaves_the_inequity_undefined_and_is_listed() -> None:
    data = rows(4)
    data["label"][data["race"] == "b"] = 0
    (missed,) = [one for one in judged(data).inequities if one.attributes == ("race",) and "neg" in one.metric]
    assert [group.rate is None for group in missed.groups] == [False, True, False]
    assert missed.gini is missed.max_over_min is missed.max_over_geometric_mean is None


def test_a_declared_category_without_rows_is_listed() -> None:
    data = rows(5)
    data["race"][data["race"] == "c"] = "a"
    empty = judged(data).impacts[0].categories[2]
    assert (empty.n, empty.selection_rate, empty.impact_ratio, empty.left_out) == (0, None, None, True)


def test_many_classes_have_no_selection_rate_and_so_no_ratio() -> None:
    assert judged(rows(6), ("x", "y", "z")) == Compliance(impacts=(), inequities=())
