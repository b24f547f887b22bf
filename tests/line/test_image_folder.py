"""From a folder of images and a table to a verdict, with no code but the network's."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fairdeploy.bundle import load_build
from fairdeploy.cli import main
from fairdeploy.planning import plan

CODE = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
"""
CONFIG = """
version: 1
name: folder
task: binary-classification
model:
  import: folder_model:build
  weights: dense.safetensors
  inputs: {image: {shape: [batch, 3, 8, 8]}}
  preprocess: {mean: [128, 128, 128], std: [64, 64, 64]}
  classes: [dark, bright]
data:
  format: imagefolder
  root: photos
  table: labels.csv
  columns: {path: file}
  note: Squares, some brighter than others.
groups: {attributes: {tone: [warm, cold]}, contexts: [site], cluster: scene}
prune: {method: magnitude, keep: {macs: 0.5}, round_to: 1, recover: {epochs: 8, batch_size: 16, learning_rate: 0.02}}
gates:
  accuracy: {min: 0.5}
targets: [this-host]
"""
ROWS = 300


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("folder")
    path = list(sys.path)
    (folder / "folder_model.py").write_text(CODE)
    (folder / "fairdeploy.yaml").write_text(CONFIG)
    names: dict[str, object] = {}
    exec(CODE, names)
    save_file(names["build"]().state_dict(), folder / "dense.safetensors")  # type: ignore[operator]
    random = np.random.default_rng(0)
    (folder / "photos").mkdir()
    lines = ["file,label,tone,site,scene\n"]
    for at in range(ROWS):
        label, tone = at % 2, ("warm", "cold", "")[at % 3]
        light = random.integers(0, 90, (8, 8, 3)) + 160 * label
        Image.fromarray(light.astype(np.uint8)).save(folder / "photos" / f"{at}.png")
        lines.append(f"{at}.png,{('dark', 'bright')[label]},{tone},{('north', 'south')[at // 2 % 2]},s{at // 2}\n")
    (folder / "labels.csv").write_text("".join(lines))
    yield folder
    sys.path[:] = path
    sys.modules.pop("folder_model", None)


def test_a_folder_of_images_gets_a_verdict(project: Path) -> None:
    assert main(["validate", "-C", str(project)]) == 0
    assert main(["build", "-C", str(project)]) == 0
    record, (bundle,) = load_build(project / "build" / "latest")
    assert bundle.verdict.status == "pass"
    assert record.data_note == "Squares, some brighter than others."
    counted = {(one.split, one.level): one.rows for one in record.group_counts}
    assert sum(rows for (split, _), rows in counted.items() if split == "evaluate") == pytest.approx(0.3 * ROWS, abs=3)
    assert counted["evaluate", "unknown"] > 0
    cells = {str(cell.group) for cell in bundle.verdict.cells}
    assert {"{'tone': 'warm'}", "{'tone': 'cold'}"} <= cells


def test_an_image_that_changes_is_seen(project: Path) -> None:
    """And one that does not is not read again; so it is with what the project's code says."""
    (project / "note.py").write_text("print('no data')\n")
    assert all(station.kept for station in plan(project).stations if station.label.startswith("data"))
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(project / "photos" / "0.png")
    found = [station for station in plan(project).stations if station.label.startswith("data")]
    assert {(station.kept, station.why) for station in found} == {(False, "changed: files")}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("\n5.png,bright", "\n5.png,brigth", "labels.csv:7: column 'label': 'brigth' is no class"),
        ("\n5.png,", "\n../5.png,", "labels.csv:7: column 'file': '../5.png' leaves the folder photos"),
        ("\n5.png,", "\n6.pgn,", "labels.csv:7: column 'file': no such file: photos/6.pgn"),
        ("\n5.png,", "\n4.png,", "labels.csv:7: column 'file': '4.png' stands at"),
        ("\n7.png,", "\nwide.png,", "labels.csv:9: photos/wide.png is 9 x 8 pixels"),
        ("file,label", "image,label", "labels.csv: no column 'file' (data.columns.path)"),
    ],
)
def test_bad_data_end_a_build_with_one_sentence(
    project: Path, old: str, new: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("fairdeploy.yaml", "folder_model.py"):
        (tmp_path / name).write_bytes((project / name).read_bytes())
    (tmp_path / "photos").symlink_to(project / "photos")
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(project / "photos" / "wide.png")
    text = (project / "labels.csv").read_text()
    assert text.count(old) == 1
    (tmp_path / "labels.csv").write_text(text.replace(old, new))
    assert main(["build", "-C", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "".join(said.split()) in "".join(told.split())
    assert "Traceback" not in told
    assert not (tmp_path / "build").exists()
    half = [one for one in (tmp_path / ".fairdeploy").glob("store/data/.making-*") if one.is_dir()]
    assert not half
    assert all((one / "entry.json").is_file() for one in (tmp_path / ".fairdeploy").glob("store/data/[0-9a-f]*"))
