"""``fairdeploy prune``: a project's candidates alone, and a build that was killed goes on."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from fairdeploy.cli import main
from fairdeploy.line import Line, Listener
from fairdeploy.pruning.checkpoint import in_folder

Capture = pytest.CaptureFixture[str]

CODE = """
import numpy as np
import torch
from torch import nn

from fairdeploy.data import Rows, Split

COUNTS = {"train": 192, "prune": 96, "calibrate": 8, "tune": 64, "evaluate": 64}


def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Dropout(0.2), nn.Linear(8, 2),
    )


def splits(constant=False):
    return {name: split(name, seed, constant) for seed, name in enumerate(COUNTS)}


def split(name, seed, constant):
    random, count = np.random.default_rng(seed), COUNTS[name]
    dark, labels = random.random(count) < 0.3, random.integers(0, 1 if constant else 2, count)
    image = random.standard_normal((count, 3, 6, 6)) + np.where(dark, 0.2, 0.6)[:, None, None, None] * (
        2 * labels - 1
    )[:, None, None, None]
    tone = np.where(dark, "dark", "light")
    rows = Rows(np.array([f"{name}{at}" for at in range(count)]), labels, {"tone": tone})
    def batches(size):
        for start in range(0, count, size):
            yield {"image": image[start : start + size].astype(np.float32)}

    return Split(rows, batches)
"""
CONFIG = """
version: 1
name: tiny
task: binary-classification
model:
  import: tiny_project:build
  weights: dense.safetensors
  inputs: {image: {shape: [batch, 3, 6, 6], dtype: float32}}
data: {import: "tiny_project:splits"}
groups: {attributes: {tone: [light, dark]}}
prune:
  method: bilevel
  keep: {macs: [0.6, 0.4]}
  round_to: 1
  search: {epochs: 1}
  recover: {epochs: 2, batch_size: 16, splits: [train, prune]}
  constraints: {accuracy_difference: 0.01}
