"""An auditor's road over a build: every number of every stage follows from the tallies in its bundles."""

import json
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from fairdeploy.audit import audit
from fairdeploy.cli import main
from fairdeploy.errors import IntegrityError
from fairdeploy.evidence.records import EvidenceRecord
from fairdeploy.gates import Verdict
from fairdeploy.workflow import latest
from tests.explain.conftest import Small
from tests.test_audit import TODAY, reseal

THEIRS = "true_positive_rate: {max_drop: 0.9, against: dense}\naccuracy: {min: 0.95}\n"


@pytest.fixture
def build(quantised: Small, tmp_path: Path) -> Path:
    """A copy of a build without its project, as an auditor gets it."""
    return Path(shutil.copytree(latest(quantised.folder).resolve(), tmp_path / "handed over"))


@pytest.fixture
def bundle(build: Path) -> Path:
    return build / "this-host-int8"


def test_the_vendors_own_gates_give_the_sealed_verdict(build: Path, bundle: Path) -> None:
    sealed = Verdict.load(bundle / "verdict.json")
    assert audit(build, bundle / "gates.json", today=TODAY) == [sealed]
    assert audit(bundle, bundle / "gates.json", today=TODAY) == [sealed]


def test_every_stage_has_its_tally_in_the_bundle(bundle: Path) -> None:
    stages = {one.stage for one in EvidenceRecord.load(bundle / "evidence.json").stages}
    assert stages >= {"dense", "exported", "quantised", "runtime"}
    assert {file.name for file in bundle.glob("tally-stage-*")} == {f"tally-stage-{name}.json" for name in stages}


def test_an_auditors_gates_give_the_same_bytes_twice(bundle: Path, tmp_path: Path) -> None:
    gates, out = tmp_path / "theirs.yaml", [tmp_path / "one.json", tmp_path / "two.json"]
    gates.write_text(THEIRS)
    command = ["gate", "--bundle", str(bundle), "--gates", str(gates)]
    assert [main([*command, "--out", str(file)]) for file in out] == [1, 1]
    assert out[0].read_bytes() == out[1].read_bytes()
    assert {cell["rule"] for cell in json.loads(out[0].read_text())["cells"]} == {
        "true_positive_rate.max_drop.dense",
        "accuracy.min",
    }


def test_an_auditors_waiver_is_held_against_their_day(build: Path, bundle: Path, tmp_path: Path) -> None:
    gates = tmp_path / "theirs.yaml"
    gates.write_text(THEIRS)
    (strict,) = audit(build, gates, today=TODAY)
    open_cells = [cell for cell in strict.cells if cell.status != "pass"]
    waivers = [
        {"target": strict.target, "rule": cell.rule, "bound": cell.bound, "group": cell.group, "context": cell.context,
         "reason": "known since spring", "approver": "R. Officer", "expires": "2026-06-30"}
        for cell in open_cells
    ]  # fmt: skip
    gates.write_text(f"{THEIRS}waivers: {json.dumps(waivers)}\n")
    command = ["gate", "--bundle", str(build), "--gates", str(gates), "--today"]
    assert [main([*command, day]) for day in ("2026-06-30", "2026-07-01")] == [0, 1]
    assert audit(build, gates, today=date(2026, 6, 30))[0].status == "waived"


@pytest.mark.parametrize("field", ["rates", "changes", "stages"])
def test_one_changed_number_ends_with_5_and_is_named(
    bundle: Path, field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(plain: dict[str, Any]) -> None:
        if field == "rates":
            plain["rates"][3]["value"] = 0.123
        elif field == "changes":
            plain["changes"][2]["lost"] += 1
        else:
            plain["stages"][1]["rates"][0]["value"] = 0.123

    reseal(bundle, "evidence.json", change)
    digest = EvidenceRecord.load(bundle / "evidence.json").digest
    reseal(bundle, "verdict.json", lambda plain: plain.update(evidence_digest=digest))
    assert main(["gate", "--bundle", str(bundle), "--gates", str(bundle / "gates.json")]) == 5
    place = {"rates": "rates[3].value is 0.123", "changes": "changes[2].lost", "stages": "stages[1].rates[0].value"}
    said = capsys.readouterr()
    assert place[field] in said.err
    assert said.out == ""


def test_a_stage_whose_tally_was_changed_or_left_out_is_named(bundle: Path) -> None:
    name = "tally-stage-quantised.json"
    kept = (bundle / name).read_bytes()
    shutil.copyfile(bundle / "tally-stage-dense.json", bundle / name)
    reseal(bundle, name, lambda plain: None)
    with pytest.raises(IntegrityError, match=f"{name} is not the tally of this evidence"):
        audit(bundle, bundle / "gates.json", today=TODAY)
    (bundle / name).write_bytes(kept)
    manifest = json.loads((bundle / "manifest.json").read_text())
    del manifest["files"][name]
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    (bundle / name).unlink()
    with pytest.raises(IntegrityError, match=f"names {name}, which was never sealed"):
        audit(bundle, bundle / "gates.json", today=TODAY)
