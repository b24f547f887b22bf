"""A fabricated kiosk build, judged and gated for real: one target for each way that a verdict can end."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fairdeploy.bundle import (
    BuildRecord,
    CandidateRecord,
    CompactionRecord,
    GroupCount,
    JudgedBundle,
    LayerWidths,
    LogEntry,
    Manifest,
    PredictionsRecord,
    ServesRecord,
    StationTime,
    TargetBundle,
    build_identity,
    seal,
)
from fairdeploy.evidence import Evidence, Schema, Tally, judge
from fairdeploy.gates import Gates, Rule, gate
from fairdeploy.gates.records import Waiver
from fairdeploy.model import ModelSpec, TensorSpec
from fairdeploy.records import write_atomic
from fairdeploy.target import Hardware, Runtime, Target
from tests.report import trainings

TONES = ("I-II", "III", "IV", "V", "VI")
LIGHTS = ("bright", "dim", "medium")
N = 2000
UNKNOWN_ROWS = 14
DENSE_MISSES = {"I-II": 96, "III": 118, "IV": 148, "V": 194, "VI": 252}
MISSES = {  # more positives missed than by the dense network, of N in each tone
    "dense": {},
    "pruned": {"I-II": 12, "III": 16, "IV": 22, "V": 28, "VI": 34},
    "compact": {"I-II": 12, "III": 16, "IV": 22, "V": 28, "VI": 34},
    "exported": {"I-II": -2, "III": 2, "IV": 6, "V": 12, "VI": 16},
    "quantised": {"I-II": -1, "III": 2, "IV": 7, "V": 13, "VI": 19},
    "gentle": {"I-II": -2, "III": 2, "IV": 7, "V": 12, "VI": 17},
    "harsh": {"I-II": 1, "III": 6, "IV": 10, "V": 20, "VI": 66},
}
RULES = (
    Rule(metric="true_positive_rate", condition="max_drop", bound=0.01, against="compact", where="fairdeploy.yaml:31"),
    Rule(metric="true_positive_rate", condition="max_drop", bound=0.04, against="dense", where="fairdeploy.yaml:32"),
    Rule(metric="equalized_odds_difference", condition="max", bound=0.15, where="fairdeploy.yaml:33"),
    Rule(metric="worst_group_accuracy", condition="min", bound=0.85, required=False, where="fairdeploy.yaml:34"),
    Rule(metric="latency_p90_ms", condition="max", bound=5, where="fairdeploy.yaml:36"),
)
SPEC = ModelSpec(
    task="binary-classification",
    inputs={"image": TensorSpec(shape=("batch", 3, 32, 32))},
    classes=("passing by", "wants service"),
)
NOTE = "The pictures are drawings of people (pictograms), not photographs: nothing here is about real people."


@dataclass(frozen=True)
class Case:
    """What one fabricated target does."""

    id: str = "this-host"
    stages: tuple[str, ...] = ("dense", "pruned", "compact", "exported")
    end: str = "gentle"
    precision: str = "fp32"
    level: str | None = "device"
    level_reason: str = "It ran on this host, which is the target"
    p50_ms: float | None = 0.104
    fake: bool = False
    failure: str | None = None
    unknown: bool = False
    alarms: int = 0
    attribute: str = "skin_tone"
    tones: tuple[str, ...] = TONES
    rules: tuple[Rule, ...] = field(default=RULES)
    waivers: tuple[Waiver, ...] = ()


CASES = (
    Case(),
    Case("this-host-int8", end="harsh", precision="int8", p50_ms=0.131, unknown=True,
         stages=("dense", "pruned", "compact", "exported", "quantised")),
    Case("jetson-orin-nano", end="quantised", precision="int8", p50_ms=None, level="simulated",
         level_reason="TensorRT does not run here, so ONNX Runtime ran the quantised graph. Run it on the device",
         stages=("dense", "pruned", "compact", "exported", "quantised")),
    Case("x86-openvino-int8", precision="int8", p50_ms=None, level=None, level_reason="Nothing ran",
         failure="openvino: the process died with signal 11\n[ERROR] Check 'shape.is_static()' failed"),
    Case("door-cam", precision="int8", p50_ms=3.4, fake=True, level_reason="The device's facts match the target's"),
)  # fmt: skip


def _rows(case: Case) -> dict[str, NDArray[Any]]:
    """Return label, tone, light and row number within tone × label."""
    parts = [(tone, label, N) for tone in case.tones for label in (1, 0)]
    parts += [("", 1, UNKNOWN_ROWS)] if case.unknown else []
    return {
        "label": np.concatenate([np.full(n, label) for _, label, n in parts]),
        "tone": np.concatenate([np.full(n, tone) for tone, _, n in parts]).astype(str),
        "at": np.concatenate([np.arange(n) for *_, n in parts]),
    }


def _predictions(case: Case, rows: Mapping[str, NDArray[Any]], stage: str) -> NDArray[np.int64]:
    """Return the classes: each tone's first rows are wrong, and a few others at each stage."""
    wrong = np.zeros(len(rows["at"]), dtype=bool)
    first = 2 if stage in ("harsh", "gentle", "quantised") else 0
    for tone, known in zip(case.tones, TONES, strict=True):
        misses = DENSE_MISSES[known] + MISSES[stage].get(known, 0)
        of_tone, at = rows["tone"] == tone, rows["at"]
        wrong |= of_tone & (rows["label"] == 1) & (at >= first) & (at < first + misses)
        wrong |= of_tone & (rows["label"] == 0) & (at < DENSE_MISSES[known] // 2)
    wrong |= (rows["tone"] == "") & (rows["at"] < 2)
    if stage == case.end:  # new false alarms; other tones lose as many as they gain
        no, most = rows["label"] == 0, rows["tone"] == "VI"
        wrong |= no & (rows["at"] >= N - np.where(most, case.alarms, case.alarms // 2))
        wrong &= ~(no & ~most & (rows["tone"] != "") & (rows["at"] < case.alarms // 2))
    return np.where(wrong, 1 - rows["label"], rows["label"])


def _tally(case: Case, rows: Mapping[str, NDArray[Any]], reference: str, deployed: str) -> Tally:
    schema = Schema(attributes={case.attribute: case.tones}, contexts={"light": LIGHTS}, classes=SPEC.classes)
    return Tally.count(
        schema,
        ids=np.arange(len(rows["at"])).astype(str),
        labels=rows["label"],
        attributes={case.attribute: rows["tone"]},
        contexts={"light": np.array(LIGHTS)[rows["at"] % 3]},
        clusters=None,
        reference=_predictions(case, rows, reference),
        deployed=_predictions(case, rows, deployed),
    )


def _latencies(p50_ms: float) -> NDArray[np.float64]:
    return p50_ms * (0.9 + 0.6 * np.random.default_rng(7).permutation(np.linspace(0, 1, 500)) ** 3)


def _evidence(case: Case) -> Evidence:
    rows, ran = _rows(case), case.failure is None
    stages = {stage: _tally(case, rows, "dense", stage) for stage in case.stages} if ran else {}
    if ran:
        stages["runtime"] = _tally(case, rows, "dense", case.end)
    references = {"dense": "dense", "compact": "exported"} if ran else {}
    return judge(
        target=case.id, level=case.level, level_reason=case.level_reason, artifact_digest="a" * 64,
        spec_digest=SPEC.digest, data_fingerprint="d" * 64, reference_digests=REFERENCES,
        runtime={"name": "ONNX Runtime", "version": "1.23.2"}, requested_precision=case.precision,
        realised_precision={case.precision: 21} if ran else {}, size_bytes=118_400, peak_memory_mb=61.5,
        tallies={name: _tally(case, rows, stage, case.end) for name, stage in references.items()}, stages=stages,
        latencies_ms=None if case.p50_ms is None else _latencies(case.p50_ms),
        reference_latencies_ms={} if case.p50_ms is None or case.fake else {"dense": _latencies(0.211)},
        seed=7, fake_device=case.fake, failure=case.failure,
    )  # fmt: skip


TODAY = date(2026, 6, 1)
HARSH_CELL = {
    "target": "this-host", "rule": "true_positive_rate.max_drop.compact", "bound": 0.01, "group": {"skin_tone": "VI"},
}  # fmt: skip
WAIVERS = (
    Waiver(**HARSH_CELL, reason="Replaced in the next release", approver="R. Officer", expires=date(2026, 12, 31)),
    Waiver(**{**HARSH_CELL, "group": {"skin_tone": "V"}}, reason="An old acceptance | of <V>", approver="R. Officer",
           expires=date(2026, 1, 31)),
    Waiver(**{**HARSH_CELL, "group": {"skin_tone": "III"}}, reason="Not needed any more", approver="R. Officer",
           expires=date(2026, 12, 31)),
)  # fmt: skip

REFERENCES = {name: sha256(name.encode()).hexdigest() for name in ("dense", "compact")}
_KNOWN: dict[Case, tuple[Evidence, Gates]] = {}


def make(case: Case, folder: Path) -> TargetBundle:
    """Judge and gate one case; each case once, for it takes a second."""
    known = replace(case, waivers=())
    if known not in _KNOWN:
        _KNOWN[known] = _evidence(known), Gates(rules=case.rules)
    evidence, gates = _KNOWN[known]
    target = Target(id=case.id, hardware=Hardware(this_host=True), runtime=Runtime(backend="ort"))
    manifest = Manifest(
        target=case.id, build_id="8c1f0a52d9e4", fake_device=case.fake, files={}, parents={}, versions={}, machine={},
        seed=7,
    )  # fmt: skip
    verdict = gate(evidence, gates, waivers=case.waivers, today=TODAY)
    return TargetBundle(folder / case.id, manifest, gates, evidence.record, verdict, target, SPEC)


def record(targets: tuple[str, ...], attribute: str = "skin_tone") -> BuildRecord:
    """Return what the targets of a build share."""
    candidates = tuple(
        CandidateRecord(
            name=name, keep={"macs": keep}, macs=round(3_130_000 * keep), macs_share=keep,
            parameters=round(77_500 * keep),
            size_bytes=round(318_000 * keep), latency_p50_ms=0.05 + 0.16 * keep, accuracy=worst + 0.04,
            worst_group_accuracy=worst, worst_group="skin tone VI", chosen=keep == 0.5, reason=reason,
        )
        for name, keep, worst, reason in (
            ("keep 70 %", 0.70, 0.884, "larger than keep 50 % and no better for the worst group"),
            ("keep 50 %", 0.50, 0.881, "the smallest whose worst group stays within 1.0 points of the best"),
            ("keep 30 %", 0.30, 0.853, "skin tone VI loses 3.1 points"),
        )
    )  # fmt: skip
    layers = {"stem + block1": (16, 16), "block1.conv1": (16, 8), "block2.conv1": (32, 16),
              "block2 + shortcut": (32, 24), "block3.conv1": (64, 32), "block3 + shortcut": (64, 40)}  # fmt: skip
    rows = {"train": 12_000, "prune": 4_000, "calibrate": 1_000, "tune": 4_000, "evaluate": 20_000}
    stations = {"data": 17.2, "prune": 1.1, "recover": 21.4, "export": 6.8, "judge": 1.2}
    return BuildRecord(
        build_id="8c1f0a52d9e4", project="kiosk", fairdeploy_version="0.1.0", seed=7, classes=SPEC.classes,
        attributes={attribute: TONES}, data_note=NOTE, candidates=candidates,
        compaction=CompactionRecord(
            macs_before=3_130_000, macs_after=1_540_000, parameters_before=77_506, parameters_after=31_210,
            bytes_before=310_024, bytes_after=124_840, kept_because={}, whole={}, unknown_ops=(), not_own_class=None,
            max_difference=3.4e-15, output_sensitivity=0.83, batch_sizes=(1, 2, 7),
            layers=tuple(LayerWidths(group=group, before=b, after=a) for group, (b, a) in layers.items()),
        ),
        courses=(trainings.course(station="prune[keep 50 %]", kept=(1.0, 0.6, 0.5)), trainings.course()),
        serves=ServesRecord(before=trainings.DENSE, after=trainings.PRUNED),
        export_max_difference=2.1e-6, dense_size_bytes=318_204, compact_size_bytes=131_877,
        group_counts=tuple(GroupCount(split=split, attribute=attribute, level=tone, rows=n // 5)
                           for split, n in rows.items() for tone in TONES),
        decisions=(LogEntry(station="choose", decision="keep 50 % of the MACs", reason="smallest within 1.0 points"),
                   LogEntry(station="calibrate", decision="500 rows", reason="recipe group-balanced")),
        times=tuple(StationTime(station=name, seconds=s, cached=name == "data") for name, s in stations.items()),
        attempts=3, gate_sets=2, inputs={"model": "a" * 64}, machine={"cpu": "x86-64, 2 cores", "system": "Linux"},
        versions={"onnxruntime": "1.23.2", "openvino": "2025.4"}, targets=targets,
    )  # fmt: skip


Build = tuple[BuildRecord, list[TargetBundle]]


def fabricate(folder: Path, cases: tuple[Case, ...] = CASES) -> Build:
    """Make the records; the same for the same cases."""
    return record(tuple(case.id for case in cases), cases[0].attribute), [make(case, folder) for case in cases]


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., TargetBundle]:
    """Return a function that fabricates one target's bundle from the fields of a `Case`."""
    return lambda **fields: make(replace(CASES[0], **fields), tmp_path)


@pytest.fixture
def waived(make_bundle: Callable[..., TargetBundle]) -> TargetBundle:
    """Return a bundle whose one failed cell is waived, beside a waiver that expired and one that is not needed."""
    return make_bundle(end="harsh", rules=(RULES[0], *RULES[3:]), waivers=WAIVERS)


@pytest.fixture
def judged(make_bundle: Callable[..., TargetBundle], tmp_path: Path) -> JudgedBundle:
    """Return predictions that were made elsewhere, of no level, without artifact, target or model spec."""
    known = make_bundle(level=None, level_reason="The predictions were made elsewhere", p50_ms=None, stages=("dense",))
    predictions = PredictionsRecord(name="this-host", classes=SPEC.classes, decision="column 'p'", references={})
    return JudgedBundle(tmp_path, known.manifest, known.gates, known.evidence, known.verdict, predictions)


@pytest.fixture
def kiosk(tmp_path: Path) -> Build:
    """Return a build of five targets: pass, fail, simulated, crashed, fake device."""
    return fabricate(tmp_path)


@pytest.fixture
def kiosk_folder(kiosk: Build, tmp_path: Path) -> Path:
    """Return the folder of the same build, sealed."""
    build, bundles = kiosk
    folder = tmp_path / "build"
    build_id = build_identity(build, {one.target.id: (one.target, one.verdict) for one in bundles})
    build = build.model_copy(update={"build_id": build_id})
    for name in REFERENCES:
        write_atomic(folder / "references" / f"{name}.onnx", name.encode())
    log = json.dumps([entry.model_dump(mode="json") for entry in build.decisions])
    for one in bundles:
        records = {
            "evidence.json": one.evidence, "verdict.json": one.verdict, "gates.json": one.gates,
            "model-spec.json": one.spec, "target.json": one.target,
        }  # fmt: skip
        seal(
            folder / one.verdict.target,
            records,
            {"decision-log.json": log},
            None,
            **one.manifest.model_dump(exclude={"files", "build_id"}),
            build_id=build_id,
        )
    build.save(folder / "build.json")
    return folder
