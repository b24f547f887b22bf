"""Each attack and each bad input by name: refused, failed or inconclusive, never passed.

What stands elsewhere: files in tests/test_judgement.py and tests/data, rows of train in tests/data/test_overlap.py,
waivers in tests/gates/test_waivers.py, gates changed afterwards in tests/test_audit.py, retries in
tests/test_attempts.py.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

import fairdeploy
from fairdeploy import yamlfile
from fairdeploy.errors import ConfigError, DataError, IntegrityError
from fairdeploy.evidence import Evidence, Schema, Tally
from fairdeploy.gates import Gates, Rule, gate, parse_gates, read_gates

from .cases import DROP, GATES, LEVELS, SCHEMA, Rows, decide, evidence_of, harmed, honest

GAP = Gates(rules=(Rule(metric="equal_opportunity_difference", condition="max", bound=0.1),))


@pytest.fixture
def rows() -> Rows:
    return honest(np.random.default_rng(0), 1500)


def table(rows: Rows, **columns):
    plain = {"id": rows.ids, "label": rows.labels, "prediction": rows.deployed, "reference": rows.reference}
    return {**plain, "g": rows.groups, **columns}


def judged(rows: Rows, gates=None, **columns):
    gates = gates or {"true_positive_rate": {"max_drop": 0.02}}
    return fairdeploy.judge(table(rows, **columns), groups={"g": list(LEVELS)}, classes=["0", "1"], gates=gates).verdict


def test_the_honest_case_passes(rows):
    assert decide(rows).status == "pass"
    assert judged(rows).status == "pass"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, "a", 2, -1, None])
@pytest.mark.parametrize("column", ["label", "prediction", "reference"])
def test_values_that_are_no_class_are_refused(rows, column, bad):
    values = table(rows)[column].astype(object)
    values[7] = bad
    with pytest.raises(DataError):
        judged(rows, **{column: values})
    name = {"label": "labels", "prediction": "deployed"}.get(column, column)
    with pytest.raises(DataError):
        decide(rows.but(**{name: values}))


@pytest.mark.parametrize("bad", [np.nan, np.inf, "high", 1.5, -0.1])
def test_scores_that_are_no_probability_are_refused(rows, bad):
    scores = rows.deployed.astype(object)
    scores[7] = bad
    plain = table(rows, score=scores)
    del plain["prediction"]
    with pytest.raises(DataError):
        fairdeploy.judge(plain, groups=["g"], threshold=0.5, gates={"true_positive_rate": {"max_drop": 0.02}})


@pytest.mark.parametrize("bad", [np.nan, None, ""])
def test_a_missing_group_is_a_group_of_its_own_that_blocks(rows, bad):
    groups = rows.groups.astype(object)
    groups[:5] = bad
    verdict = judged(rows, g=groups)
    assert verdict.status == "inconclusive"
    assert "unknown" in {level for cell in verdict.cells for level in cell.group.values()}


@pytest.mark.parametrize("bound", ["nan", "inf", "-inf", "'0.02'", "0", "1", "-1", "null", "true", "[0.02]"])
def test_bounds_and_confidences_that_are_no_fraction_are_refused(tmp_path, bound):
    file = tmp_path / "gates.yaml"
    bound = f".{bound}" if bound in ("nan", "inf") else "-.inf" if bound == "-inf" else bound
    for text in (f"{{max_drop: {bound}, against: dense}}", f"{{max_drop: 0.02, against: dense, confidence: {bound}}}"):
        file.write_text(f"true_positive_rate: {text}\n")
        with pytest.raises(ConfigError):
            read_gates(file, task="binary-classification")


def test_doubled_keys_are_refused_in_gates_and_tallies(tmp_path, rows):
    file = tmp_path / "gates.yaml"
    file.write_text("accuracy: {min: 0.9, min: 0.1}\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_gates(file, task="binary-classification")
    file.write_text('{"rules": [], "rules": []}')
    with pytest.raises(ConfigError):
        read_gates(file, task="binary-classification")
    text = rows.tally().to_json()
    with pytest.raises(IntegrityError):
        Tally.from_json(text.replace('{"buckets"', '{"buckets":1,"buckets"', 1))


def test_no_rule_shows_nothing(tmp_path, rows):
    assert decide(rows, Gates(rules=())).status == "inconclusive"
    assert fairdeploy.judge(table(rows), groups=["g"]).verdict.status == "inconclusive"
    file = tmp_path / "gates.yaml"
    for text in ("{}", "gates: {}", "gates:\n"):
        file.write_text(text)
        with pytest.raises(ConfigError):
            read_gates(file, task="binary-classification")


@pytest.mark.parametrize(
    "text",
    ["true_positiv_rate: {min: 0.5}", "accuracy: {min: 0.5, level: devise}", "accuracy: {mn: 0.5}",
     "accuracy: {max_drop: 0.02, against: dens}", "accuracy: {min: 0.5, groups: d}"],
)  # fmt: skip
def test_misspelt_names_are_refused(tmp_path, text):
    file = tmp_path / "gates.yaml"
    file.write_text(f"gates:\n  {text}\n")
    with pytest.raises(ConfigError, match="unknown|did you mean"):
        parse_gates(yamlfile.read(file))


def test_a_misspelt_level_of_a_group_is_refused(rows):
    for spelt in ("A", "a ", "d"):
        with pytest.raises(DataError, match="not a declared level"):
            decide(rows.but(groups=np.where(rows.groups == "a", spelt, rows.groups)))


def test_an_empty_group_is_undefined_and_blocks(rows):
    verdict = decide(rows.take(rows.groups != "b"))
    assert {cell.status for cell in verdict.cells if cell.group == {"g": "b"}} == {"undefined"}
    assert verdict.status == "inconclusive"


@pytest.mark.parametrize("size", [1, 3, 29])
def test_a_tiny_group_proves_no_margin_of_a_point(rows, size):
    point = Gates(rules=(DROP.model_copy(update={"bound": 0.01}),))
    many = honest(np.random.default_rng(1), 6000)
    few = many.in_group("c").nonzero()[0][:size]
    kept = np.concatenate([(many.groups != "c").nonzero()[0], few])
    verdict = decide(many.take(kept).but(deployed=many.reference[kept]), point)
    assert verdict.status == "inconclusive"
    assert {cell.status for cell in verdict.cells if cell.group != {"g": "c"}} == {"pass"}


def test_a_group_without_positives_has_no_true_positive_rate(rows):
    alone = rows.but(labels=np.where(rows.groups == "b", 0, rows.labels))
    assert decide(alone).status == decide(alone, GAP).status == "inconclusive"


def test_one_group_only_has_no_gap(rows):
    one = rows.take(rows.groups == "a")
    schema = Schema(attributes={"g": ("a",)}, contexts={}, classes=SCHEMA.classes)
    assert decide(one.but(schema=schema), GAP).status == "inconclusive"


@pytest.mark.parametrize("prediction", [0, 1])
def test_equal_predictions_for_everyone_fail_or_stay_open(rows, prediction):
    equal = rows.but(deployed=np.full_like(rows.deployed, prediction))
    gates = Gates(rules=(*GATES.rules, *GAP.rules, Rule(metric="accuracy", condition="min", bound=0.99)))
    assert decide(equal, gates).status == "fail"


def test_failed_inferences_may_not_be_dropped(rows):
    ill = harmed(np.random.default_rng(1), rows, "b", 0.1)
    answered = ~((ill.reference == 1) & (ill.deployed == 0))
    with pytest.raises(DataError):
        ill.but(deployed=ill.deployed[answered]).tally()
    whole, part = ill.tally(), ill.take(answered).tally()
    from fairdeploy.evidence import judge

    facts = dict.fromkeys(("level_reason", "spec_digest", "data_fingerprint", "requested_precision"), "")
    with pytest.raises(DataError, match="not of the same rows"):
        judge(
            target="here", level=None, reference_digests={}, seed=0, tallies={"dense": part, "compact": whole}, **facts
        )


def test_doubled_ids_are_refused(rows):
    ids = rows.ids.copy()
    ids[1] = ids[0]
    with pytest.raises(DataError):
        decide(rows.but(ids=ids))
    with pytest.raises(DataError):
        judged(rows, id=ids)


@pytest.mark.parametrize("change", ["missing", "extra", "other"])
def test_references_of_other_rows_are_refused(rows, change):
    before = {"id": rows.ids.copy(), "prediction": rows.reference.copy()}
    if change == "missing":
        before = {name: values[1:] for name, values in before.items()}
    elif change == "extra":
        before = {"id": np.append(before["id"], "stranger"), "prediction": np.append(before["prediction"], 1)}
    else:
        before["id"][0] = "stranger"
    plain = table(rows)
    del plain["reference"]
    with pytest.raises(DataError):
        fairdeploy.judge(plain, reference_file=before, groups=["g"], gates={"true_positive_rate": {"max_drop": 0.02}})


def test_an_average_does_not_hide_a_group(rows):
    small = rows.take((rows.groups != "b") | (np.arange(len(rows.ids)) % 4 == 0))
    verdict = decide(harmed(np.random.default_rng(1), small, "b", 0.06))
    assert verdict.status == "fail"
    assert {cell.status for cell in verdict.cells if cell.group == {"g": "b"}} == {"fail"}


def test_the_artifact_is_not_its_own_reference(rows):
    ill = harmed(np.random.default_rng(1), rows, "b", 0.1)
    with pytest.raises(ConfigError):
        fairdeploy.judge(
            table(ill), groups=["g"], reference="prediction", gates={"true_positive_rate": {"max_drop": 0.02}}
        )
    itself = ill.tally(reference=ill.deployed)
    assert gate(evidence_of(compact=itself), GATES).status == "inconclusive"
    with pytest.raises(IntegrityError):
        gate(Evidence(evidence_of(dense=ill.tally()).record, {"dense": itself}), GATES)


def test_the_tally_of_another_artifact_is_refused(rows):
    ill = harmed(np.random.default_rng(1), rows, "b", 0.1)
    with pytest.raises(IntegrityError, match="not those that the evidence was made from"):
        gate(Evidence(evidence_of(dense=ill.tally()).record, {"dense": rows.tally()}), GATES)


def test_counts_that_overflow_are_refused(rows):
    plain = json.loads(rows.tally().to_json())
    for most in (2**53, 2**63 - 1, 2**64, 1e300):
        plain["counts"][0] = most
        with pytest.raises(IntegrityError):
            Tally.from_json(json.dumps(plain))
    cells, counts = rows.tally().cells, rows.tally().counts.copy()
    counts[0] = 2**53
    with pytest.raises(DataError, match="2\\*\\*53"):
        Tally(SCHEMA, cells, counts)
