"""An auditor's road, over bundles of predictions that were made elsewhere."""

import json
from datetime import date
from pathlib import Path

import numpy as np
import pytest

import fairdeploy
from fairdeploy.audit import audit
from fairdeploy.cli import main
from fairdeploy.errors import ConfigError, IntegrityError
from fairdeploy.records import file_digest

GATES = "true_positive_rate: {max_drop: 0.02}\naccuracy: {min: 0.7}\nequalized_odds_difference: {max: 0.2}\n"
TODAY = date(2026, 6, 1)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    n = 8000
    label = rng.integers(0, 2, n)
    reference = label ^ (rng.random(n) < 0.08)
    prediction = reference ^ (rng.random(n) < 0.004)
    group = np.where(rng.random(n) < 0.4, "f", "m")
    return {
        "id": [f"r{at}" for at in range(n)], "label": label, "prediction": prediction.astype(int),
        "reference": reference.astype(int), "sex": group,
    }  # fmt: skip


@pytest.fixture
def vendor(tmp_path, rows):
    """A sealed bundle and the gates file that it was judged under."""
    gates = tmp_path / "vendor.yaml"
    gates.write_text(GATES)
    found = fairdeploy.judge(rows, groups=["sex"], gates=gates)
    assert found.verdict.status == "pass"
    found.save(tmp_path / "bundle")
    return tmp_path / "bundle"


def reseal(bundle: Path, name: str, change) -> None:
    """Change a file of a bundle and the manifest with it, as a vendor could who wants to hide something."""
    plain = json.loads((bundle / name).read_text())
    change(plain)
    (bundle / name).write_text(json.dumps(plain))
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][name] = file_digest(bundle / name)
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_the_vendors_own_gates_give_the_sealed_verdict(vendor):
    sealed = json.loads((vendor / "verdict.json").read_text())
    (verdict,) = audit(vendor, vendor / "gates.json", today=TODAY)
    assert verdict.model_dump(mode="json") == sealed


def test_an_auditors_gates_decide_and_give_the_same_bytes(vendor, tmp_path):
    theirs = tmp_path / "theirs.yaml"
    theirs.write_text("true_positive_rate: {max_drop: 0.0005}\n")
    out = [tmp_path / "one.json", tmp_path / "two.json"]
    codes = [main(["gate", "--bundle", str(vendor), "--gates", str(theirs), "--out", str(one)]) for one in out]
    assert codes == [1, 1]
    assert out[0].read_bytes() == out[1].read_bytes()
    assert json.loads(out[0].read_text())["status"] == "fail"


def test_an_auditors_waiver_counts_until_it_expires(vendor, tmp_path):
    theirs = tmp_path / "theirs.yaml"
    cell = "{target: predictions, rule: accuracy.min, bound: 0.95, group: %s, reason: known since spring, "
    waivers = "".join(
        f"  - {cell % group}approver: R. Officer, expires: 2026-06-30}}\n" for group in ("{}", "{sex: f}", "{sex: m}")
    )
    theirs.write_text(f"accuracy: {{min: 0.95}}\nwaivers:\n{waivers}")
    assert audit(vendor, theirs, today=TODAY)[0].status == "waived"
    (late,) = audit(vendor, theirs, today=date(2026, 7, 1))
    assert late.status == "fail"
    assert "expired on 2026-06-30" in late.sentence
    command = ["gate", "--bundle", str(vendor), "--gates", str(theirs), "--today"]
    assert [main([*command, day]) for day in ("2026-06-01", "2026-07-01", "June")] == [0, 1, 2]


def _raise(plain):
    plain["rates"][0]["value"] = 0.99


def _narrow(plain):
    plain["gaps"][0]["interval"]["upper"] = 0.01


def _gain(plain):
    next(one for one in plain["changes"] if one["lost"])["lost"] = 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_raise, r"rates\[0\].value is 0.99"),
        (_narrow, r"gaps\[0\].interval.upper is 0.01"),
        (_gain, r"changes\[\d+\].lost is 0"),
    ],
)
def test_a_number_that_does_not_follow_from_the_tallies_is_named(vendor, change, said, capsys):
    reseal(vendor, "evidence.json", change)
    from fairdeploy.evidence.records import EvidenceRecord

    digest = EvidenceRecord.load(vendor / "evidence.json").digest
    reseal(vendor, "verdict.json", lambda plain: plain.update(evidence_digest=digest))
    with pytest.raises(IntegrityError, match=said):
        audit(vendor, vendor / "gates.json", today=TODAY)
    assert main(["gate", "--bundle", str(vendor), "--gates", str(vendor / "gates.json")]) == 5


def test_a_verdict_that_does_not_follow_is_named(vendor):
    def flatter(plain):
        plain["cells"][0]["upper"] = 0.0

    reseal(vendor, "verdict.json", flatter)
    with pytest.raises(IntegrityError, match=r"the verdict does not follow .* cells\[0\].upper is 0"):
        audit(vendor, vendor / "gates.json", today=TODAY)


def test_another_tally_a_missing_tally_and_other_gates_are_refused(vendor):
    def loosen(plain):
        plain["rules"][0]["bound"] = 0.5

    (vendor / "tally-reference.json").rename(vendor / "gone")
    with pytest.raises(IntegrityError, match="missing tally-reference.json"):
        audit(vendor, vendor / "gates.json", today=TODAY)
    (vendor / "gone").rename(vendor / "tally-reference.json")
    reseal(vendor, "gates.json", loosen)
    with pytest.raises(IntegrityError, match="other gates"):
        audit(vendor, vendor / "gates.json", today=TODAY)


def test_what_is_no_bundle_or_has_no_gates_is_refused(vendor, tmp_path):
    with pytest.raises(ConfigError, match="no manifest"):
        audit(tmp_path, vendor / "gates.json", today=TODAY)
    with pytest.raises(ConfigError, match="no such file"):
        audit(vendor, tmp_path / "nowhere.yaml", today=TODAY)
    assert main(["gate", "--bundle", str(vendor)]) == 2
    assert main(["gate", "--gates", str(vendor / "gates.json")]) == 2
