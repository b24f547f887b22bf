"""The whole line on the shipped example: every verdict from evidence, every exit code reachable."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from fairdeploy.cli import main
from fairdeploy.devices import HostDevice, Job, Result
from fairdeploy.errors import BackendError
from fairdeploy.line import Line
from fairdeploy.target import load_target
from fairdeploy.testing import Degradation, FakeDevice
from fairdeploy.workflow import Build, build
from tests.conftest import DEMO, Kiosk

REFERENCES = {"dense", "compact"}


def statuses(result: Build) -> dict[str, str]:
    return {bundle.target.id: bundle.verdict.status for bundle in result.bundles}


def test_the_demo_passes_on_every_target(demo: Build) -> None:
    assert statuses(demo) == dict.fromkeys(DEMO, "pass")
    assert demo.exit_code == 0
    for bundle in demo.bundles:
        assert bundle.evidence.level == "device"
        rules = {cell.rule for cell in bundle.verdict.cells}
        assert "true_positive_rate.max_drop.compact" in rules
        assert "latency_p90_ms.max" in rules


def test_the_numbers_are_those_of_the_predictions(kiosk: Kiosk, demo: Build) -> None:
    """Accuracy and TPR per tone, recomputed by masks from the store's predictions."""
    line = Line(kiosk.folder)
    evaluate = line.splits()["evaluate"]
    bundle = next(one for one in demo.bundles if one.target.id == "this-host-int8")
    job = Job(
        "ort",
        demo.folder / "this-host-int8" / "artifact" / "model.onnx",
        "int8",
        bundle.spec,
        {"image": evaluate.folder / "image.npy"},
        what="predictions",
        measure=bundle.target.measure,
    )
    probabilities = HostDevice().run(job).probabilities
    assert probabilities is not None
    right = (probabilities[:, 1] >= 0.5) == evaluate.rows.labels
    for rate in bundle.evidence.rates:
        if rate.context or rate.metric not in ("accuracy", "true_positive_rate"):
            continue
        mask = np.ones(len(right), bool)
        if rate.group:
            mask &= evaluate.rows.attributes["skin_tone"] == rate.group["skin_tone"]
        if rate.metric == "true_positive_rate":
            mask &= evaluate.rows.labels == 1
        if mask.any():
            assert rate.value == pytest.approx(right[mask].mean(), abs=1e-12)
        else:
            assert rate.value is None


def test_compaction_changes_nothing_and_int8_changes_something(demo: Build) -> None:
    bundle = next(one for one in demo.bundles if one.target.id == "this-host-int8")
    stages = {stage.stage: stage for stage in bundle.evidence.stages}
    assert list(stages) == ["dense", "pruned", "compact", "exported", "quantised", "runtime"]
    assert stages["pruned"].rates == stages["compact"].rates
    assert stages["exported"].rates != stages["quantised"].rates
    assert demo.record.compaction is not None
    assert demo.record.compaction.max_difference < 1e-9
    assert demo.record.compaction.output_sensitivity > 1e-3
    assert demo.record.compaction.macs_after < demo.record.compaction.macs_before


def test_macs_are_those_of_the_exported_graph(demo: Build) -> None:
    """Counted again from the ONNX file's shapes."""

    def macs(file: Path) -> int:
        model = onnx.shape_inference.infer_shapes(onnx.load(file))
        weights = {one.name: list(one.dims) for one in model.graph.initializer}
        shapes = {
            one.name: [dim.dim_value for dim in one.type.tensor_type.shape.dim]
            for one in [*model.graph.value_info, *model.graph.output]
        }
        total = 0
        for node in model.graph.node:
            if node.op_type == "Conv":
                total += int(np.prod(weights[node.input[1]])) * int(np.prod(shapes[node.output[0]][2:]))
            elif node.op_type in ("Gemm", "MatMul"):
                total += int(np.prod(weights[node.input[1]]))
        return total

    assert demo.record.compaction is not None
    assert macs(demo.folder / "references" / "dense.onnx") == demo.record.compaction.macs_before
    assert macs(demo.folder / "references" / "compact.onnx") == demo.record.compaction.macs_after


