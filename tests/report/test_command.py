"""`fairdeploy report` and `fairdeploy schema`, as they are typed."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from fairdeploy.bundle import TargetBundle, load_build
from fairdeploy.cli import main
from fairdeploy.cli.common import Common
from fairdeploy.report import FORMATS, load_source
from fairdeploy.report.steps import next_steps


def test_a_page_is_written_into_the_build_and_beside_a_bundle_which_is_sealed(
    kiosk_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(kiosk_folder)]) == 0
    assert main(["report", str(kiosk_folder / "this-host")]) == 0
    printed = capsys.readouterr().out.split()
    assert printed == [str(kiosk_folder / "report.html"), str(kiosk_folder / "this-host.html")]
    assert all(Path(name).read_text().startswith("<!DOCTYPE html>") for name in printed)
    load_build(kiosk_folder)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "html"])
def test_the_other_formats_go_to_stdout_or_to_a_file(
    kiosk_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    wanted = FORMATS[name](load_source(kiosk_folder))
    assert main(["report", str(kiosk_folder), "--format", name]) == 0
    assert capsys.readouterr().out == wanted
    file = tmp_path / "new" / "report.txt"
    assert main(["report", str(kiosk_folder), "--format", name, "--out", str(file), "--json"]) == 0
    assert file.read_text() == wanted
    assert json.loads(capsys.readouterr().out) == {"schema_version": 1, "command": "report", "file": str(file)}


@pytest.mark.parametrize(
    ("here", "given", "uri"),
    [
        (".", ["-C", "examples/my kiosk"], "examples/my%20kiosk/fairdeploy.yaml"),
        (".", ["-C", "{root}/examples/my kiosk"], "examples/my%20kiosk/fairdeploy.yaml"),
        ("examples/my kiosk", [], "fairdeploy.yaml"),
        ("elsewhere", ["-C", "../examples/my kiosk"], None),
    ],
)
def test_sarif_names_files_from_the_folder_that_it_runs_in(
    kiosk_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    here: str,
    given: list[str],
    uri: str | None,
) -> None:
    """As GitHub wants it: from the checkout's root; outside of it only the whole path is right."""
    root = tmp_path / "checkout"
    project = root / "examples" / "my kiosk"
    project.mkdir(parents=True)
    (root / "elsewhere").mkdir()
    monkeypatch.chdir(root / here)
    given = [word.format(root=root) for word in given]
    assert main(["report", str(kiosk_folder), "--format", "sarif", *given]) == 0
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    places = [one["locations"][0]["physicalLocation"]["artifactLocation"] for one in run["results"]]
    wanted = {"uri": uri, "uriBaseId": "%SRCROOT%"} if uri else {"uri": (project / "fairdeploy.yaml").as_uri()}
    assert places == [wanted] * len(run["results"])
    assert "uri" not in run["originalUriBaseIds"]["%SRCROOT%"]


def test_github_appends_to_the_step_summary(
    kiosk_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(kiosk_folder), "--format", "github", "--out", str(tmp_path / "x")]) == 2
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    assert main(["report", str(kiosk_folder), "--format", "github"]) == 2
    assert "--format markdown" in capsys.readouterr().err
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    assert main(["report", str(kiosk_folder), "--format", "github"]) == 0
    assert (tmp_path / "summary").read_text() == FORMATS["markdown"](load_source(kiosk_folder))
    assert not (tmp_path / "x").exists()


def test_nothing_is_written_into_a_sealed_bundle(kiosk_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inside = kiosk_folder / "this-host" / "more" / "report.html"
    assert main(["report", str(kiosk_folder), "--out", str(inside)]) == 2
    assert "sealed" in capsys.readouterr().err
    assert not inside.parent.exists()
    load_build(kiosk_folder)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["report", "nowhere"], 2, "neither a build nor a bundle"),
        (["report", "{build}", "--format", "pdf"], 2, "pdf"),
        (["report", "{build}", "--out", "{build}/build.json/x"], 2, "cannot be written"),
        (["schema", "verdikt"], 2, "known: build, evidence"),
        (["schema"], 2, "name"),
    ],
)
def test_wrong_use_is_said_and_writes_nothing(
    kiosk_folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, says: str
) -> None:
    before = sorted(kiosk_folder.rglob("*"))
    assert main([one.format(build=kiosk_folder) for one in arguments]) == code
    assert says in capsys.readouterr().err.replace("\n", " ")
    assert sorted(kiosk_folder.rglob("*")) == before


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_changed_bundle_is_reported_in_no_format(kiosk_folder: Path, name: str) -> None:
    file = kiosk_folder / "this-host-int8" / "verdict.json"
    file.write_text(file.read_text().replace('"fail"', '"pass"'))
    assert main(["report", str(kiosk_folder), "--format", name]) == 5
    assert not (kiosk_folder / "report.html").exists()


def test_schema_prints_a_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "verdict"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert {"target", "status", "cells", "gates_digest"} <= set(schema["properties"])
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize(
    ("common", "flags"),
    [
        (Common(), ""),
        (Common(folder=Path("a b")), "-C 'a b'"),
        (Common(config="other.yaml"), "-c other.yaml"),
        (Common(folder=Path("kiosk"), config="other.yaml"), "-C kiosk -c other.yaml"),
    ],
)
def test_next_steps_name_the_project(kiosk_folder: Path, common: Common, flags: str) -> None:
    assert common.flags == flags
    for bundle in load_source(kiosk_folder).bundles:
        for step in next_steps(bundle, flags=common.flags):
            for command in step.commands:
                assert command.startswith("fairdeploy ")
                assert flags in command
                assert "  " not in command


def test_what_fails_for_people_is_explained_by_its_own_words_and_what_is_slow_is_not(
    make_bundle: Callable[..., TargetBundle],
) -> None:
    first, *_ = next_steps(make_bundle(end="harsh"))
    command = shlex.split(first.commands[0])
    assert command[:4] == ["fairdeploy", "explain", "-t", "this-host"]
    assert command[4:] == ["true_positive_rate.max_drop.compact", "skin_tone=VI"]
    slow = [step for step in next_steps(make_bundle(p50_ms=40.0)) if "slower" in step.text]
    assert [step.commands for step in slow] == [("fairdeploy compare",)]
    assert not any("explain" in command for step in next_steps(make_bundle(p50_ms=40.0)) for command in step.commands)
