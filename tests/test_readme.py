"""Every command in the README runs, and prints what the README says.

``FAIRDEPLOY_UPDATE=1 pytest tests/test_readme.py`` writes today's output into it. Numbers, and the group that comes
closest, differ between machines: of a build, the verdict lines and the exit code are compared; of the rest, everything
but numbers.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fairdeploy.workflow import Build
from tests import blocks
from tests.conftest import Kiosk

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
TINY = re.compile(r"\d(?:\.\d+)?e[-+]\d+")
VERDICT = re.compile(r"^(?:[✓✕?] .*|exit code .*)$", re.MULTILINE)


def essence(command: str, text: str) -> list[str]:
    if command.startswith("fairdeploy build"):
        return VERDICT.findall(text)
    return [" ".join(re.sub(r"[\d.,]+", "#", line).split()) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("command", blocks.commands(README))
def test_the_readme_shows_what_the_command_prints(
    command: str, kiosk: Kiosk, demo: Build, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (adult := kiosk.folder.parent / "adult").exists():
        adult.symlink_to(ROOT / "examples" / "adult")
    monkeypatch.chdir(kiosk.folder.parent.parent)
    monkeypatch.setenv("COLUMNS", "100")
    printed = blocks.run(command, capsys)
    assert essence(command, printed)
    assert essence(command, blocks.shown(README, command, printed)) == essence(command, printed)


@pytest.mark.parametrize("code", [one for one in blocks.examples(README) if not one.startswith("fairdeploy ")])
def test_the_readme_shows_what_its_code_prints(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    printed = blocks.run_python(code, {}, capsys)
    assert TINY.sub("#", blocks.shown(README, code, printed)) == TINY.sub("#", printed)


def test_the_readmes_numbers_are_those_of_the_benchmark() -> None:
    """Each row of the table, and each number of the sentence below it."""
    measured = (ROOT / "benchmarks" / "results" / "kiosk.md").read_text()
    found = README.read_text().split("What it found", 1)[1].split("## You have predictions")[0]
    rows = [line for line in found.splitlines() if line.startswith("|")]
    assert len(rows) > 8
    assert not [row for row in rows if row not in measured]
    sentence = found.rsplit("|\n", 1)[1]
    numbers = re.findall(r"\d[\d,]*\.?\d*(?= (?:multiply|bytes|ms|to))", sentence)
    assert len(numbers) >= 6
    assert not [number for number in numbers if number not in measured]
