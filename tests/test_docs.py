"""The documents hold: commands run, in order, and print exactly what is shown; gates can be read; code works."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import fairdeploy
from fairdeploy.evidence import metrics, scores, statistics
from fairdeploy.gates.files import read_gates
from tests import blocks

ROOT = Path(__file__).parent.parent
EVIDENCE = ROOT / "docs" / "evidence.md"
GATES = ROOT / "docs" / "gates.md"
COMPACTION = ROOT / "docs" / "compaction.md"
FAIR_PRUNING = ROOT / "docs" / "fair-pruning.md"
OWN_MODEL = ROOT / "docs" / "own-model.md"
TINY = re.compile(
    r"nothing at all|at most \S+ of the largest output|\de[-+]\d+"
)  # what is left of float64's rounding differs between machines


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


@pytest.mark.parametrize("document", [COMPACTION, FAIR_PRUNING, OWN_MODEL], ids=lambda path: path.stem)
def test_a_method_is_explained_by_what_runs(
    document: Path, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, as a reader would type them."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "100")
    names: dict[str, Any] = {}
    for example in blocks.examples(document):
        command = example.startswith("fairdeploy ")
        printed = blocks.run(example, capsys) if command else blocks.run_python(example, names, capsys)
        shown = blocks.shown(document, example, printed)
        assert TINY.sub("#", " ".join(shown.split())) == TINY.sub("#", " ".join(printed.split()))


def test_the_document_links_to_what_is_there() -> None:
    text = EVIDENCE.read_text()
    for link in ("benchmarks/results/coverage.md", "benchmarks/results/known_truth.md"):
        assert f"../{link}" in text
        assert (ROOT / link).is_file()


def test_the_gates_that_are_shown_can_be_read(tmp_path: Path) -> None:
    found = []
    for number, text in enumerate(re.findall(r"```yaml\n(.*?)```", GATES.read_text(), re.DOTALL)):
        file = tmp_path / f"{number}.yaml"
        file.write_text(text)
        found.append(read_gates(file, task="binary-classification"))
    assert [len(one.gates.rules) for one in found] == [9, 1]
    assert found[1].across is not None
    assert found[1].waivers[0].rule == found[1].gates.rules[0].name


def test_every_metric_is_named() -> None:
    named = set(re.findall(r"`([a-z0-9_]+)`", GATES.read_text().split("## Metrics")[1]))
    ratios = {
        name for name in metrics.GAPS if re.fullmatch(r"(false_positive|true_negative|false_negative)_rate_ratio", name)
    }
    known = {*metrics.RATES, *metrics.GAPS, *metrics.FLIPS, *scores.SCORES, *statistics.names()}
    assert known - ratios <= named


def test_a_metric_of_ones_own_is_gated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "STATISTICS", dict(statistics.STATISTICS))
    (code,) = re.findall(r"```python\n(.*?)```", GATES.read_text(), re.DOTALL)
    made: dict[str, Any] = {}
    exec(code, made)
    rows = {
        "id": range(400),
        "label": [0, 1] * 200,
        "prediction": [0, 1, 1, 1] * 100,
        "sex": ["f", "f", "m", "m"] * 100,
    }
    gates = {made["critical_success_index"].name: {"max": 0.6}}
    found = fairdeploy.judge(rows, groups=["sex"], gates=gates)
    assert {str(cell.group): cell.value for cell in found.verdict.cells} == {
        "{}": pytest.approx(2 / 3), "{'sex': 'f'}": 1.0, "{'sex': 'm'}": 0.5,
    }  # fmt: skip
    assert found.verdict.status == "fail"


def test_the_figures_of_fair_pruning_are_those_of_the_benchmark() -> None:
    results = sorted((ROOT / "benchmarks" / "results").glob("fair_pruning*.md"))
    measured = "".join(file.read_text() for file in results)
    found = FAIR_PRUNING.read_text().split("## What it is worth", 1)[1].split("\n## ", 1)[0]
    rows = [line for line in found.splitlines() if line.startswith("|")]
    assert len(rows) > 8
    assert not [row for row in rows if row not in measured]
