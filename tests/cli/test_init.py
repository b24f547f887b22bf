"""``init``: a project that validates and builds, or nothing at all."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from fairdeploy.cli import app, main
from fairdeploy.project import load_project
from fairdeploy.scaffold import CI_FILES, SCHEMA_NAME, examples, start
from fairdeploy.yamlfile import read

CALL = re.compile(r"fairdeploy (?!\[)[a-z][^;|\n]*?(?= \|\||$)", re.MULTILINE)


def tree(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def scripts(ci: str, folder: Path) -> list[str]:
    """Every shell script of a CI file."""
    document = YAML(typ="safe").load(folder / CI_FILES[ci])
    if ci == "github":
        return [step["run"] for step in document["jobs"]["gate"]["steps"] if "run" in step]
    return [*document["fairdeploy"]["script"], *document["fairdeploy"]["after_script"]]


def script_with(ci: str, folder: Path, word: str) -> str:
    (found,) = [script for script in scripts(ci, folder) if word in script]
    return found


@pytest.mark.parametrize("example", examples())
def test_every_example_becomes_a_project_that_validates(
    example: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "my-project"
    assert main(["init", str(folder), "--example", example]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-2:] == [f"  fairdeploy doctor -C {folder}", f"  fairdeploy build -C {folder}"]
    assert main(["validate", "-C", str(folder)]) == 0
    original = (examples()[example] / "fairdeploy.yaml").read_text()
    head, text = (folder / "fairdeploy.yaml").read_text().split("\n", 1)
    assert text == original.replace(f"name: {example}\n", "name: my-project\n")
    assert text != original
    schema = folder / head.removeprefix("# yaml-language-server: $schema=")
    assert schema.is_file()
    document = read(folder / "fairdeploy.yaml").data
    assert jsonschema.Draft202012Validator(json.loads(schema.read_text())).is_valid(document)
    assert not jsonschema.Draft202012Validator(json.loads(schema.read_text())).is_valid(document | {"gate": {}})


def test_both_first_examples_are_there() -> None:
    assert {"adult", "kiosk"} <= set(examples())


def test_a_project_builds_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "income"
    assert main(["init", str(folder), "--example", "adult"]) == 0
    assert main(["build", "-C", str(folder), "-t", "this-host", "--quiet", "--json"]) == 0
    document = json.loads(capsys.readouterr().out.split("\n", 4)[-1])
    assert [verdict["status"] for verdict in document["verdicts"]] == ["pass"]
    groups = {(name, level) for cell in document["verdicts"][0]["cells"] for name, level in cell["group"].items()}
    assert {("sex", "Female"), ("race", "Other")} <= groups
    written = json.loads((folder / SCHEMA_NAME).read_text())
    assert main(["schema", "project"]) == 0
    assert json.loads(capsys.readouterr().out) == written


def test_targets_are_replaced_and_comments_stay(tmp_path: Path) -> None:
    start(tmp_path / "door", "kiosk", targets=("jetson", "this-host", "jetson-orin-nano"))
    project, _ = load_project(tmp_path / "door")
    assert [one.use for one in project.targets] == ["jetson-orin-nano", "this-host"]
    text = (tmp_path / "door" / "fairdeploy.yaml").read_text()
    assert text.count("#") == (examples()["kiosk"] / "fairdeploy.yaml").read_text().count("#") + 1


@pytest.mark.parametrize("listed", ["targets:\n  - this-host\n- jetson\n", "targets: [this-host,\n  jetson]\n"])
@pytest.mark.parametrize("after", ["", "\n# more\nseed: 3\n"])
def test_targets_are_replaced_however_they_are_written(
    listed: str, after: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(examples()["adult"], tmp_path / "shipped" / "adult")
    config = tmp_path / "shipped" / "adult" / "fairdeploy.yaml"
    config.write_text(config.read_text().split("targets:")[0] + listed + after)
    monkeypatch.setattr("fairdeploy.scaffold.shipped", lambda folder: tmp_path / "shipped")
    start(tmp_path / "door", "adult", targets=("this-host-int8",))
    text = (tmp_path / "door" / "fairdeploy.yaml").read_text()
    assert text.split("targets:")[1] == f" [this-host-int8]\n{after}"


def test_the_current_folder_and_a_fresh_repository_are_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "door"
    (folder / ".git").mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert main(["init", "--example", "adult", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["next"] == ["fairdeploy doctor", "fairdeploy build"]
    assert sorted(tree(folder)) == sorted(document["files"])
    assert load_project(Path())[0].name == "door"


def test_what_a_build_left_in_an_example_is_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fairdeploy.yaml", "build/1/report.html", ".fairdeploy/store/x", "a/__pycache__/b.pyc", "a/b.py"):
        place = tmp_path / "shipped" / "adult" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes((examples()["adult"] / "fairdeploy.yaml").read_bytes())
    monkeypatch.setattr("fairdeploy.scaffold.shipped", lambda folder: tmp_path / "shipped")
    written = start(tmp_path / "door", "adult")
    assert [file.as_posix() for file in written] == [".gitignore", "a/b.py", SCHEMA_NAME, "fairdeploy.yaml"]
    assert sorted(tree(tmp_path / "door")) == sorted(file.as_posix() for file in written)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["door"], "--example adult or --example"),
        (["door", "--example", "kiosks"], "no example 'kiosks'; did you mean 'kiosk'? known: adult, "),
        (["door", "--example", "../adult"], "no example '../adult'"),
        (["door", "--example", "adult", "-t", "jetsn"], "unknown target 'jetsn'; did you mean 'jetson'?"),
        (
            ["door", "--example", "adult", "--ci", "gitlb"],
            "no CI 'gitlb'; did you mean 'gitlab'? known: github, gitlab",
        ),
        (["My Door", "--example", "adult"], "'My Door' is none: small letters, digits and hyphens, as in 'my-door'"),
        (["-door", "--example", "adult"], "Unknown option"),
        (["./-door", "--example", "adult"], "as in 'door'"),
        (["Ü", "--example", "adult"], "as in 'my-project'"),
        (["full", "--example", "adult"], "full: is not empty, and nothing is overwritten: a, b, c, d, e and 1 more;"),
        (["full/a", "--example", "adult"], "full/a: is a file"),
        (["full/a/door", "--example", "adult"], "full/a: is a file, and a project needs a folder"),
        (["x" * 300, "--example", "adult"], "cannot be written: File name too long"),
        (["dangling", "--example", "adult"], "/proc/nowhere/at-all: cannot be written"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "full").mkdir()
    for name in "abcdef":
        (tmp_path / "full" / name).write_text(name)
    (tmp_path / "dangling").symlink_to("/proc/nowhere/at-all")
    before = tree(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["init", *arguments]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert said in message
    assert "Traceback" not in message
    assert tree(tmp_path) == before
    assert sorted(os.listdir()) == ["dangling", "full"]


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: Any, **named: Any) -> str:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    assert main(["init", str(tmp_path / "door"), "--example", "adult"]) == 2
    assert f"{tmp_path / 'door'}: cannot be written: Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize("inside", [False, True], ids=["new folder", "empty folder"])
@pytest.mark.parametrize("place", ["shutil.copyfile", "os.rename"])
def test_a_disk_that_fills_up_leaves_nothing(
    place: str, inside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if inside:
        (tmp_path / "door").mkdir()
    module, name = place.split(".")
    real = getattr({"shutil": shutil, "os": os}[module], name)
    calls = []

    def full(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == (3 if inside or module == "shutil" else 1):
            raise OSError(28, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(place, full)
    assert main(["init", str(tmp_path / "door"), "--example", "adult"]) == 2
    assert "cannot be written: No space left on device" in capsys.readouterr().err
    assert calls
    assert [one.name for one in tmp_path.rglob("*")] == (["door"] if inside else [])


@pytest.mark.parametrize("ci", CI_FILES)
def test_what_ci_runs_is_what_the_command_line_knows(ci: str, tmp_path: Path) -> None:
    """Each call is parsed by the real command line, so that neither can change without the other."""
    start(tmp_path / "door", "adult", targets=("this-host", "x86-openvino-int8"), ci=ci)
    calls = [call for script in scripts(ci, tmp_path / "door") for call in CALL.findall(script)]
    for call in calls:
        app.parse_args(shlex.split(call)[1:], exit_on_error=False, print_error=False)
    words = [call.split()[1:4] for call in calls]
    assert [one[0] for one in words[:2]] == ["validate", "build"]
    assert {"html", "junit"} <= {one[2] for one in words if one[0] == "report"}
    assert any("pip install" in script for script in scripts(ci, tmp_path / "door"))
    assert '"fairdeploy[openvino,torch]==' in (tmp_path / "door" / CI_FILES[ci]).read_text()


@pytest.mark.parametrize(
    ("ci", "choice", "ended", "code"),
    [
        *(("github", "fail", ended, ended) for ended in (0, 1, 2, 4)),
        *(("github", "warn", ended, code) for ended, code in ((0, 0), (1, 1), (3, 3), (4, 0))),
        *(("gitlab", "fail", ended, code) for ended, code in ((0, 0), (1, 1), (2, 2), (4, 1))),
        *(("gitlab", "warn", ended, ended) for ended in (0, 1, 3, 4)),  # allow_failure lets 4 through, with a warning
    ],
)
def test_what_the_choice_about_exit_code_4_does(ci: str, choice: str, ended: int, code: int, tmp_path: Path) -> None:
    start(tmp_path / "door", "adult", ci=ci)
    command = tmp_path / "bin" / "fairdeploy"
    command.parent.mkdir()
    command.write_text(f"#!/bin/sh\nexit {ended}\n")
    command.chmod(0o755)
    environment = {"PATH": f"{command.parent}:{os.environ['PATH']}", "NOT_ENOUGH_EVIDENCE": choice}
    script = script_with(ci, tmp_path / "door", "fairdeploy build")
    done = subprocess.run(["bash", "-e", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert ("::warning::" in done.stdout) == (ci == "github" and choice == "warn" and ended == 4)


def test_the_ci_files_hold_together(tmp_path: Path) -> None:
    start(tmp_path / "one", "adult", ci="github")
    github = YAML(typ="safe").load(tmp_path / "one" / CI_FILES["github"])
    assert github["env"]["NOT_ENOUGH_EVIDENCE"] == "fail"
    steps = github["jobs"]["gate"]["steps"]
    assert all(("uses" in step) != ("run" in step) for step in steps)
    assert set(github["on"]) == {"push", "pull_request"}
    (upload,) = [step for step in steps if "upload-artifact" in step.get("uses", "")]
    (report,) = [step for step in steps if step.get("name") == "Report"]
    written = re.findall(r"--out (\S+)", report["run"])
    assert written == upload["with"]["path"].split() == ["report.html", "junit.xml"]
    assert upload["if"] == report["if"] == "${{ !cancelled() }}"
    start(tmp_path / "two", "adult", ci="gitlab")
    gitlab = YAML(typ="safe").load(tmp_path / "two" / CI_FILES["gitlab"])
    assert gitlab["variables"]["NOT_ENOUGH_EVIDENCE"] == "fail"
    job = gitlab["fairdeploy"]
    kept = [*job["artifacts"]["paths"], job["artifacts"]["reports"]["junit"]]
    assert re.findall(r"--out (\S+)", "\n".join(job["after_script"])) == kept
    assert (job["artifacts"]["when"], job["allow_failure"]) == ("always", {"exit_codes": [4]})
