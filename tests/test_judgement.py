"""`fairdeploy.judge`: from rows that were made anywhere to a verdict, against counts made by hand."""

from __future__ import annotations

import doctest
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import fairlearn.metrics as fairlearn
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

import fairdeploy
from fairdeploy import judgement
from fairdeploy.bundle import JudgedBundle, load_bundle, load_evidence
from fairdeploy.errors import ConfigError, DataError, ExitCode, IntegrityError
from fairdeploy.evidence import Tally
from fairdeploy.evidence import judge as judge_tallies
from fairdeploy.gates import Gates, Rule, gate
from fairdeploy.judgement import Judgement

Rows = dict[str, NDArray[Any]]
DROP = {"true_positive_rate": {"max_drop": 0.03}}


def make_rows(n: int = 6000, *, lost: float = 0.0, seed: int = 0) -> Rows:
    """Make rows on which the judged model loses a share of the positives of `sex` f."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, n)
    sex = rng.choice(["f", "m"], n)
    reference = np.where(rng.random(n) < 0.9, label, 1 - label)
    prediction = np.where((sex == "f") & (label == 1) & (rng.random(n) < lost), 0, reference)
    return {
        "id": np.array([f"r{at}" for at in range(n)]),
        "label": label,
        "reference": reference,
        "prediction": prediction,
        "sex": sex,
        "race": rng.choice(["a", "b", ""], n),
        "site": rng.choice(["north", "south"], n),
        "person": np.array([f"p{at // 3}" for at in range(n)]),
    }


def judge(rows: Any, **more: Any) -> Judgement:
    return fairdeploy.judge(rows, **{"groups": ["sex"], **more})


def status_of(found: Judgement, **group: str) -> str:
    return next(cell.status for cell in found.verdict.cells if cell.group == group)


def refusal(rows: Any, **more: Any) -> str:
    with pytest.raises(ConfigError) as error:
        judge(rows, **more)
    return str(error.value)


def test_a_model_that_changes_nothing_passes_and_one_that_harms_a_group_fails_there() -> None:
    assert judge(make_rows(), gates=DROP).exit_code is ExitCode.DONE
    harmed = judge(make_rows(lost=0.15), gates=DROP)
    assert harmed.exit_code is ExitCode.FAILED
    assert (status_of(harmed, sex="f"), status_of(harmed, sex="m")) == ("fail", "pass")
    assert "sex f" in str(harmed)
    assert judge(make_rows(60), gates=DROP).exit_code is ExitCode.INCONCLUSIVE


def test_rates_and_changes_are_those_of_the_rows() -> None:
    rows = make_rows(lost=0.1)
    record = judge(rows, groups=["sex", "race"]).evidence.record
    frame = pd.DataFrame(rows)
    for (sex, race), part in frame.replace({"race": {"": "unknown"}}).groupby(["sex", "race"]):
        positives = part[part.label == 1]
        (change,) = [
            one
            for one in record.changes
            if one.metric == "true_positive_rate" and one.group == {"race": race, "sex": sex} and not one.context
        ]
        assert change.n == len(positives)
        assert change.deployed == pytest.approx(positives.prediction.mean(), abs=1e-12)
        assert change.reference == pytest.approx(positives.reference.mean(), abs=1e-12)
    gap = next(one for one in record.gaps if (one.metric, one.attribute) == ("equalized_odds_difference", "sex"))
    expected = fairlearn.equalized_odds_difference(frame.label, frame.prediction, sensitive_features=frame.sex)
    assert gap.value == pytest.approx(expected, abs=1e-12)


def test_every_kind_of_source_gives_the_same_bytes(tmp_path: Path) -> None:
    rows = make_rows(900)
    frame = pd.DataFrame(rows)
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_csv(tmp_path / "b.tsv", index=False, sep="\t")
    frame.to_parquet(tmp_path / "c.parquet")
    np.savez(tmp_path / "d.npz", **rows)
    sources = [rows, frame, *sorted(tmp_path.iterdir())]
    options = {"groups": ["sex", "race"], "contexts": ["site"], "cluster": "person", "gates": DROP}
    assert len({judge(source, **options).verdict.digest for source in sources}) == 1


def test_the_order_of_rows_and_shards_is_no_matter() -> None:
    frame = pd.DataFrame(make_rows(900))
    whole = judge(frame, gates=DROP, cluster="person")
    mixed = frame.sample(frac=1, random_state=3)
    shards = [mixed[600:], mixed[:100], mixed[100:600]]
    sharded = judge(shards, gates=DROP, cluster="person")
    assert sharded.verdict == whole.verdict
    assert sharded.evidence.record == whole.evidence.record
    other = judge(frame.assign(label=1 - frame.label), gates=DROP, cluster="person")
    assert other.evidence.record.data_fingerprint != whole.evidence.record.data_fingerprint


def test_scores_decide_at_the_threshold_and_a_reference_may_hold_scores() -> None:
    rows = make_rows(900)
    rng = np.random.default_rng(1)
    score, old = rng.random(900), rng.random(900)
    score[:2] = 0.3
    by_score = {name: rows[name] for name in ("id", "label", "sex")} | {"score": score, "reference": old}
    by_class = {**by_score, "prediction": (score >= 0.3).astype(int), "reference": (old >= 0.3).astype(int)}
    del by_class["score"]
    scored, plain = judge(by_score, threshold=0.3), judge(by_class)
    assert scored.evidence.tallies["reference"] == plain.evidence.tallies["reference"]
    assert scored.predictions.decision == "column 'score' >= 0.3"
    assert scored.predictions.references == {"reference": "column 'reference' >= 0.3"}
    assert any("'reference' holds scores" in note for note in scored.predictions.notes)


@pytest.mark.parametrize(
    ("written", "options"),
    [
        (["no", "yes"], {"positive": "yes"}),
        (["a", "b"], {"positive": "b"}),
        (["b", "a"], {"positive": "a"}),
        (["no", "yes"], {"classes": ["no", "yes"]}),
        ([False, True], {}),
        (["False", "True"], {}),
        (["false", "true"], {"positive": "true"}),
        ([0.0, 1.0], {}),
        (["-1", "1"], {}),
    ],
)
def test_labels_may_be_written_in_many_ways(written: list[Any], options: dict[str, Any]) -> None:
    rows = make_rows(300)
    expected = judge(rows).evidence.tallies["reference"]
    names = np.array(written)
    renamed = {**rows, **{name: names[rows[name]] for name in ("label", "prediction", "reference")}}
    found = judge(renamed, **options).evidence.tallies["reference"]
    assert np.array_equal(found.cells, expected.cells)
    assert np.array_equal(found.counts, expected.counts)


def test_many_classes_are_read_or_declared() -> None:
    rng = np.random.default_rng(2)
    label = rng.choice(["cat", "dog", "owl"], 600)
    rows = {"id": np.arange(600), "label": label, "prediction": rng.permutation(label), "sex": make_rows(600)["sex"]}
    rows["reference"] = label
    assert judge(rows).predictions.classes == ("cat", "dog", "owl")
    found = judge(rows, classes=["owl", "cat", "dog", "newt"], gates={"accuracy": {"max_drop": 0.05}})
    assert found.predictions.classes == ("owl", "cat", "dog", "newt")
    assert found.exit_code is ExitCode.FAILED
    everyone = next(one for one in found.evidence.record.rates if one.metric == "accuracy" and not one.group)
    assert everyone.value == pytest.approx((rows["prediction"] == label).mean(), abs=1e-12)


def test_a_declared_group_without_rows_blocks() -> None:
    found = judge(make_rows(), groups={"sex": ["f", "m", "x"]}, gates=DROP)
    assert status_of(found, sex="x") == "undefined"
    assert found.exit_code is ExitCode.INCONCLUSIVE


@pytest.mark.parametrize("missing", ["", "unknown", None, float("nan"), "nan", pd.NA])
def test_a_missing_group_is_the_level_unknown(missing: Any) -> None:
    rows = make_rows(300)
    race = ["a", "b", missing] * 100
    found = judge({**rows, "race": race}, groups=["race"])
    (unknown,) = [
        one for one in found.evidence.record.rates if one.metric == "accuracy" and one.group == {"race": "unknown"}
    ]
    assert unknown.n == 100
    assert found.evidence.tallies["reference"].schema.attributes == {"race": ("a", "b", "unknown")}


def test_without_gates_nothing_is_shown_to_hold_and_margins_are_proposed() -> None:
    found = judge(make_rows(3000))
    assert found.exit_code is ExitCode.INCONCLUSIVE
    by_metric = {one.metric: one for one in found.margins}
    assert set(by_metric) == {"true_positive_rate", "false_positive_rate"}
    margin = by_metric["true_positive_rate"].margin
    assert margin is not None
    assert judge(make_rows(3000), gates={"true_positive_rate": {"max_drop": margin}}).exit_code is ExitCode.DONE
    more = {one.metric: one.margin for one in judge(make_rows(12_000)).margins}
    assert more["true_positive_rate"] is not None
    assert more["true_positive_rate"] < margin


def test_without_a_reference_only_changes_are_refused() -> None:
    rows = make_rows()
    del rows["reference"]
    found = judge(rows, gates={"accuracy": {"min": 0.8}})
    assert found.exit_code is ExitCode.DONE
    assert found.margins == ()
    assert "no reference was given" in refusal(rows, gates={"accuracy": {"max_drop": 0.1, "against": "reference"}})
    sneaked = Gates(rules=(Rule(metric="accuracy", condition="max_drop", bound=0.03, against="reference"),))
    assert gate(found.evidence, sneaked).status == "fail"
    assert "against" in refusal(rows, gates={"accuracy": {"max_drop": 0.1}})


def test_a_reference_that_never_differs_is_said_to_be_odd() -> None:
    rows = make_rows(300)
    assert any("equals the judged predictions" in note for note in judge(rows).predictions.notes)
    assert not any("equals" in note for note in judge(make_rows(300, lost=0.2)).predictions.notes)


def test_two_references_are_named() -> None:
    rows = make_rows(lost=0.15)
    rows["other"] = rows["prediction"]
    references = {"dense": "reference", "compact": "other"}
    both = {"true_positive_rate": [{"max_drop": 0.03, "against": name} for name in references]}
    found = judge(rows, reference=references, gates=both)
    by_rule = {cell.rule: cell.status for cell in found.verdict.cells if cell.group == {"sex": "f"}}
    assert by_rule == {"true_positive_rate.max_drop.dense": "fail", "true_positive_rate.max_drop.compact": "pass"}
    assert "against" in refusal(rows, reference=references, gates=DROP)
    assert "sparse" in refusal(rows, reference={"sparse": "reference"})
    assert "called 'reference'" in refusal(rows, reference={"dense": "reference", "reference": "other"})


def test_against_a_named_reference_needs_one_of_that_name() -> None:
    message = refusal(make_rows(), gates={"true_positive_rate": {"max_drop": 0.03, "against": "dense"}})
    assert "the one reference has no name" in message
    assert "--reference dense=COLUMN" in message


def test_no_evidence_level_is_asked_for_unless_a_gate_names_one() -> None:
    levelled = {"true_positive_rate": {"max_drop": 0.03, "level": "compiled"}}
    found = judge(make_rows(), gates=levelled)
    assert found.exit_code is ExitCode.INCONCLUSIVE
    assert {cell.forecast for cell in found.verdict.cells} == {"pass"}


def test_gates_stand_in_a_file_as_in_a_project(tmp_path: Path) -> None:
    file = tmp_path / "gates.yaml"
    file.write_text("gates:\n  true_positive_rate: {max_drop: 0.03}\n")
    found = judge(make_rows(), gates=file)
    assert found.verdict.status == "pass"
    assert found.gates.rules[0].against == "reference"
    assert found.gates.rules[0].where == "gates.yaml:2"
    file.write_text("gates:\n  true_positive_rat: {max_drop: 0.03}\n")
    assert "true_positive_rate" in refusal(make_rows(), gates=file)
    assert f"{file}:2:3" in refusal(make_rows(), gates=file)
    file.write_text("gates: {}\n")
    assert "no gate is set" in refusal(make_rows(), gates=file)


def test_a_saved_bundle_is_all_an_auditor_needs(tmp_path: Path) -> None:
    found = judge(make_rows(lost=0.1), gates=DROP, contexts=["site"], name="door-cam 7")
    found.save(tmp_path / "audit" / "bundle")
    bundle = load_bundle(tmp_path / "audit" / "bundle")
    assert isinstance(bundle, JudgedBundle)
    assert bundle.verdict == found.verdict
    evidence = load_evidence(bundle)
    assert gate(evidence, bundle.gates).digest == found.verdict.digest
    again = judge_tallies(
        target=bundle.evidence.target, level=None, level_reason=bundle.evidence.level_reason,
        spec_digest=bundle.predictions.digest, data_fingerprint=bundle.evidence.data_fingerprint,
        reference_digests={}, requested_precision=bundle.evidence.requested_precision, seed=bundle.evidence.seed,
        tallies=evidence.tallies,
    )  # fmt: skip
    assert again.record == bundle.evidence
    with pytest.raises(ConfigError, match="is there already"):
        found.save(tmp_path / "audit" / "bundle")


def test_a_saved_bundle_holds_no_id_and_none_of_its_files_can_be_changed(tmp_path: Path) -> None:
    rows = make_rows(300)
    rows["id"] = np.array([f"secret-{at}" for at in range(300)])
    judge(rows, gates=DROP, cluster="person").save(tmp_path / "bundle")
    for file in sorted((tmp_path / "bundle").iterdir()):
        text = file.read_text()
        assert "secret" not in text
        assert '"p17"' not in text
        if file.name != "manifest.json":
            file.write_text(text.replace("1", "2", 1))
            with pytest.raises(IntegrityError, match=f"changed {file.name}"):
                load_bundle(tmp_path / "bundle")
            file.write_text(text)
    assert load_bundle(tmp_path / "bundle").verdict.target == "predictions"


def test_the_manifest_names_the_files_that_were_read(tmp_path: Path) -> None:
    for at, part in enumerate((slice(0, 200), slice(200, 300))):
        folder = tmp_path / str(at)
        folder.mkdir()
        pd.DataFrame(make_rows(300))[part].to_csv(folder / "rows.csv", index=False)
    judge([tmp_path / "0" / "rows.csv", tmp_path / "1" / "rows.csv"]).save(tmp_path / "bundle")
    assert len(set(load_bundle(tmp_path / "bundle").manifest.parents.values())) == 2


def test_scores_are_counted_judged_and_sealed(tmp_path: Path) -> None:
    rows = make_rows(2000)
    rng = np.random.default_rng(4)
    frame = pd.DataFrame(rows).assign(
        score=np.clip(rows["label"] * 0.3 + rng.random(2000) * 0.7, 0, 1), reference=rng.random(2000)
    )
    found = judge(frame)
    assert set(found.evidence.scores) == {"deployed", "reference"}
    (area,) = [
        one
        for one in found.evidence.record.rates
        if one.metric == "area_under_curve" and one.group == {"sex": "f"} and not one.context
    ]
    women = frame[frame.sex == "f"]
    positives, negatives = (women.score[women.label == one].to_numpy() for one in (1, 0))
    expected = ((positives[:, None] > negatives) + 0.5 * (positives[:, None] == negatives)).mean()
    assert area.value == pytest.approx(expected, abs=0.01)
    assert area.value != 0.5
    found.save(tmp_path / "bundle")
    assert load_evidence(load_bundle(tmp_path / "bundle")).scores == found.evidence.scores


def test_a_metric_of_two_classes_names_one_of_many() -> None:
    rng = np.random.default_rng(2)
    label = rng.choice(["cat", "dog", "owl"], 3000)
    rows = {"id": np.arange(3000), "label": label, "prediction": label, "reference": label, "score": rng.random(3000)}
    rows["sex"] = rng.choice(["f", "m"], 3000)
    found = judge(rows, gates={"true_positive_rate": {"max_drop": 0.03, "class": "owl"}})
    assert found.exit_code is ExitCode.DONE
    assert {cell.of_class for cell in found.verdict.cells} == {"owl"}
    assert next(cell.n for cell in found.verdict.cells if not cell.group) == (label == "owl").sum()
    assert any("'score' is not used" in note for note in found.predictions.notes)
    assert "class" in refusal(rows, gates=DROP)
    assert "give a prediction" in refusal(rows, threshold=0.5)


@pytest.mark.parametrize("joined", [False, True])
def test_a_mistake_in_the_gates_does_not_wait_for_the_data(joined: bool) -> None:
    rows = put("label", 7, "")(make_rows(300))
    more = {"reference_file": {"id": ["x"], "prediction": [1]}} if joined else {}
    for gates, said in (
        ({"acuracy": {"min": 0.5}}, "did you mean 'accuracy'"),
        ({"flip_rate": {"max": 0.5, "against": "dense"}}, "the gate is against 'dense'"),
        ({"accuracy": {"min": 0.5, "class": "1"}}, "'class' does not fit"),
    ):
        assert said in refusal(rows, gates=gates, **more)
    assert "column 'label' is empty" in refusal(rows, gates={"true_positive_rate": {"min": 0.5, "class": "1"}})
    message = refusal(make_rows(300), gates={"true_positive_rate": {"min": 0.5, "class": "1"}})
    assert "with two classes" in message  # known only from the data


def test_a_waiver_in_the_gates_file_waives_its_cell_until_it_expires(tmp_path: Path) -> None:
    file = tmp_path / "gates.yaml"
    waiver = "{target: predictions, rule: true_positive_rate.max_drop.reference, bound: 0.03, group: {%s}"
    why = "reason: the next data set is larger, approver: A. Officer, expires: 2026-12-31}"
    groups = [waiver % group + ", " + why for group in ("sex: f", "")]
    file.write_text("gates: {true_positive_rate: {max_drop: 0.03}}\nwaivers:\n  - " + "\n  - ".join(groups) + "\n")
    rows = make_rows(lost=0.15)
    found = judge(rows, gates=file, today=date(2026, 12, 31))
    assert (found.verdict.status, found.exit_code) == ("waived", ExitCode.DONE)
    assert judge(rows, gates=file, today=date(2027, 1, 1)).exit_code is ExitCode.FAILED
    assert judge(rows, gates=file, today=date(2026, 12, 31), name="other").exit_code is ExitCode.FAILED


def test_rules_over_several_targets_have_no_meaning_here(tmp_path: Path) -> None:
    file = tmp_path / "gates.yaml"
    file.write_text("gates: {accuracy: {min: 0.8}}\nacross_targets: {accuracy: {min: 0.8}}\n")
    assert "across_targets" in refusal(make_rows(), gates=file)


def test_the_example_of_its_documentation_runs() -> None:
    (example,) = doctest.DocTestFinder().find(judgement.judge, globs={})
    assert doctest.DocTestRunner().run(example).failed == 0
    assert fairdeploy.judge is judgement.judge


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    line = "".join(f"{{0}}{at:05d},{at % 2},{at % 2},{at % 2},{'fm'[at // 2 % 2]}\n" for at in range(20_000))
    peaks = []
    for parts in (5, 25):
        file = tmp_path / f"{parts}.csv"
        with file.open("w") as stream:
            stream.write("id,label,prediction,reference,sex\n")
            stream.writelines(line.replace("{0}", str(part)) for part in range(parts))
        code = (
            "import pathlib, re, sys, fairdeploy; found = fairdeploy.judge(sys.argv[1], groups=['sex']); "
            "peak = re.search(r'VmHWM:\\s+(\\d+)', pathlib.Path('/proc/self/status').read_text())[1]; "
            "print(next(iter(found.evidence.tallies.values())).rows, int(peak) // 1024)"
        )
        done = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True, check=True)
        rows, peak_mib = map(int, done.stdout.split())
        assert rows == parts * 20_000
        peaks.append(peak_mib)
    assert peaks[1] - peaks[0] < 30  # 400,000 rows more; held as text they would be 300 MiB
    assert peaks[1] < 400


def column(name: str, change: Callable[[NDArray[Any]], Any]) -> Callable[[Rows], Rows]:
    return lambda rows: {**rows, name: change(rows[name])}


def put(name: str, row: int, value: Any) -> Callable[[Rows], Rows]:
    def change(values: NDArray[Any]) -> list[Any]:
        listed = values.tolist()
        listed[row] = value
        return listed

    return column(name, change)


def without(name: str) -> Callable[[Rows], Rows]:
    return lambda rows: {key: values for key, values in rows.items() if key != name}


BAD = [
    (without("id"), {}, "no column is called 'id': name with --id"),
    (without("label"), {}, "no column is called 'label'"),
    (lambda rows: without("score")(without("prediction")(rows)), {}, "no column is called 'score'"),
    (lambda rows: rows, {"groups": ["sexe"]}, "no column 'sexe' (group); did you mean 'sex'?"),
    (lambda rows: rows, {"groups": []}, "name with --groups"),
    (lambda rows: rows, {"prediction": "predicton"}, "did you mean 'prediction'?"),
    (lambda rows: rows, {"reference": "prediction"}, "column 'prediction' cannot be both prediction and reference"),
    (lambda rows: rows, {"groups": ["sex", "site"], "contexts": ["site"]}, "cannot be both group and context"),
    (lambda rows: rows, {"groups": {"sex": ["f"]}}, "at least two different"),
    (lambda rows: rows, {"groups": {"sex": ["f", "m", "unknown"]}}, "'unknown' is added by itself"),
    (lambda rows: rows, {"groups": {"sex": ["f", "x"]}}, "'m' is not a declared level"),
    (lambda rows: rows, {"threshold": 1.5}, "threshold is 1.5"),
    (lambda rows: rows, {"threshold": 0.5, "prediction": "prediction"}, "leave one of them out"),
    (put("id", 7, "r3"), {}, "row 8: column 'id': 'r3' stands at row 4 already"),
    (put("id", 7, ""), {}, "row 8: column 'id' is empty"),
    (put("id", 7, None), {}, "row 8: column 'id' is empty"),
    (put("id", 7, "x" * 600), {}, "600 characters"),
    (put("label", 7, None), {}, "row 8: column 'label' is empty"),
    (put("label", 7, float("nan")), {}, "row 8: column 'label' is empty"),
    (put("label", 7, float("inf")), {}, "row 8: column 'label': 'inf' is no class"),
    (put("label", 7, [1]), {}, "row 8: column 'label' holds a list"),
    (column("label", lambda values: np.linspace(0, 9, len(values))), {}, "more than 50 different labels"),
    (column("label", lambda values: values * 0 + 7), {}, "at least two different ones"),
    (column("label", lambda values: np.array(["no", "yes"])[values]), {}, "say which is the positive one"),
    (lambda rows: rows, {"positive": "yes"}, "positive is 'yes', but the classes are 0, 1"),
    (lambda rows: rows, {"classes": ["0"]}, "at least two different ones"),
    (lambda rows: rows, {"classes": ["1", "2"]}, "'0' is none of the classes (1, 2)"),
    (put("prediction", 7, 2), {}, "row 8: column 'prediction': '2' is none of the classes (0, 1)"),
    (put("prediction", 7, None), {}, "row 8: column 'prediction' is empty"),
    (column("prediction", lambda values: values * 0.5), {}, "it looks like a score: give it as --score"),
    (column("prediction", lambda values: np.linspace(0, 1, len(values))), {}, "give it as --score"),
    (put("reference", 7, 1.5), {}, "row 8: column 'reference': '1.5' is none of the classes"),
    (put("reference", 7, float("nan")), {}, "row 8: column 'reference' is empty"),
    (put("score", 7, float("nan")), {"threshold": 0.5}, "row 8: column 'score' is nan, no probability"),
    (put("score", 7, float("inf")), {"threshold": 0.5}, "row 8: column 'score' is inf"),
    (put("score", 7, -0.1), {"threshold": 0.5}, "is -0.1, no probability"),
    (put("score", 7, "high"), {"threshold": 0.5}, "is 'high', no probability"),
    (put("score", 7, "0,5"), {"threshold": 0.5}, "write a decimal point"),
    (put("score", 7, "1e400"), {"threshold": 0.5}, "is '1e400', no probability"),
    (put("score", 7, 10**400), {"threshold": 0.5}, "no probability"),
    (put("score", 7, True), {"threshold": 0.5}, "is True, no probability"),
    (put("person", 7, ""), {"cluster": "person"}, "row 8: column 'person' is empty"),
    (column("race", lambda values: np.arange(len(values)) / 7), {"groups": ["race"]}, "bin them"),
    (column("race", lambda values: np.array([f"g{at}" for at in range(len(values))])), {"groups": ["race"]}, "levels"),
    (column("race", lambda values: np.array([""] * len(values))), {"groups": ["race"]}, "every value is missing"),
    (lambda rows: {name: values[:0] for name, values in rows.items()}, {}, "no rows"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "options", "message"), BAD)
def test_rows_that_are_wrong_are_refused(change: Callable[[Rows], Rows], options: dict[str, Any], message: str) -> None:
    rows = make_rows(700)
    rows["score"] = np.random.default_rng(5).random(700)
    found = refusal(change(rows), **options)
    assert message in found


def test_doubled_ids_are_found_across_shards(tmp_path: Path) -> None:
    frame = pd.DataFrame(make_rows(300))
    frame[:200].to_csv(tmp_path / "one.csv", index=False)
    frame[150:].to_csv(tmp_path / "two.csv", index=False)
    message = refusal([tmp_path / "one.csv", tmp_path / "two.csv"])
    assert message.startswith(
        f"{tmp_path / 'two.csv'}:2: column 'id': 'r150' stands at {tmp_path / 'one.csv'}, line 152"
    )
    assert "50 rows repeat an id" in message


def test_an_id_is_not_accused_because_its_hash_is_another_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairdeploy.data.predictions.hash", lambda text: len(text), raising=False)
    assert judge(make_rows(300)).evidence.tallies["reference"].rows == 300
    with pytest.raises(DataError, match="stands at row 4 already"):
        judge(put("id", 7, "r3")(make_rows(300)))


def test_a_shard_that_lacks_a_column_is_named(tmp_path: Path) -> None:
    frame = pd.DataFrame(make_rows(300))
    frame[:200].to_csv(tmp_path / "one.csv", index=False)
    frame[200:].drop(columns="sex").to_csv(tmp_path / "two.csv", index=False)
    assert refusal([tmp_path / "one.csv", tmp_path / "two.csv"]).startswith(f"{tmp_path / 'two.csv'}: no column 'sex'")


def test_the_columns_of_a_wide_table_are_not_all_listed() -> None:
    rows = make_rows(20) | {f"c{at}": np.arange(20) for at in range(3000)}
    message = refusal(rows, groups=["sx"])
    assert "3008 in all" in message
    assert len(message) < 400


def test_the_same_rows_give_the_same_bytes() -> None:
    one, two = (judge(make_rows(600)).evidence.record for _ in range(2))
    assert one.digest == two.digest


def test_what_is_counted_is_what_a_tally_counts() -> None:
    rows = make_rows(500)
    found = judge(rows, groups=["sex", "race"], contexts=["site"], cluster="person").evidence.tallies["reference"]
    expected = Tally.count(
        found.schema, ids=rows["id"], labels=rows["label"], attributes=rows, contexts=rows, clusters=rows["person"],
        reference=rows["reference"], deployed=rows["prediction"],
    )  # fmt: skip
    assert found == expected


def split_files(folder: Path, rows: Rows) -> tuple[Path, Path]:
    """Write the reference's predictions into a file of their own, in another order."""
    frame = pd.DataFrame(rows)
    frame.drop(columns="reference").to_csv(folder / "new.csv", index=False)
    old = frame[["id", "reference"]].rename(columns={"reference": "prediction"}).sample(frac=1, random_state=1)
    old.to_csv(folder / "old.csv", index=False)
    return folder / "new.csv", folder / "old.csv"


