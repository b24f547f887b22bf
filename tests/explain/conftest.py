"""A small project whose harm is known by construction, built once for each stage at which it can happen.

The network sees the sign for *service* in one of two channels. Rows of group b in dim light carry it in the second,
brighter than anything in the calibrate split, and the filter that reads it has the smallest norm. So pruning loses
exactly those rows, and so does quantisation; a degraded device loses a seeded part of them.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from fairdeploy.devices import HostDevice, Job, Result
from fairdeploy.errors import BackendError
from fairdeploy.line import Line
from fairdeploy.target import load_target
from fairdeploy.testing import Degradation, FakeDevice
from fairdeploy.workflow import build

DATA = """
import numpy as np
from fairdeploy.data import Rows, Split

EACH = {"train": 4, "prune": 4, "calibrate": 8, "tune": 8, "evaluate": 50}


def make(name, seed):
    lights = ("bright",) if name == "calibrate" else ("bright", "dim")
    cells = [(g, y, l) for g in "ab" for l in lights for y in (0, 1) for _ in range(EACH[name])]
    groups, labels, light = (np.array(column) for column in zip(*cells))
    random = np.random.default_rng(seed)
    image = random.integers(20, 40, (len(cells), 3, 8, 8)).astype(np.uint8)
    image[:, 1] = random.integers(150, 200, (len(cells), 8, 8))
    hidden = (groups == "b") & (light == "dim") & (labels == 1)
    image[(labels == 1) & ~hidden, 0] = 200
    image[hidden, 1] = 255
    rows = Rows(
        ids=np.array([f"{name}-{at:04d}" for at in range(len(cells))]),
        labels=labels,
        attributes={"group": groups},
        contexts={"light": light},
        clusters=np.array([f"{name}-person-{at // 5}" for at in range(len(cells))]),
    )
    return Split(rows, lambda size: ({"image": image[at : at + size]} for at in range(0, len(image), size)))


def splits():
    return {name: make(name, seed) for seed, name in enumerate(EACH)}
"""
MODEL = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.see = nn.Conv2d(3, 4, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, image):
        return self.head(torch.relu(self.see(image)).mean((2, 3)))
"""
CONFIG = """
version: 1
name: small
task: binary-classification
model:
  import: net:Net
  weights: net.safetensors
  inputs: {{image: {{shape: [batch, 3, 8, 8], dtype: float32}}}}
  preprocess: {{color: rgb, mean: [115, 115, 115], std: [64, 64, 64]}}
  classes: [passing, service]
  decision: {{threshold: 0.5}}
data: {{import: "rows:splits"}}
groups: {{attributes: {{group: [a, b]}}, contexts: [light], cluster: person}}
prune: {prune}
gates:
  true_positive_rate:
    - {{max_drop: 0.1, against: dense}}
    - {{max_drop: 0.1, against: compact}}
  false_positive_rate: {{max_increase: 0.1, against: dense}}
  accuracy: {{min: 0.6}}
  equalized_odds_difference: {{max: 0.2}}
  demographic_parity_difference: {{max: 0.3}}
  flip_rate: {{max: 0.1, against: dense}}
  latency_p90_ms: {{max: 1000}}
targets: [{target}]
"""
PRUNED = "{method: magnitude, keep: {macs: 0.8}, round_to: 1, recover: {epochs: 0}}"


@dataclass(frozen=True)
class Small:
    """A built project, and the rows that are lost in it by construction."""

    folder: Path
    lost: NDArray[np.bool_]
    devices: dict[str, HostDevice | FakeDevice]


def write_project(folder: Path, *, prune: str = "{method: none}", target: str = "this-host") -> None:
    folder.mkdir()
    (folder / "rows.py").write_text(DATA)
    (folder / "net.py").write_text(MODEL)
    (folder / "fairdeploy.yaml").write_text(CONFIG.format(prune=prune, target=target))
    see, head = torch.zeros(4, 3, 1, 1), torch.zeros(2, 4)
    see[0, 0], see[1, 1], see[2, 2], see[3, 2] = 2.0, 0.5, 3.0, 3.0
    head[1, 0], head[1, 1] = 2.0, 0.5
    bias = torch.tensor([0.0, -0.7, 0.0, 0.0])
    weights = {"see.weight": see, "see.bias": bias, "head.weight": head, "head.bias": torch.tensor([0.0, -0.05])}
    save_file(weights, folder / "net.safetensors")


def hidden(folder: Path) -> NDArray[np.bool_]:
    """Return the rows whose sign stands in the second channel."""
    rows = Line(folder).splits(("evaluate",))["evaluate"].rows
    return (rows.attributes["group"] == "b") & (rows.contexts["light"] == "dim") & (rows.labels == 1)


@pytest.fixture(scope="session")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Small:
    folder = tmp_path_factory.mktemp("pruned") / "small"
    write_project(folder, prune=PRUNED)
    build(folder)
    return Small(folder, hidden(folder), {})


MANY_GATES = """
  true_positive_rate: {max_ratio: 1.5, against: dense}
  true_positive_rate_excess_drop: {max: 0.1, against: dense}
  accuracy: {max_drop: 0.1, against: dense, within: light}
  equal_opportunity_difference: {max_increase: 0.1, against: dense}
  equalized_odds_ratio: {min: 0.5}
  predictive_parity_difference: {max: 0.2}
  balanced_accuracy_difference: {max: 0.2}
  positive_predictive_value: {min: 0.6}
  f1_score: {max_drop: 0.1, against: dense}
  area_under_curve: {min: 0.6}
targets:"""


@pytest.fixture(scope="session")
def many_gates(pruned: Small, tmp_path_factory: pytest.TempPathFactory) -> Small:
    """The pruned project under gates on what is no rate; its stations are taken from the store."""
    folder = Path(shutil.copytree(pruned.folder, tmp_path_factory.mktemp("many") / "small", symlinks=True))
    file = folder / "fairdeploy.yaml"
    kept, after = file.read_text().split("gates:")[0], file.read_text().split("targets:")[1]
    file.write_text(f"{kept}gates:{MANY_GATES}{after}")
    build(folder)
    return Small(folder, pruned.lost, {})


@pytest.fixture(scope="session")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Small:
    folder = tmp_path_factory.mktemp("quantised") / "small"
    write_project(folder, target="this-host-int8")
    build(folder)
    return Small(folder, hidden(folder), {})


@pytest.fixture(scope="session")
def degraded(tmp_path_factory: pytest.TempPathFactory) -> Small:
    folder = tmp_path_factory.mktemp("degraded") / "small"
    write_project(folder)
    may = hidden(folder)
    device = FakeDevice.for_target(load_target("this-host"), degrade=Degradation(seed=3, rows=may, flip_rate=0.6))
    build(folder, devices={"this-host": device})
    hit = may & (np.random.default_rng(3).random(len(may)) < 0.6)
    return Small(folder, hit, {"this-host": device})


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Small:
    folder = tmp_path_factory.mktemp("simulated") / "small"
    write_project(folder, target="jetson")
    build(folder)
    return Small(folder, hidden(folder), {})


class Crashing(HostDevice):
    """A host whose runtime dies."""

    def key(self) -> dict[str, str]:
        return {"crashing": "yes"}

    def run(self, job: Job) -> Result:
        raise BackendError("ort died with signal 11; its last words: Segmentation fault")


@pytest.fixture(scope="session")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Small:
    folder = tmp_path_factory.mktemp("crashed") / "small"
    write_project(folder)
    devices: dict[str, HostDevice | FakeDevice] = {"this-host": Crashing()}
    build(folder, devices=devices)
    return Small(folder, np.zeros(400, bool), devices)