gates: {accuracy: {min: 0.1}}
targets: [this-host]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny project."""
    folder = tmp_path_factory.mktemp("tiny")
    path = list(sys.path)
    (folder / "tiny_project.py").write_text(CODE)
    (folder / "fairdeploy.yaml").write_text(CONFIG)
    names: dict[str, Any] = {}
    exec(CODE, names)
    save_file(names["build"]().state_dict(), folder / "dense.safetensors")
    yield folder
    sys.path[:] = path
    sys.modules.pop("tiny_project", None)


@pytest.fixture(scope="module")
def pruned(made: Path) -> Path:
    """The project after ``fairdeploy prune``."""
    assert main(["prune", "-C", str(made), "--json", "-q"]) == 0
    return made


def weights(folder: Path) -> dict[str, bytes]:
    """What each training of a project left in the store, by its place there."""
    store = folder / ".fairdeploy" / "store"
    return {str(file.relative_to(store)): file.read_bytes() for file in store.rglob("weights.safetensors")}


def test_it_shows_costs_rates_and_why(pruned: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    assert main(["prune", "-C", str(pruned), "-v"]) == 0
    printed, said = capsys.readouterr()
    table, log = printed.split("decisions, on the prune split")
    lines = [line.split() for line in table.splitlines() if line.strip()]
    assert [line[0] for line in lines] == ["candidate", "dense", "macs-0.6", "macs-0.4"]
    costs = [int(line[1].replace(",", "")) for line in lines[1:]]
    assert costs[1] <= 0.6 * costs[0]
    assert costs[2] <= 0.4 * costs[0]
    assert all("%" in line[4] and line[6] == "tone" and line[7] in ("light", "dark") for line in lines[1:])
    for station in ("teacher", "prune[macs-0.6]", "recover[macs-0.6]", "front[macs-0.6]", "front[macs-0.4]"):
        assert f"  {station}: " in log
    assert log.count("  teacher: accuracy_difference <= 0.01") == 1
    assert "recover[macs-0.4]: from the store" in said


def test_json_says_the_same(pruned: Path, capsys: Capture) -> None:
    assert main(["prune", "-C", str(pruned), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["command"], found["schema_version"]) == ("prune", 1)
    assert [one["name"] for one in found["candidates"]] == ["macs-0.6", "macs-0.4"]
    for one in (found["dense"], *(candidate["measured"] for candidate in found["candidates"])):
        assert [(cell["group"], cell["label"]) for cell in one["cells"]] == [
            ("light", 0), ("light", 1), ("dark", 0), ("dark", 1),
        ]  # fmt: skip
        assert sum(cell["rows"] for cell in one["cells"]) == 96
        right = sum(cell["rows"] * cell["rate"] for cell in one["cells"])
        assert one["accuracy"] == pytest.approx(right / 96)
    kept = {entry["station"]: entry["decision"] for entry in found["decisions"] if entry["station"][:5] == "front"}
    assert [kept[f"front[{one['name']}]"] == "kept" for one in found["candidates"]] == [
        one["kept"] for one in found["candidates"]
    ]


def test_neither_the_evaluate_split_nor_a_target_is_touched(pruned: Path) -> None:
    stations = {folder.name for folder in (pruned / ".fairdeploy" / "store").iterdir() if folder.is_dir()}
    assert stations == {"data", "teacher", "prune", "compact", "recover", "measure"}
    splits = {
        json.loads(file.read_text())["parts"]["split"]
        for file in (pruned / ".fairdeploy" / "store" / "data").rglob("entry.json")
    }
    assert splits == {"train", "prune", "tune"}


@pytest.mark.parametrize(("station", "step"), [("teacher", 11), ("prune", 9), ("recover", 5)])
def test_a_killed_run_goes_on_where_it_was(station: str, step: int, pruned: Path, tmp_path: Path) -> None:
    folder = tmp_path / "again"
    shutil.copytree(pruned, folder)
    store = folder / ".fairdeploy" / "store"
    trainings = ("teacher", "prune", "recover")
    for later in trainings[trainings.index(station) :]:
        shutil.rmtree(store / later)
    at: list[str] = []
    steps: list[int] = []

    def interrupted(done: int, total: int, said: str) -> None:
        steps.append(done)
        if at[-1].startswith(station) and len([one for one in steps if one == step]) == 1 and done == step:
            raise KeyboardInterrupt

    def line(progress: Callable[[int, int, str], None]) -> Any:
        made = Line(folder, listener=Listener(at.append, lambda kept: None, progress))
        networks = made.networks(made.splits(("train", "prune", "tune")))
        keep = made.project.prune.keep
        assert keep is not None
        return [networks.recover(level) for level in keep.levels]

    every = _every(monkey := pytest.MonkeyPatch())
    try:
        with pytest.raises(KeyboardInterrupt):
            line(interrupted)
        assert len(list((folder / ".fairdeploy" / "checkpoints").rglob("*.safetensors"))) == 1
        steps.clear()
        line(lambda done, total, said: steps.append(done))
    finally:
        monkey.undo()
    assert steps[0] == step - step % every + 1
    assert weights(folder) == weights(pruned)
    assert len(weights(pruned)) == 5, "a teacher, and two levels pruned and recovered"
    assert not list((folder / ".fairdeploy" / "checkpoints").iterdir())


def _every(monkeypatch: pytest.MonkeyPatch) -> int:
    """Keep a checkpoint every few steps, as the project has few."""
    monkeypatch.setattr("fairdeploy.pruning.checkpoint.in_folder", partial(in_folder, every=4))
    return 4


@pytest.mark.parametrize(
    ("before", "after", "code", "said"),
    [
        ("  method: bilevel", "  method: bogus", 2, "'prune.method' is 'bogus'"),
        ("macs: [0.6, 0.4]", "macs: 0.001", 3, "prune.keep.macs: 0.001 cannot be reached"),
        ("macs: [0.6, 0.4]", "macs: 1.5", 2, "less than or equal to 1"),
        ('"tiny_project:splits"}', '"tiny_project:splits", arguments: {constant: true}}', 2, "has the label 0"),
    ],
)
def test_bad_input_is_one_message(
    before: str, after: str, code: int, said: str, pruned: Path, tmp_path: Path, capsys: Capture
) -> None:
    folder = tmp_path / "bad"
    shutil.copytree(pruned, folder)
    text = (folder / "fairdeploy.yaml").read_text()
    assert before in text
    (folder / "fairdeploy.yaml").write_text(text.replace(before, after))
    assert main(["prune", "-C", str(folder), "-q"]) == code
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("error:") == 1


def test_a_project_that_prunes_nothing_is_told_so(made: Path, tmp_path: Path, capsys: Capture) -> None:
    config = CONFIG[: CONFIG.index("prune:")] + CONFIG[CONFIG.index("gates:") :]
    (made / "none.yaml").write_text(config)
    assert main(["prune", "-C", str(made), "-c", "none.yaml"]) == 2
    assert "method: none leaves the network whole" in capsys.readouterr().err