def test_the_reference_of_a_file_of_its_own_is_joined_by_id(tmp_path: Path) -> None:
    rows = make_rows(900, lost=0.1)
    new, old = split_files(tmp_path, rows)
    found, expected = judge(new, reference_file=old, gates=DROP), judge(rows, gates=DROP)
    assert found.evidence.tallies == expected.evidence.tallies
    assert found.predictions.references == {"reference": "column 'prediction of old.csv'"}
    assert set(found.files) == {"new.csv", "old.csv"}
    named = judge(new, reference_file=[old], reference={"dense": "prediction"})
    assert named.evidence.tallies["dense"] == expected.evidence.tallies["reference"]


@pytest.mark.parametrize(("write", "changed"), [(int, 0), (float, 0), (bool, 0), (int, 5)])
def test_the_labels_of_both_files_must_agree(tmp_path: Path, write: Callable[[int], object], changed: int) -> None:
    rows = make_rows(300)
    new, old = split_files(tmp_path, rows)
    label = dict(zip(rows["id"], rows["label"], strict=True))
    frame = pd.read_csv(old).sort_values("id")
    wrong = list(frame.id[:changed])
    frame["label"] = [write(int(label[one]) ^ (one in wrong)) for one in frame.id]
    frame.to_csv(old, index=False)
    if not changed:
        assert judge(new, reference_file=old, gates=DROP).evidence.tallies == judge(rows).evidence.tallies
        return
    message = refusal(new, reference_file=old)
    assert message.startswith(f"{old}: column 'label': 5 ids have another label there, first ")
    assert sum(f"'{one}'" in message for one in wrong) == 3


def test_the_rows_of_both_files_must_be_the_same(tmp_path: Path) -> None:
    new, old = split_files(tmp_path, make_rows(300))
    frame = pd.read_csv(old)
    frame[~frame.id.isin(["r1", "r2", "r3", "r4"])].to_csv(old, index=False)
    message = refusal(new, reference_file=old)
    assert "4 ids are missing there, first 'r1', 'r2', 'r3' ..." in message
    pd.concat([frame, frame[:1].assign(id="x")]).to_csv(old, index=False)
    assert refusal(new, reference_file=old).startswith(f"{old}: is not of the same rows: 1 ids stand only there")
    pd.concat([frame, frame[frame.id == "r7"]]).to_csv(old, index=False)
    assert f"{old}:302: column 'id': 'r7' stands twice" in refusal(new, reference_file=old)
    assert "holds one reference" in refusal(new, reference_file=old, reference={"dense": "a", "compact": "b"})
    assert "did you mean 'prediction'" in refusal(new, reference_file=old, reference="predicton")
    frame.drop(columns="id").to_csv(old, index=False)
    assert "no column 'id'" in refusal(new, reference_file=old)
