"""A project that builds in seconds: 352 images of 3 x 6 x 6, a network of two convolutions, one target."""

from __future__ import annotations

from pathlib import Path

CODE = """
import numpy as np
import torch
from torch import nn

from fairdeploy.data import Rows, Split

COUNTS = {"train": 96, "prune": 64, "calibrate": 64, "tune": 64, "evaluate": 64}


def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 2),
    )


def splits():
    return {name: split(name, seed) for seed, name in enumerate(COUNTS)}


def split(name, seed):
    random, count = np.random.default_rng(seed), COUNTS[name]
    labels = np.arange(count) % 2
    image = random.standard_normal((count, 3, 6, 6)) + (2 * labels - 1)[:, None, None, None]
    tone = np.where(np.arange(count) % 4 < 2, "light", "dark")
    site = np.where(random.random(count) < 0.5, "north", "south")
    rows = Rows(np.array([f"{name}{at}" for at in range(count)]), labels, {"tone": tone}, {"site": site})

    def batches(size):
        for start in range(0, count, size):
            yield {"image": image[start : start + size].astype(np.float32)}

    return Split(rows, batches)
"""
CONFIG = """\
version: 1
name: tiny
task: binary-classification
model:
  import: tiny_code:build
  weights: dense.safetensors
  inputs: {image: {shape: [batch, 3, 6, 6]}}
data: {import: "tiny_code:splits"}
groups:
  attributes: {tone: [light, dark]}
  contexts: [site]
prune: {method: magnitude, keep: {macs: 0.6}, round_to: 1, recover: {epochs: 1}}
gates:
  accuracy: {min: 0.1}
  true_positive_rate: {max_drop: 0.9, against: dense}
targets: [brief]
"""
TARGET = """\
extends: this-host
id: brief
measure: {warmup_ms: 0, runs: 20}
"""


def write_project(folder: Path) -> Path:
    """Write the project, its weights included, and return its folder."""
    from safetensors.torch import save_file

    (folder / "targets").mkdir(parents=True)
    (folder / "tiny_code.py").write_text(CODE)
    (folder / "fairdeploy.yaml").write_text(CONFIG)
    (folder / "targets" / "brief.yaml").write_text(TARGET)
    names: dict[str, object] = {"__name__": "tiny_code"}
    exec(CODE, names)
    save_file(names["build"]().state_dict(), folder / "dense.safetensors")  # type: ignore[operator]
    return folder
