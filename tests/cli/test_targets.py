"""``doctor`` and ``targets`` know the ids that a project gives its targets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fairdeploy.cli import main

KIOSK = Path(__file__).resolve().parents[2] / "examples" / "kiosk"


@pytest.fixture
def door(tmp_path: Path) -> str:
    lines = (KIOSK / "fairdeploy.yaml").read_text().splitlines()
    lines[-1] = "targets: [this-host, {use: jetson, id: door-cam}]"
    (tmp_path / "fairdeploy.yaml").write_text("\n".join(lines))
    return str(tmp_path)


def test_doctor_knows_a_projects_own_ids(door: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "-C", door, "-t", "door-cam", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["targets"]) == ["door-cam"]
    assert main(["doctor", "-C", door, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["targets"].keys() >= {"this-host", "door-cam", "jetson-orin-nano"}


def test_targets_show_knows_them_and_cuts_nothing(door: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets", "show", "door-cam", "-C", door]) == 0
    shown = capsys.readouterr().out
    assert "jetson-orin-nano" in shown
    assert "\u2026" not in shown


def test_elsewhere_they_are_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "-C", str(tmp_path), "-t", "door-cam"]) == 2
    assert "unknown target 'door-cam'" in capsys.readouterr().err
