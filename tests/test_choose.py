"""Which candidate is chosen on tune, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fairdeploy.candidates import Candidate
from fairdeploy.choose import choose
from fairdeploy.data import Rows
from fairdeploy.devices import DeviceFacts
from fairdeploy.export import ExportReport
from fairdeploy.gates import Rule
from fairdeploy.measure import Latencies, Meter, Model, Predictions, Run
from fairdeploy.model import ModelSpec, TensorSpec
from fairdeploy.project import Budget, Groups
from fairdeploy.store import Store

ROWS = 2000
LABELS = np.arange(ROWS) % 2
TONES = np.array(["light", "dark"])[np.arange(ROWS) // 2 % 2]
RUN = Run(
    facts=DeviceFacts(arch="x86_64", vendor="v", model="m"),
    runtime={"name": "fake"},
    realised_precision={"fp32": 1},
    peak_memory_mb=1.0,
)
DROP = Rule(metric="accuracy", condition="max_drop", bound=0.02, against="dense")


@dataclass(frozen=True)
class Scripted(Meter):
    """Predictions by file name: which rows are wrong."""

    wrong: dict[str, Any] = field(default_factory=dict)

    def predict(self, model: Model, split: Any, *, device: Any, of: str) -> Predictions:
        predicted = np.where(np.isin(np.arange(ROWS), self.wrong.get(model.file.stem, [])), 1 - LABELS, LABELS)
        return Predictions(np.arange(ROWS).astype(str), np.eye(2, dtype=np.float32)[predicted], RUN)

    def latency(self, model: Model, split: Any, *, device: Any, measure: Any, of: str) -> Latencies:
        return Latencies(np.full(50, 0.5), RUN)


def candidate(folder: Path, name: str, macs: int) -> Candidate:
    file = folder / f"{name}.onnx"
    file.write_bytes(name.encode())
    report = ExportReport(
        file_digest="0" * 64, size_bytes=1, parameters=macs, nodes=1, max_difference=0.0, rows=1, versions={}
    )
    return Candidate(name, Budget(macs=0.5), file, macs, None, report)


def decide(folder: Path, rules: tuple[Rule, ...] = (DROP,), **wrong: Any) -> Any:
    spec = ModelSpec(task="binary-classification", inputs={"image": TensorSpec(shape=("batch", 1))})
    groups = Groups(attributes={"tone": ("light", "dark")})
    meter = Scripted(Store(folder / "store"), spec, groups, wrong)
    rows = Rows(np.arange(ROWS).astype(str), LABELS, {"tone": TONES})
    tune: Any = SimpleNamespace(rows=rows, fingerprint="tune")
    (folder / "dense.onnx").write_bytes(b"dense")
    made = [candidate(folder, "large", 900), candidate(folder, "middle", 500), candidate(folder, "small", 100)]
    return choose(folder / "dense.onnx", made, meter, tune, SimpleNamespace(), rules)  # type: ignore[arg-type]


def test_of_those_that_pass_the_smallest(tmp_path: Path) -> None:
    dark = np.flatnonzero(TONES == "dark")
    choice = decide(tmp_path, small=dark[:200], middle=dark[:4], large=[])
    assert choice.candidate.name == "middle"
    assert [(one.name, one.chosen) for one in choice.records] == [("large", False), ("middle", True), ("small", False)]
    assert "fewest MACs" in choice.decisions[0].reason
    assert choice.records[2].worst_group == "tone dark"
    assert choice.records[2].worst_group_accuracy == pytest.approx(0.8)
    assert choice.records[2].reason == "on tune: fail"


def test_when_none_passes_the_best_worst_group_of_the_least_bad(tmp_path: Path) -> None:
    dark, light = np.flatnonzero(TONES == "dark"), np.flatnonzero(TONES == "light")
    spread = np.concatenate([dark[:9], light[:9]])
    choice = decide(tmp_path, small=dark[:18], middle=spread, large=dark[:300])
    assert {one.name: one.reason for one in choice.records}["large"] == "on tune: fail"
    assert choice.candidate.name in ("middle", "small")
    undecided = decide(tmp_path, small=dark[:16], middle=dark[:14], large=dark[:300])
    assert undecided.candidate.name == "middle"
    assert "best worst-group accuracy" in undecided.decisions[0].reason


def test_of_equals_that_do_not_pass_the_smallest(tmp_path: Path) -> None:
    dark = np.flatnonzero(TONES == "dark")
    choice = decide(tmp_path, small=dark[2:16], middle=dark[:14], large=dark[:300])
    assert choice.candidate.name == "small"


def test_gates_against_compact_latency_and_size_wait_for_the_target(tmp_path: Path) -> None:
    later = (
        Rule(metric="accuracy", condition="max_drop", bound=0.02, against="compact"),
        Rule(metric="size_mb", condition="max", bound=0.000001),
    )
    choice = decide(tmp_path, rules=later, small=np.arange(900), middle=[], large=[])
    assert choice.candidate.name == "small"
