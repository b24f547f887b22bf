from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from fairdeploy.errors import ConfigError
from fairdeploy.project import load_project, resolve_targets
from fairdeploy.target import catalogue, load_target, resolve_target

VALID: dict[str, Any] = {
    "version": 1,
    "name": "kiosk",
    "task": "binary-classification",
    "model": {
        "import": "kiosk.model:build",
        "weights": "weights/dense.safetensors",
        "inputs": {"image": {"shape": ["batch", 3, 32, 32]}},
        "decision": {"threshold": 0.5},
    },
    "data": {"import": "kiosk.data:splits"},
    "groups": {"attributes": {"skin_tone": ["light", "dark"]}},
    "prune": {"method": "magnitude", "keep": {"macs": 0.5}},
    "gates": {"accuracy": {"min": 0.5}},
    "targets": ["this-host"],
}


def write(folder: Path, changes: dict[str, Any]) -> Path:
    config = VALID | changes
    with (folder / "fairdeploy.yaml").open("w") as stream:
        YAML().dump({key: value for key, value in config.items() if value is not None}, stream)
    return folder


def test_channels_may_be_rounded_by_latency(tmp_path: Path) -> None:
    prune = {"method": "magnitude", "keep": {"macs": 0.5}, "round_to": "latency"}
    assert load_project(write(tmp_path, {"prune": prune}))[0].prune.round_to == "latency"


def test_a_valid_project(tmp_path: Path) -> None:
    project, _ = load_project(write(tmp_path, {}))
    assert project.prune.keep is not None
    assert project.prune.keep.macs == (0.5,)
    assert project.spec.classes == ("negative", "positive")
    assert project.spec.digest == load_project(tmp_path)[0].spec.digest


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"version": 2}, "version"),
        ({"task": "binary"}, "known: binary-classification"),
        ({"modle": 1}, "did you mean 'model'"),
        ({"model": None}, "'model' is missing"),
        ({"groups": {"attributes": {}}}, "groups.attributes"),
        ({"groups": {"attributes": {"tone": ["a", "a"]}}}, "two different levels"),
        ({"groups": {"attributes": {"tone": ["a", "unknown"]}}}, "added by itself"),
        ({"prune": {"method": "magnitude"}}, "give 'keep'"),
        ({"prune": {"method": "none", "keep": {"macs": 0.5}}}, "leave it out"),
        ({"prune": {"method": "magnitude", "keep": {"macs": 0}}}, "keep.macs"),
        ({"prune": {"method": "magnitude", "keep": {"macs": 1.5}}}, "keep.macs"),
        ({"prune": {"method": "magnitude", "keep": {"macs": []}}}, "keep.macs"),
        ({"prune": {"method": "magnitude", "keep": {"macs": 0.5}, "round_to": 0}}, "round_to"),
        ({"prune": {"method": "magnitude", "keep": {"macs": 0.5}, "round_to": "fast"}}, "round_to"),
        ({"data": {"import": "kiosk"}}, "package.module:name"),
        ({"gates": {}}, "gates"),
        ({"targets": []}, "targets"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_projects_are_refused_in_words(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        load_project(write(tmp_path, changes))
    assert caught.value.file == tmp_path / "fairdeploy.yaml"


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"inputs": {"image": {"shape": [3, 32, 32]}}}, "first dimension"),
        ({"preprocess": {"mean": [1, 2, 3], "std": [1, 2]}}, "one per channel"),
        ({"preprocess": {"mean": [1], "std": [1]}}, "3 channels"),
        ({"preprocess": {"mean": [1, 1, 1], "std": [0, 1, 1]}}, "greater than 0"),
        ({"decision": {"threshold": 1.5}}, "less than 1"),
        ({"decision": {"threshold": float("nan")}}, "threshold"),
        ({"classes": ["a", "b", "c"]}, "binary task has two"),
    ],
)
def test_bad_models_are_refused_in_words(tmp_path: Path, model: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_project(write(tmp_path, {"model": VALID["model"] | model}))


def test_targets_by_id_alias_and_use(tmp_path: Path) -> None:
    uses = ["this-host", {"use": "jetson", "id": "door-cam", "gates": {"latency_p90_ms": {"max": 9}}}]
    project, document = load_project(write(tmp_path, {"targets": uses}))
    listed = resolve_targets(project, document, tmp_path)
    assert [one.target.id for one in listed] == ["this-host", "door-cam"]
    assert len(listed[1].gate_sources) == 3
    (named,) = resolve_targets(project, document, tmp_path, ("jetson",))
    assert named.target.id == "jetson-orin-nano"


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        (["jetsno"], "did you mean 'jetson'"),
        (["this-host", "this-host"], "share the id"),
        ([{"use": "this-host", "idd": "x"}], "did you mean 'id'"),
        ([3], "targets.0"),
    ],
)
def test_bad_targets_point_at_their_line(tmp_path: Path, targets: list[Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        resolve_targets(*load_project(write(tmp_path, {"targets": targets})), tmp_path)
    assert caught.value.line is not None


@pytest.mark.parametrize("name", sorted(catalogue()))
def test_shipped_targets_are_valid(name: str) -> None:
    assert load_target(name).id == name


def test_a_project_may_extend_and_replace_targets(tmp_path: Path) -> None:
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "mine.yaml").write_text("extends: this-host\nid: mine\nmeasure: {runs: 50}\n")
    target = load_target("mine", tmp_path)
    assert (target.runtime.backend, target.measure.runs) == ("ort", 50)
    origins = resolve_target("mine", tmp_path).origins
    assert origins["measure", "runs"].file.name == "mine.yaml"
    assert origins["runtime", "backend"].file.name == "this-host.yaml"


@pytest.mark.parametrize(
    ("text", "says"),
    [("extends: mine\nid: mine\n", "extends itself"), ("extends: nope\nid: mine\n", "extends unknown 'nope'")],
)
def test_extending_in_circles_or_nothing(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=says):
        load_target("mine", tmp_path)
