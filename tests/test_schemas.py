"""The JSON Schema of what people write: everything shipped follows it, and mistakes that the tool refuses do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from fairdeploy import yamlfile
from fairdeploy.cli import main

ROOT = Path(__file__).parent.parent
PROJECTS = sorted(file for file in (ROOT / "examples").glob("*/*.yaml") if "\nmodel:" in file.read_text())
TARGETS = sorted((ROOT / "targets").glob("*.yaml"))


@pytest.fixture
def schema(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> jsonschema.Draft202012Validator:
    assert main(["schema", request.param]) == 0
    found = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found)


@pytest.mark.parametrize(
    ("schema", "file"),
    [*(("project", file) for file in PROJECTS), *(("target", file) for file in TARGETS)],
    indirect=["schema"],
    ids=lambda one: one.stem if isinstance(one, Path) else one,
)
def test_what_is_shipped_follows_its_schema(schema: jsonschema.Draft202012Validator, file: Path) -> None:
    assert not [error.message for error in schema.iter_errors(yamlfile.read(file).data)]


def test_there_are_files_of_both_kinds() -> None:
    assert len(PROJECTS) >= 4
    assert len(TARGETS) >= 5


@pytest.mark.parametrize(
    ("schema", "name", "key", "value"),
    [
        ("project", "fairdeploy", "prunning", {}),
        ("project", "fairdeploy", "prune", {"method": "l1", "keep": {"macs": "half"}}),
        ("project", "fairdeploy", "prune", {"method": "l1", "keep": {"macs": [0.5, 2]}}),
        ("project", "fairdeploy", "targets", [{"use": "this-host", "gate": {}}]),
        ("project", "fairdeploy", "targets", []),
        ("target", "this-host", "hardware", {"architecture": "x86_64"}),
        ("target", "this-host", "runtime", {"version": "1"}),
        ("target", "this-host-int8", "build", {"precision": "int7"}),
    ],
    indirect=["schema"],
)
def test_what_is_wrong_does_not(schema: jsonschema.Draft202012Validator, name: str, key: str, value: Any) -> None:
    (file,) = [one for one in (ROOT / "examples/adult/fairdeploy.yaml", *TARGETS) if one.stem == name]
    assert list(schema.iter_errors(yamlfile.read(file).data | {key: value}))


def test_a_variant_may_change_a_part_of_the_runtime(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "target"]) == 0
    schema = jsonschema.Draft202012Validator(json.loads(capsys.readouterr().out))
    variant = {"id": "older", "extends": "x86-openvino", "runtime": {"version": "2025.4"}}
    assert schema.is_valid(variant)
    assert not schema.is_valid({key: value for key, value in variant.items() if key != "extends"})


def test_an_unknown_schema_is_answered_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "projekt"]) == 2
    assert "did you mean 'project'? known: build, evidence" in capsys.readouterr().err
