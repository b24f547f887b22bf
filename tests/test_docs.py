"""The commands of docs/evidence.md run, in order, and print exactly what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import blocks

ROOT = Path(__file__).parent.parent
EVIDENCE = ROOT / "docs" / "evidence.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the examples in it, in which the commands may write."""
    place = tmp_path_factory.mktemp("docs")
    (place / "examples").symlink_to(ROOT / "examples")
    return place


@pytest.mark.parametrize("command", blocks.commands(EVIDENCE))
def test_the_document_shows_what_the_command_prints(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "100")
    printed = blocks.run(command, capsys)
    assert blocks.shown(EVIDENCE, command, printed).strip() == printed.strip()


def test_the_document_links_to_what_is_there() -> None:
    text = EVIDENCE.read_text()
    for link in ("benchmarks/results/coverage.md", "benchmarks/results/known_truth.md"):
        assert f"../{link}" in text
        assert (ROOT / link).is_file()