def test_a_second_build_runs_nothing(kiosk: Kiosk, demo: Build, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["build", "-C", str(kiosk.folder), *(part for target in DEMO for part in ("-t", target))]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert "every station came from the store" in captured.err
    assert "exit code 0" in captured.out
    assert (demo.folder / "report.html").is_file()


def test_a_changed_gate_runs_only_the_gate(kiosk: Kiosk, demo: Build) -> None:
    config = kiosk.variant("strict.yaml", {"gates": {"accuracy": {"min": 0.999}}})
    strict = build(kiosk.folder, ("this-host",), config=config)
    assert all(time.cached for time in strict.times)
    assert strict.exit_code == 1
    assert strict.record.attempts > demo.record.attempts


def test_careless_pruning_fails_and_names_the_group(kiosk: Kiosk, demo: Build) -> None:
    result = build(kiosk.folder, config="careless.yaml")
    assert result.exit_code == 1
    (bundle,) = result.bundles
    failed = [cell for cell in bundle.verdict.cells if cell.status == "fail" and cell.against == "dense"]
    worst = max(failed, key=lambda cell: abs(cell.value or 0))
    assert worst.group == {"skin_tone": "VI"}
    assert "skin tone VI" in bundle.verdict.sentence


def test_too_few_rows_are_inconclusive_and_say_how_many_are_missing(kiosk: Kiosk, demo: Build) -> None:
    result = build(kiosk.folder, config="too-few.yaml")
    assert result.exit_code == 4
    (bundle,) = result.bundles
    undecided = [cell for cell in bundle.verdict.cells if cell.status == "inconclusive"]
    assert undecided
    assert any(cell.rows_needed and cell.n and cell.rows_needed > cell.n for cell in undecided)
    assert not [cell for cell in bundle.verdict.cells if cell.status == "fail"]


def test_jetson_without_a_jetson_is_inconclusive(kiosk: Kiosk, demo: Build, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "-C", str(kiosk.folder), "--target", "jetson"]) == 4
    printed = capsys.readouterr().out
    assert "simulated" in printed
    assert "exit code 4" in printed
    folder = kiosk.folder / "build" / "latest" / "jetson-orin-nano"
    evidence = json.loads((folder / "evidence.json").read_text())
    assert evidence["level"] == "simulated"
    assert evidence["latency"] is None
    cells = json.loads((folder / "verdict.json").read_text())["cells"]
    fairness = [cell for cell in cells if cell["unit"] == "rate"]
    assert {cell["status"] for cell in fairness} == {"inconclusive"}
    assert {cell["forecast"] for cell in fairness} <= {"pass", "fail", "inconclusive"}
    ops = {node.op_type for node in onnx.load(folder / "artifact" / "model.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= ops


def test_a_fake_jetson_passes_and_is_marked(kiosk: Kiosk, demo: Build) -> None:
    target = load_target("jetson")
    result = build(kiosk.folder, ("jetson",), devices={target.id: FakeDevice.for_target(target, latency_ms=2.0)})
    assert result.exit_code == 0
    (bundle,) = result.bundles
    assert bundle.manifest.fake_device
    assert bundle.evidence.fake_device
    assert bundle.evidence.level == "device"
    assert {"latency_p90_ms.max", "peak_memory_mb.max", "size_mb.max"} <= {cell.rule for cell in bundle.verdict.cells}


@pytest.mark.parametrize("tone", ["III", "VI"])
def test_a_degraded_group_fails_and_is_named(kiosk: Kiosk, demo: Build, tone: str) -> None:
    target = load_target("jetson")
    rows = Line(kiosk.folder).splits()["evaluate"].rows.attributes["skin_tone"] == tone
    device = FakeDevice.for_target(target, latency_ms=2.0, degrade=Degradation(seed=1, rows=rows, flip_rate=0.15))
    code = main(["build", "-q", "-C", str(kiosk.folder), "-t", "jetson"], with_devices={target.id: device})
    assert code == 1
    verdict = json.loads((kiosk.folder / "build" / "latest" / target.id / "verdict.json").read_text())
    blamed = {cell["group"].get("skin_tone") for cell in verdict["cells"] if cell["status"] == "fail"}
    assert tone in blamed
    assert blamed <= {tone, None, "*"}
    assert f"skin tone {tone}" in verdict["sentence"]


@pytest.mark.parametrize(
    ("slow", "rule"), [({"latency_ms": 20.0}, "latency_p90_ms.max"), ({"peak_memory_mb": 900.0}, "peak_memory_mb.max")]
)
def test_a_slow_or_large_device_fails_on_that(kiosk: Kiosk, demo: Build, slow: dict[str, float], rule: str) -> None:
    target = load_target("jetson")
    result = build(
        kiosk.folder, ("jetson",), devices={target.id: FakeDevice.for_target(target, **({"latency_ms": 2.0} | slow))}
    )
    assert result.exit_code == 1
    (bundle,) = result.bundles
    assert {cell.rule for cell in bundle.verdict.cells if cell.status == "fail"} == {rule}


def test_a_device_of_another_kind_is_only_a_proxy(kiosk: Kiosk, demo: Build) -> None:
    target = load_target("jetson")
    other = FakeDevice.for_target(target)
    other.facts = other.facts.model_copy(update={"compute_capability": "7.2"})
    result = build(kiosk.folder, ("jetson",), devices={target.id: other})
    assert result.exit_code == 4
    assert result.bundles[0].evidence.level == "proxy"


class Crashing(HostDevice):
    """A host whose runtime dies on one artifact."""

    is_host = True

    def key(self) -> dict[str, str]:
        return {"crashing": "yes"}

    def run(self, job: Job) -> Result:
        raise BackendError("ort died with signal 11; its last words: Segmentation fault")


def test_one_crash_leaves_the_other_targets_alone(kiosk: Kiosk, demo: Build) -> None:
    result = build(kiosk.folder, ("this-host", "this-host-int8"), devices={"this-host-int8": Crashing()})
    assert statuses(result) == {"this-host": "pass", "this-host-int8": "inconclusive"}
    assert result.exit_code == 4
    broken = result.bundles[1]
    assert "signal 11" in (broken.evidence.failure or "")
    assert all("signal 11" in cell.reason for cell in broken.verdict.cells if cell.unit == "rate")


def test_a_bundle_holds_no_rows(kiosk: Kiosk, demo: Build) -> None:
    for file in demo.folder.rglob("*"):
        if file.is_file() and file.suffix in (".json", ".html"):
            text = file.read_text()
            assert not re.search(r"evaluate-\d{6}", text), file
            assert "openmoji/" not in text, file


def test_nothing_names_a_path_of_this_machine(demo: Build) -> None:
    for file in demo.folder.rglob("*"):
        if file.is_file():
            assert str(demo.folder.parent).encode() not in file.read_bytes(), file


def test_the_same_seed_gives_the_same_bytes(kiosk: Kiosk, demo: Build, tmp_path: Path) -> None:
    """Prune, compact, recover, export and quantise twice, in two stores."""
    small = {
        "data": {
            "import": "kiosk.data:splits",
            "arguments": {"train": 600, "prune": 100, "calibrate": 100, "tune": 200, "evaluate": 200},
            "files": ["data/deal.json"],
        },
        "prune": {
            "method": "magnitude",
            "keep": {"macs": 0.3},
            "recover": {"epochs": 1, "augment": "kiosk.data:augment"},
        },
        "targets": ["this-host-int8"],
    }
    config = kiosk.variant("small.yaml", small)
    digests = []
    for _ in range(2):
        result = build(kiosk.folder, config=config, fresh=True)
        files = [*result.folder.glob("references/*.onnx"), *result.folder.glob("*/artifact/*")]
        digests.append({file.name: file.read_bytes() for file in sorted(files)})
        tallies = {file.name: file.read_bytes() for file in result.folder.glob("*/tally-*.json")}
        digests[-1] |= tallies
    assert digests[0] == digests[1]
    assert len(digests[0]) >= 5
