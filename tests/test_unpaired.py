"""`fairdeploy judge --unpaired`: the reference saw other rows, which stand in a file of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import fairdeploy
from fairdeploy.audit import audit
from fairdeploy.cli import main
from fairdeploy.errors import ConfigError, IntegrityError
from fairdeploy.judgement import Judgement
from fairdeploy.records import file_digest

DROP = {"true_positive_rate": {"max_drop": 0.06}}


def make_rows(seed: int, n: int = 4000, *, lost: float = 0.0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    label, sex = rng.integers(0, 2, n), rng.choice(["f", "m"], n)
    prediction = np.where(rng.random(n) < 0.9, label, 1 - label)
    prediction = np.where((sex == "f") & (label == 1) & (rng.random(n) < lost), 0, prediction)
    ids = [f"{seed}-{at}" for at in range(n)]
    return pd.DataFrame({"id": ids, "label": label, "prediction": prediction, "sex": sex})


def judge(new: Any, old: Any, **more: Any) -> Judgement:
    return fairdeploy.judge(new, **{"groups": ["sex"], "reference_file": old, "unpaired": True, "gates": DROP, **more})


def refusal(new: Any, old: Any, **more: Any) -> str:
    with pytest.raises(ConfigError) as error:
        judge(new, old, **more)
    return str(error.value)


def test_no_harm_passes_and_harm_fails_where_it_is() -> None:
    old = make_rows(2)
    assert judge(make_rows(1), old).verdict.status == "pass"
    harmed = judge(make_rows(1, lost=0.2), old).verdict
    assert {cell.group.get("sex"): cell.status for cell in harmed.cells}["f"] == "fail"
    assert judge(make_rows(1, 60), old).verdict.status == "inconclusive"


def test_changes_are_those_of_the_two_files_whatever_the_order_or_the_name_of_the_reference() -> None:
    new, old = make_rows(1, lost=0.1), make_rows(2)
    found = judge(new, old.rename(columns={"prediction": "was"}), reference="was")
    rates = [frame[(frame.label == 1) & (frame.sex == "f")].prediction.mean() for frame in (new, old)]
    (shift,) = [
        one
        for one in found.evidence.record.shifts
        if one.metric == "true_positive_rate" and one.group == {"sex": "f"} and not one.paired
    ]
    assert shift.change == pytest.approx(rates[0] - rates[1])
    mixed = [old.sample(frac=1, random_state=1)[at::2] for at in (0, 1)]
    plain = judge(new, old)
    again = judge(new.sample(frac=1, random_state=2), mixed)
    assert (again.verdict, again.evidence.record) == (plain.verdict, plain.evidence.record)
    gates = {"true_positive_rate": {"max_drop": 0.06, "against": "dense"}}
    named = judge(new, old, reference={"dense": "prediction"}, gates=gates)
    assert [cell.status for cell in named.verdict.cells] == [cell.status for cell in plain.verdict.cells]
    assert any("saw 4000 other rows" in note for note in plain.predictions.notes)


def test_the_reference_may_hold_scores() -> None:
    old = make_rows(2)
    score = np.random.default_rng(3).random(len(old))
    scored = old.drop(columns="prediction").assign(score=score)
    decided = old.assign(prediction=(score >= 0.5).astype(int))
    new = make_rows(1)
    assert judge(new, scored).evidence.unpaired == judge(new, decided).evidence.unpaired


def changed(**columns: Any) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda frame: frame.assign(**columns)


BAD: list[tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = [
    (lambda frame: frame[:0], "has a header, but no rows"),
    (lambda frame: frame.drop(columns="label"), "no column 'label' (label)"),
    (lambda frame: frame.drop(columns="sex"), "no column 'sex' (group)"),
    (lambda frame: frame.drop(columns="prediction"), "no column 'score' (reference)"),
    (lambda frame: pd.concat([frame, frame[:1]]), "stands at"),
    (lambda frame: frame[frame.sex == "f"], "column 'sex': only 'f' stands here"),
    (lambda frame: frame.replace({"sex": {"f": "w"}}), "or declare all, as in sex=f|m|w"),
    (changed(label=7), "'7' is none of the classes (0, 1)"),
    (changed(prediction=2), "'2' is none of the classes (0, 1)"),
    (changed(prediction=""), "column 'prediction' is empty"),
]


@pytest.mark.parametrize(("change", "said"), BAD)
def test_reference_rows_that_are_wrong_are_refused(
    change: Callable[[pd.DataFrame], pd.DataFrame], said: str, tmp_path: Path
) -> None:
    change(make_rows(2)).to_csv(tmp_path / "old.csv", index=False)
    message = refusal(make_rows(1), tmp_path / "old.csv")
    assert said in message
    assert message.startswith(str(tmp_path / "old.csv"))


def test_the_judged_rows_themselves_are_no_other_rows() -> None:
    new = make_rows(1)
    for same in (new, new.sample(frac=1, random_state=1), new.assign(prediction=new.label)):
        assert "leave --unpaired out" in refusal(new, same)
    assert judge(new, new[1:].assign(sex=new.sex)).verdict.status == "pass"  # unpaired bounds are only wider


def test_the_labels_are_no_reference_and_a_file_is_needed() -> None:
    assert "cannot be both label and reference" in refusal(make_rows(1), make_rows(2), reference="label")
    assert "give them with --reference-file" in refusal(make_rows(1), None)
    assert "holds one reference" in refusal(make_rows(1), make_rows(2), reference={"dense": "a", "compact": "b"})


def test_clusters_of_the_reference_are_its_own_and_never_left_out() -> None:
    new, old = make_rows(1), make_rows(2)
    person = np.arange(len(new)) // 4
    assert "no column 'cluster'" in refusal(new.assign(cluster=person), old)
    alone = judge(new, old.assign(cluster=person))
    assert alone.evidence.unpaired["reference"].schema.clustered
    assert not alone.evidence.tallies["reference"].schema.clustered


def test_a_declared_group_that_one_side_lacks_blocks() -> None:
    new, old = make_rows(1), make_rows(2)
    declared = {"sex": ["f", "m", "x"]}
    more = pd.concat([old, make_rows(3, 200).assign(sex="x")])
    for ours, theirs in ((new, more), (pd.concat([new, make_rows(3, 200).assign(sex="x")]), old)):
        found = judge(ours, theirs, groups=declared).verdict
        assert {cell.group.get("sex"): cell.status for cell in found.cells}["x"] == "undefined"
        assert found.status == "inconclusive"


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    make_rows(1, lost=0.2).to_csv(tmp_path / "new.csv", index=False)
    make_rows(2).to_csv(tmp_path / "old.csv", index=False)
    (tmp_path / "gates.yaml").write_text("gates:\n  true_positive_rate: {max_drop: 0.06}\n")
    return [str(tmp_path / "new.csv"), "--groups", "sex", "--reference-file", str(tmp_path / "old.csv"), "--unpaired"]


def test_the_command_prints_changes_and_seals_what_an_auditor_gates_again(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gates, bundle = tmp_path / "gates.yaml", tmp_path / "bundle"
    assert main(["judge", *files, "--gates", str(gates), "--out", str(bundle)]) == 1
    out = capsys.readouterr().out
    assert "change against reference" in out
    assert "the reference saw 4000 other rows" in out
    assert (bundle / "tally-reference-unpaired.json").is_file()
    (verdict,) = audit(bundle, bundle / "gates.json", today=date(2026, 6, 1))
    assert verdict.model_dump(mode="json") == json.loads((bundle / "verdict.json").read_text())
    gates.write_text("gates:\n  true_positive_rate: {max_drop: 0.3}\n")
    assert main(["gate", "--bundle", str(bundle), "--gates", str(gates)]) == 0
    for kind in ("html", "markdown", "junit", "sarif", "model-card", "json"):
        assert main(["report", str(bundle), "--format", kind, "--out", str(tmp_path / kind)]) == 0


def test_another_tally_of_the_reference_is_refused_even_if_it_is_sealed(tmp_path: Path) -> None:
    judge(make_rows(1, lost=0.2), make_rows(2)).save(tmp_path / "bundle")
    judge(make_rows(1), make_rows(3, lost=0.2)).save(tmp_path / "other")
    name = "tally-reference-unpaired.json"
    (tmp_path / "bundle" / name).write_text((tmp_path / "other" / name).read_text())
    with pytest.raises(IntegrityError, match=f"changed {name}"):
        audit(tmp_path / "bundle", tmp_path / "bundle" / "gates.json", today=date(2026, 6, 1))
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    manifest["files"][name] = file_digest(tmp_path / "bundle" / name)
    (tmp_path / "bundle" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(IntegrityError, match=f"{name} is not the tally of this evidence"):
        audit(tmp_path / "bundle", tmp_path / "bundle" / "gates.json", today=date(2026, 6, 1))


def test_the_margins_that_are_proposed_are_passed_as_often_as_planned(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["judge", *files]) == 4
    assert "max_drop: 0.0" in capsys.readouterr().out
    first = judge(make_rows(1), make_rows(2), gates=None)
    margins = {one.condition: one for one in first.margins}
    assert margins["max_drop"].margin is not None
    gates = {"true_positive_rate": {"max_drop": margins["max_drop"].margin}}
    passed = [judge(make_rows(10 + at), make_rows(100 + at), gates=gates).verdict.status == "pass" for at in range(40)]
    assert np.mean(passed) >= 0.8 - 2 * np.sqrt(0.8 * 0.2 / 40)
    tight = {"true_positive_rate": {"max_drop": margins["max_drop"].margin / 2}}
    passed = [judge(make_rows(10 + at), make_rows(100 + at), gates=tight).verdict.status == "pass" for at in range(10)]
    assert np.mean(passed) < 0.8
    assert judge(make_rows(1, 10), make_rows(2, 10), gates=None).margins[0].margin is None
