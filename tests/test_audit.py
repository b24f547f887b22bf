"""An auditor's road, over bundles of predictions that were made elsewhere."""

import json
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest

import fairdeploy
from fairdeploy.audit import audit
from fairdeploy.bundle import load_bundle, load_evidence
from fairdeploy.cli import main
from fairdeploy.errors import ConfigError, IntegrityError
from fairdeploy.evidence.records import EvidenceRecord, Latency, Stage
from fairdeploy.gates import gate
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


WAIVED = "accuracy: {min: 0.95}\nwaivers:\n" + "".join(
    f"- {{target: predictions, rule: accuracy.min, bound: 0.95, group: {group}, reason: known since spring, "
    "approver: R. Officer, expires: 2026-06-30}\n"
    for group in ("{}", "{sex: f}", "{sex: m}")
)


@pytest.fixture
def waived(tmp_path, rows):
    """A bundle that was sealed with its vendor's waivers."""
    gates = tmp_path / "vendor.yaml"
    gates.write_text(WAIVED)
    found = fairdeploy.judge(rows, groups=["sex"], gates=gates, today=TODAY)
    assert found.verdict.status == "waived"
    found.save(tmp_path / "waived")
    return tmp_path / "waived"


def test_the_vendors_waivers_count_under_its_own_gates_only(waived, tmp_path):
    sealed = waived / "gates.json"
    assert audit(waived, sealed, today=TODAY)[0].status == "waived"
    assert audit(waived, sealed, today=date(2026, 7, 1))[0].status == "fail"
    copied = tmp_path / "gates.json"
    copied.write_bytes(sealed.read_bytes())
    vendors = tmp_path / "vendor.yaml"
    vendors.write_text(WAIVED.partition("waivers:")[0])
    for theirs in (copied, vendors):
        (verdict,) = audit(waived, theirs, today=TODAY)
        assert (verdict.status, verdict.waivers) == ("fail", ())


def test_a_waiver_that_was_revived_by_the_date_leaves_a_trace(waived, tmp_path, capsys):
    """Long after its expiry, with --today before it: the verdict, the terminal and the report say the day."""
    out = tmp_path / "verdict.json"
    command = ["gate", "--bundle", str(waived), "--gates", str(waived / "gates.json"), "--today", "2020-01-01"]
    assert main([*command, "--out", str(out)]) == 0
    assert "Waivers were held against 2020-01-01." in " ".join(capsys.readouterr().out.split())
    assert {use["judged_on"] for use in json.loads(out.read_text())["waivers"]} == {"2020-01-01"}
    assert main(["report", str(waived), "--format", "markdown"]) == 0
    assert "Waivers were held against 2026-06-01." in capsys.readouterr().out


def test_another_day_than_the_sealed_one_does_not_follow(waived):
    def later(plain):
        plain["waivers"][1]["judged_on"] = "2026-06-02"

    reseal(waived, "verdict.json", later)
    with pytest.raises(IntegrityError, match="the verdict does not follow"):
        audit(waived, waived / "gates.json", today=TODAY)


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
    digest = EvidenceRecord.load(vendor / "evidence.json").digest
    reseal(vendor, "verdict.json", lambda plain: plain.update(evidence_digest=digest))
    with pytest.raises(IntegrityError, match=said):
        audit(vendor, vendor / "gates.json", today=TODAY)
    assert main(["gate", "--bundle", str(vendor), "--gates", str(vendor / "gates.json")]) == 5


TIMED = Latency(runs=1, threads=1, mean_ms=1, percentiles={"p50": 1}, intervals={}, samples_ms=(1,))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("level", "device"), ("identical_to", ("reference",)), ("runtime", {"onnxruntime": "1.20"}), ("size_bytes", 0),
        ("peak_memory_mb", 0.1), ("artifact_digest", "a" * 64), ("reference_digests", {"reference": "a" * 64}),
        ("realised_precision", {"int8": 3}), ("failure", "it crashed"), ("latency", TIMED),
        ("reference_latency", {"reference": TIMED}),
        ("stages", (Stage(stage="runtime", tally_digest="a" * 64, rates=(), changes=()),)),
    ],
)  # fmt: skip
def test_predictions_that_were_made_elsewhere_claim_no_measurement(vendor, name, value):
    """The vendor seals the bundle anew, with a verdict that follows from what it claims."""
    sealed = load_bundle(vendor)
    evidence = load_evidence(sealed)
    record = evidence.record.model_copy(update={name: value})
    verdict = gate(replace(evidence, record=record), sealed.gates)
    for file, found in (("evidence.json", record), ("verdict.json", verdict)):
        found.save(vendor / file)
        reseal(vendor, file, lambda plain: None)
    with pytest.raises(IntegrityError, match=f"made elsewhere.*{name}"):
        load_bundle(vendor)
    with pytest.raises(IntegrityError, match=f"made elsewhere.*{name}"):
        audit(vendor, vendor / "gates.json", today=TODAY)


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
