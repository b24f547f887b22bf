"""What no `Rule` may be, whether it is made in Python, read from a sealed gates.json or from a project."""

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

import fairdeploy
from fairdeploy.errors import ConfigError
from fairdeploy.gates import Rule, parse_gates, read_gates
from fairdeploy.yamlfile import Document

DROP = {"metric": "accuracy", "condition": "max_drop", "bound": 0.01, "against": "dense"}


@pytest.mark.parametrize(
    ("key", "value"),
    [("bound", "0.5"), ("bound", True), ("confidence", "0.51"), ("required", "false"), ("required", 0),
     ("intersections", "yes")],
)  # fmt: skip
def test_texts_and_booleans_are_never_taken_for_others(tmp_path, key, value):
    with pytest.raises(ValidationError, match=key):
        Rule(**{**DROP, key: value})
    file = tmp_path / "gates.json"
    file.write_text(json.dumps({"rules": [{**DROP, key: value}]}))
    with pytest.raises(ConfigError, match=f"'rules.0.{key}'"):
        read_gates(file, task="binary-classification")


ODD = [
    ("accuracy", "max_drop", 1e-300), ("accuracy", "max_drop", 1e-160), ("accuracy", "min", 1e-10),
    ("accuracy", "max_drop", 1 - 1e-16), ("accuracy", "max_ratio", 1e308), ("accuracy", "max_ratio", 1001),
    ("latency_p50_ms", "max_ratio", 1e-300), ("latency_p50_ms", "max", 1e308), ("size_mb", "max", 1e10),
]  # fmt: skip


@pytest.mark.parametrize(("metric", "condition", "bound"), ODD)
def test_bounds_that_nothing_can_reach_are_refused(tmp_path, metric, condition, bound):
    against = {"against": "dense"} if condition in ("max_drop", "max_ratio") else {}
    with pytest.raises(ValidationError, match="can never pass or never fail"):
        Rule(metric=metric, condition=condition, bound=bound, **against)
    file = tmp_path / "gates.yaml"
    file.write_text(json.dumps({metric: {condition: bound, **against}}))
    with pytest.raises(ConfigError, match=f"'{condition}' is .* can never pass or never fail") as caught:
        read_gates(file, task="binary-classification")
    assert caught.value.line == 1


@pytest.mark.parametrize("bound", [10**400, 10**5000, -(10**400)], ids=["large", "larger", "negative"])
def test_whole_numbers_beyond_every_float_are_refused(bound):
    for metric in ("accuracy", "latency_p50_ms"):
        with pytest.raises(ConfigError, match="'max' is -?inf: give a finite number"):
            parse_gates(Document(Path("gates"), {"gates": {metric: {"max": bound}}}, {}))


@pytest.mark.parametrize("bound", [1e-9, 1e-6])
def test_the_least_margin_asks_for_rows_that_can_still_be_written_down(bound):
    rows = np.arange(40_000)
    label, flipped = rows % 2, rows // 2 % 4
    prediction = np.where(flipped == 0, 1 - label, label)
    reference = np.where(flipped == 1, 1 - label, label)  # as many lost as gained
    data = {"id": rows, "label": label, "prediction": prediction, "reference": reference, "sex": rows // 8 % 2}
    gates = {"accuracy": {"max_drop": bound, "against": "reference"}}
    verdict = fairdeploy.judge(data, groups=["sex"], gates=gates).verdict
    assert verdict.status == "inconclusive"
    assert len(verdict.digest) == 64
    assert all(cell.rows_needed > 1e9 for cell in verdict.cells)
