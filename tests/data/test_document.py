"""Every block of docs/data.md is a project that reads the files it describes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from ruamel.yaml import YAML

from fairdeploy.cli import main
from fairdeploy.data import SPLITS, load_splits
from fairdeploy.project import load_project

DOCUMENT = Path(__file__).parents[2] / "docs" / "data.md"
REST = {
    "version": 1,
    "name": "door",
    "task": "binary-classification",
    "gates": {"worst_group_accuracy": {"min": 0.5}},
    "targets": ["this-host"],
}
ROWS = 60


def blocks() -> list[dict[str, Any]]:
    return [YAML().load(text) for text in re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)]


def known() -> dict[str, Any]:
    return {
        "label": np.arange(ROWS) % 2,
        "person": np.array([f"p{at // 2}" for at in range(ROWS)]),
        "age": np.array(["child", "adult", "senior"] * (ROWS // 3)),
        "sex": np.array(["Female", "Male"] * (ROWS // 2)),
    }


def images(folder: Path) -> None:
    header, first, second = re.findall(r"```text\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)[0].splitlines()
    lines = [header, first, second]
    lines += [
        f"{at},door/{at:04}.jpg,{'negative' if at % 2 else 'positive'},child,dim,p{at // 2}" for at in range(3, 60)
    ]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    (folder / "photos" / "door").mkdir(parents=True)
    for at in range(1, 60):
        Image.fromarray(np.full((70, 90, 3), at, np.uint8)).save(folder / "photos" / "door" / f"{at:04}.jpg")


def arrays(folder: Path) -> None:
    np.savez(folder / "data.npz", image=np.zeros((ROWS, 3, 64, 64), np.uint8), **known())


def table(folder: Path) -> None:
    numbers = {"hours": np.arange(ROWS), "age": np.arange(ROWS)}
    pq.write_table(pa.table({**known(), **numbers}), folder / "rows.parquet")


def hub(folder: Path) -> None:
    files = Path(__file__).parent / "hub" / "rows"
    (folder / "dataset").mkdir()
    for file in files.iterdir():
        (folder / "dataset" / file.name).write_bytes(file.read_bytes())
    for file in (folder / "dataset").glob("*.arrow"):
        rows = pa.ipc.open_stream(file.read_bytes()).read_all()
        rows = pa.concat_tables([rows] * 5).drop_columns("person")
        rows = rows.append_column("age", pa.array(["adult"] * len(rows)))
        rows = rows.append_column("person", pa.array([f"p{at}" for at in range(len(rows))]))
        with pa.OSFile(str(file), "wb") as stream, pa.ipc.new_stream(stream, rows.schema) as writer:
            writer.write_table(rows)


@pytest.mark.parametrize(
    ("block", "write"), list(zip(blocks(), (images, arrays, table, hub, arrays), strict=True)), ids=range(5)
)
def test_a_block_reads_what_it_describes(
    block: Mapping[str, Any], write: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path)
    with (tmp_path / "fairdeploy.yaml").open("w") as stream:
        YAML().dump(REST | dict(block), stream)
    assert main(["validate", "-C", str(tmp_path)]) == 0, capsys.readouterr().out
    project, _ = load_project(tmp_path)
    splits = load_splits(project, tmp_path)
    assert tuple(splits) == SPLITS
    for split in splits.values():
        rows = {name: 0 for name in project.model.inputs}
        for batch in split.batches(1000):
            for name, values in batch.items():
                assert values.shape[1:] == project.model.inputs[name].row_shape
                rows[name] += len(values)
        assert set(rows.values()) == {len(split.rows)}


def test_what_is_said_of_columns_holds() -> None:
    text = DOCUMENT.read_text()
    named = re.findall(r"^\| `columns\.(\w+)`", text, re.MULTILINE)
    from fairdeploy.source import Columns

    assert named == list(Columns.model_fields)
