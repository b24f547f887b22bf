"""Projects with data in every format, whose files a test may spoil."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image
from ruamel.yaml import YAML

from fairdeploy.data import SPLITS, Split, check_source, load_splits, materialise, source_identity
from fairdeploy.errors import ConfigError
from fairdeploy.project import Project, load_project

ROWS = 40
PROJECT: dict[str, Any] = {
    "version": 1,
    "name": "shop",
    "task": "binary-classification",
    "model": {"import": "m:build", "weights": "w.safetensors", "inputs": {"image": {"shape": ["batch", 3, 4, 6]}}},
    "groups": {"attributes": {"tone": ["light", "dark"]}, "contexts": ["site"], "cluster": "person"},
    "gates": {"worst_group_accuracy": {"min": 0.5}},
    "targets": ["this-host"],
}
FEATURES = {"features": {"shape": ["batch", 2]}}
Columns = dict[str, list[Any]]


def columns(**changes: Any) -> Columns:
    made: Columns = {
        "label": [at % 2 for at in range(ROWS)],
        "tone": [("light", "dark", "")[at % 3] for at in range(ROWS)],
        "site": [("north", "south")[at % 2] for at in range(ROWS)],
        "person": [f"p{at // 2}" for at in range(ROWS)],
    }
    return {name: values for name, values in (made | changes).items() if values is not None}


def write_csv(file: Path, given: Mapping[str, Sequence[Any]]) -> None:
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([list(given), *zip(*given.values(), strict=True)])


def pixels(at: int) -> NDArray[np.uint8]:
    return np.random.default_rng(at).integers(0, 256, (4, 6, 3), np.uint8)


def changed(values: list[Any], at: int, value: Any) -> list[Any]:
    return [*values[:at], value, *values[at + 1 :]]


class Place:
    """A project's folder whose files every test may spoil."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def project(self, data: Mapping[str, Any], **changes: Any) -> Project:
        config = PROJECT | {"data": data} | changes
        with (self.folder / "fairdeploy.yaml").open("w") as stream:
            YAML().dump(config, stream)
        return load_project(self.folder)[0]

    def splits(self, data: Mapping[str, Any], **changes: Any) -> dict[str, Split]:
        """Load as the line does: what can be checked, then the digests, then the rows."""
        project = self.project(data, **changes)
        check_source(project, load_project(self.folder)[1], self.folder)
        source_identity(project, self.folder)
        return load_splits(project, self.folder)

    def read(self, data: Mapping[str, Any], **changes: Any) -> dict[str, dict[str, NDArray[Any]]]:
        """Store all splits; the inputs by the name of the row."""
        project = self.project(data, **changes)
        found: dict[str, dict[str, NDArray[Any]]] = {}
        for name, split in self.splits(data, **changes).items():
            out = self.folder / "stored" / name
            stored = materialise(split, out, spec=project.spec, groups=project.groups)
            for at, row in enumerate(stored.rows.ids.tolist()):
                found[row] = {key: np.array(values[at]) for key, values in stored.inputs.items()}
        return found

    def images(self, **changes: Any) -> dict[str, Any]:
        (self.folder / "photos" / "a").mkdir(parents=True, exist_ok=True)
        names = [f"{'a/' if at % 2 else ''}{at}.png" for at in range(ROWS)]
        for at, name in enumerate(names):
            Image.fromarray(pixels(at)).save(self.folder / "photos" / name)
        write_csv(self.folder / "labels.csv", columns(**({"path": names} | changes)))
        return {"format": "imagefolder", "root": "photos", "table": "labels.csv"}

    def table(self, suffix: str = "csv", **changes: Any) -> dict[str, Any]:
        numbers = {"age": [at / 4 for at in range(ROWS)], "hours": [at * at for at in range(ROWS)]}
        given = columns(**(numbers | changes))
        file = self.folder / f"rows.{suffix}"
        if suffix == "csv":
            write_csv(file, given)
        else:
            pq.write_table(pa.table(given), file)
        return {"format": "table", "file": file.name, "inputs": {"features": ["age", "hours"]}}

    def npz(self, compressed: bool = False, **changes: Any) -> dict[str, Any]:
        image = np.stack([pixels(at).transpose(2, 0, 1) for at in range(ROWS)])
        arrays = {name: np.array(values) for name, values in columns().items()} | {"image": image} | changes
        save = np.savez_compressed if compressed else np.savez
        save(self.folder / "data.npz", **{name: values for name, values in arrays.items() if values is not None})
        return {"format": "npz", "file": "data.npz"}


HUB = Path(__file__).parent / "hub"
HUB_GROUPS = {"groups": {"attributes": {"tone": ["light", "dark"]}, "cluster": "person"}}


EVENLY = dict.fromkeys(SPLITS, 0.2)


def hub(place: Place, **inputs: list[Any]) -> dict[str, Any]:
    shapes = {name: {"shape": ["batch", *shape]} for name, shape in inputs.items()}
    return HUB_GROUPS | {"model": PROJECT["model"] | {"inputs": shapes}}


def told(place: Place, data: Mapping[str, Any], **changes: Any) -> str:
    """Return the one sentence that is said; no split is left half-written."""
    with pytest.raises(ConfigError) as caught:
        place.read(data, **changes)
    for split in place.folder.glob("stored/*"):
        assert (split / "meta.json").is_file() or not any(split.iterdir())
    return str(caught.value).removeprefix(f"{place.folder}/")
