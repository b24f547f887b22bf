"""Accidents around a tiny project: Ctrl-C in each station, a full disk, two builds at once, kills, a damaged store."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fairdeploy.cli import main
from fairdeploy.entries import held
from fairdeploy.store import Kept, Store
from tests.benchmarks.test_benchmarks import run

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from tiny_project import write_project  # noqa: E402

STATIONS = ("data", "export", "prune", "compact", "recover", "predictions", "latency", "compile")
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_project(tmp_path_factory.mktemp("accidents") / "tiny")
    assert main(["build", "-C", str(folder), "-q"]) == 0
    return folder


@pytest.fixture
def project(built: Path, tmp_path: Path) -> Path:
    return shutil.copytree(built, tmp_path / "tiny", symlinks=True)


def failing(station: str, error: BaseException) -> Callable[..., Kept]:
    """Return what makes a station's results, and fails half-way at one station."""
    real = Store._produce

    def produce(self: Store, name: str, place: Path, label: str, make: Any, parts: dict[str, Any]) -> Kept:
        def half(out: Path) -> None:
            (out / "half.txt").write_text("half")
            raise error

        return real(self, name, place, label, half if name == station else make, parts)

    return produce


@pytest.mark.parametrize("station", STATIONS)
def test_ctrl_c_in_each_station_ends_with_130_and_leaves_nothing(
    project: Path, station: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    store = project / ".fairdeploy" / "store"
    shutil.rmtree(store / station)
    before = {one.name for one in held(store)}
    monkeypatch.setattr(Store, "_produce", failing(station, KeyboardInterrupt()))
    assert main(["build", "-C", str(project), "-q"]) == 130
    assert "finished stations are kept" in capsys.readouterr().err
    assert {one.name for one in held(store)} == before
    assert not list(project.rglob("half.txt"))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_full_or_read_only_disk_is_said_and_the_next_build_goes_on(
    project: Path, code: int, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    shutil.rmtree(project / ".fairdeploy" / "store" / "compile")
    error = OSError(code, os.strerror(code), "store")
    with monkeypatch.context() as broken:
        broken.setattr(Store, "_produce", failing("compile", error))
        assert main(["build", "-C", str(project), "-q"]) == 3
    assert f"{os.strerror(code)}; nothing was judged" in capsys.readouterr().err
    assert main(["build", "-C", str(project), "-q"]) == 0
    assert not [one.name for one in held(project / ".fairdeploy" / "store") if one.damage()]


def test_two_builds_at_once_both_end_well(project: Path) -> None:
    for station in ("predictions", "latency", "compile"):
        shutil.rmtree(project / ".fairdeploy" / "store" / station)
    shutil.rmtree(project / "build")
    children = []
    for _ in range(2):
        if not (child := os.fork()):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os._exit(main(["build", "-C", str(project), "-q"]))
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    builds = [one for one in (project / "build").iterdir() if not one.name.startswith(".") and not one.is_symlink()]
    assert len(builds) == 1
    assert (project / "build" / "latest").resolve() == builds[0]
    assert not list(project.rglob(".sealing-*"))


def test_half_sealed_bundles_are_swept(project: Path) -> None:
    (project / "build" / ".sealing-dead" / "brief").mkdir(parents=True)
    assert main(["build", "-C", str(project), "-q"]) == 0
    assert not list(project.rglob(".sealing-*"))


def test_cache_says_what_it_holds_what_is_damaged_and_what_may_go(project: Path, capsys: Capture) -> None:
    def said(code: int, *arguments: str) -> Any:
        assert main(["cache", *arguments, "-C", str(project), "--json"]) == code
        return json.loads(capsys.readouterr().out)

    listed = said(0, "ls")
    assert {one["station"] for one in listed["stations"]} == set(STATIONS)
    assert sum(one["results"] for one in listed["stations"]) == len(listed["results"])
    assert said(0, "verify")["damaged"] == {}
    assert said(0, "prune", "--unused")["removed"] == []
    (weights,) = project.glob(".fairdeploy/store/recover/*/weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    name = f"recover/{weights.parent.name}"
    assert said(5, "verify")["damaged"] == {name: ["changed weights.safetensors"]}
    assert main(["build", "-C", str(project), "-q"]) == 0
    capsys.readouterr()
    assert said(0, "verify")["damaged"] == {}
    assert said(0, "prune", "--older-than-days", "1")["removed"] == []
    shutil.rmtree(project / "build")
    would = said(0, "prune", "--unused", "--dry-run")
    assert would["dry_run"]
    assert said(0, "prune", "--unused")["removed"] == would["removed"]
    assert [one["name"] for one in would["removed"]] == [one["name"] for one in listed["results"]]
    assert said(0, "ls")["results"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["prune"], "say what to remove"), (["prune", "--older-than-days", "nan"], "give a number from 0")],
)
def test_cache_refuses_in_words(built: Path, arguments: list[str], message: str, capsys: Capture) -> None:
    assert main(["cache", *arguments, "-C", str(built)]) == 2
    assert message in capsys.readouterr().err


def test_without_a_store_cache_says_so(tmp_path: Path, capsys: Capture) -> None:
    assert main(["cache", "ls", "-C", str(tmp_path)]) == 2
    assert "no store here" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_plan_names_the_changed_part_and_writes_nothing(project: Path, capsys: Capture) -> None:
    target = project / "targets" / "brief.yaml"
    target.write_text(target.read_text().replace("runs: 20", "runs: 30"))
    before = sorted(project.rglob("*"))
    assert main(["plan", "-C", str(project)]) == 0
    assert "would run: latency[brief] (changed: measure" in capsys.readouterr().out
    assert [one for one in sorted(project.rglob("*")) if "__pycache__" not in one.parts] == [
        one for one in before if "__pycache__" not in one.parts
    ]


def test_killed_builds_resume_to_the_same_bytes(tmp_path: Path) -> None:
    found = run("kills.py", "--kills=5", results=tmp_path)
    assert found["kills"] == 5
    assert not any(row["corrupt results after it"] for row in found["rows"])
    assert (found["unfinished"], found["leftovers"], found["runtimes_left_at_work"]) == (0, 0, 0)
    assert found["unequal"] == []
    assert found["files_compared"] > 40


def test_mutants_end_in_named_errors_or_predictions(tmp_path: Path) -> None:
    found = run("mutants.py", "--mutants=20", "--seed=1", results=tmp_path)
    assert found["problems"] == []
    assert [sum(count for how, count in row.items() if how != "backend") for row in found["rows"]] == [20, 20]
    assert all(row["refused"] for row in found["rows"])
