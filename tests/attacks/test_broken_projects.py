"""300 broken projects: each ends in exit 2 and one message that names the place, and leaves the project as it was."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fairdeploy.cli import main
from fairdeploy.entries import held

from .broken import CONFIG, KINDS, WHOLE, Kind

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from tiny_project import write_project  # noqa: E402

CASES = 300
OURS = re.compile(r'fairdeploy/(?!testing)\w+(/\w+)?\.py"?[:,]|Traceback|unexpected \w+(Error|Exit)')


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_project(tmp_path_factory.mktemp("whole") / "tiny")
    (folder / CONFIG).write_text(WHOLE)
    return folder


@pytest.fixture(autouse=True)
def _python_as_before(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("tiny_code", None)


def content(folder: Path) -> dict[str, str]:
    """Return every file and folder with its digest, but for whole results of stations that ended well."""
    store = folder / ".fairdeploy" / "store"
    whole = [one.folder for one in held(store) if not one.damage()]
    return {
        str(one.relative_to(folder)): hashlib.sha256(one.read_bytes()).hexdigest() if one.is_file() else "folder"
        for one in sorted(folder.rglob("*"))
        if not (whole and _beside(one, store)) and not any(one.is_relative_to(result) for result in whole)
    }


def _beside(one: Path, store: Path) -> bool:
    """Whether it is one of the folders and empty locks that hold a store's results."""
    return store.is_relative_to(one) or (one.is_relative_to(store) and (one.is_dir() or one.stat().st_size == 0))


def broken(whole: Path, place: Path, number: int) -> tuple[Path, Kind, str]:
    folder, kind = place / f"project{number}", KINDS[number % len(KINDS)]
    shutil.copytree(whole, folder)
    return folder, kind, kind(folder, np.random.default_rng([7, number]))


def wrong(said: str, named: str, code: int, before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Return what is not as it must be."""
    problems = [] if code == 2 else [f"exit {code}"]
    problems += [] if said.startswith("error: ") and said.count("error: ") >= 1 else ["no message"]
    problems += [] if re.search(named, said) else [f"does not name {named}"]
    problems += ["shows our own code"] if OURS.search(said) else []
    problems += [f"too long: {len(said)}"] if len(said) > 4000 else []
    return problems + [f"wrote {name}" for name in sorted(set(before.items()) ^ set(after.items()))][:3]


def test_every_broken_project_ends_in_one_clear_message(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {}
    for number in range(CASES):
        folder, kind, named = broken(whole, tmp_path, number)
        before = content(folder)
        code = main(["build", "-C", str(folder), "-q"])
        said = capsys.readouterr().err
        if problems := wrong(said, named, code, before, content(folder)):
            found[f"{number} {kind.__name__}"] = f"{problems} {said[:600]}"
        shutil.rmtree(folder)
    assert not found, "\n".join(f"{name}: {text}" for name, text in found.items())


@pytest.mark.parametrize("number", range(0, 35, 7))
def test_so_it_ends_in_a_process_of_its_own(whole: Path, tmp_path: Path, number: int) -> None:
    folder, _, named = broken(whole, tmp_path, number)
    before = content(folder)
    command = [sys.executable, "-B", "-m", "fairdeploy", "build", "-C", str(folder), "-q"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "80"})
    assert not wrong(done.stderr, named, done.returncode, before, content(folder)), done.stderr
    assert done.stdout == ""


def test_the_whole_project_is_valid(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "-C", str(whole)]) == 0
    assert capsys.readouterr().out == "valid\n"
