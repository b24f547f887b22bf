"""Each declared format gives the rows and inputs that stand in its files, and says where one is wrong."""

from __future__ import annotations

import csv
import io
import json
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image
from ruamel.yaml import YAML

from fairdeploy import yamlfile
from fairdeploy.cli import main
from fairdeploy.data import SPLITS, Split, check_source, load_splits, materialise, source_identity
from fairdeploy.errors import ConfigError, MissingExtra
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


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def told(place: Place, data: Mapping[str, Any], **changes: Any) -> str:
    """Return the one sentence that is said; no split is left half-written."""
    with pytest.raises(ConfigError) as caught:
        place.read(data, **changes)
    for split in place.folder.glob("stored/*"):
        assert (split / "meta.json").is_file() or not any(split.iterdir())
    return str(caught.value).removeprefix(f"{place.folder}/")


def test_a_folder_of_images_and_a_table(place: Place) -> None:
    found = place.read(place.images())
    assert len(found) == ROWS
    for at in (0, 7):
        np.testing.assert_array_equal(found[f"{'a/' if at % 2 else ''}{at}.png"]["image"], pixels(at).transpose(2, 0, 1))
    assert found["0.png"]["image"].dtype == np.uint8


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_of_numbers(place: Place, suffix: str) -> None:
    found = place.read(place.table(suffix), model=PROJECT["model"] | {"inputs": FEATURES})
    assert set(found) == {str(at + 1) for at in range(ROWS)}, "without ids rows are named by their number"
    assert found["8"]["features"].tolist() == [1.75, 49.0]
    assert found["8"]["features"].dtype == np.float32


@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_of_an_npz_file(place: Place, compressed: bool) -> None:
    found = place.read(place.npz(compressed, id=np.array([f"r{at}" for at in range(ROWS)])))
    assert len(found) == ROWS
    np.testing.assert_array_equal(found["r9"]["image"], pixels(9).transpose(2, 0, 1))


def test_numbers_of_other_types_become_float32(place: Place) -> None:
    image = np.arange(ROWS * 72).reshape(ROWS, 3, 4, 6)
    found = place.read(place.npz(image=image.astype(np.float64)))
    assert found["2"]["image"].dtype == np.float32
    np.testing.assert_array_equal(found["2"]["image"], image[1])


HUB = Path(__file__).parent / "hub"
HUB_GROUPS = {"groups": {"attributes": {"tone": ["light", "dark"]}, "cluster": "person"}}


EVENLY = dict.fromkeys(SPLITS, 0.2)


def hub(place: Place, **inputs: list[Any]) -> dict[str, Any]:
    shapes = {name: {"shape": ["batch", *shape]} for name, shape in inputs.items()}
    return HUB_GROUPS | {"model": PROJECT["model"] | {"inputs": shapes}}


def test_a_hugging_face_dataset_on_disk(place: Place) -> None:
    """Written by datasets 5.2.0 in two shards, from the last row to the first."""
    wanted = hub(place, image=[3, 4, 4], features=[2], pixels=[2, 2, 3])
    found = place.read({"format": "hf", "path": str(HUB / "rows"), "shares": EVENLY}, **wanted)
    assert len(found) == 12
    for row, values in found.items():
        at = 12 - int(row)
        assert (values["image"] == at * 10).all()
        assert values["features"].tolist() == [at, at / 2]
        assert (values["pixels"] == at).all()
    project = place.project({"format": "hf", "path": str(HUB / "rows"), "shares": EVENLY}, **wanted)
    rows = load_splits(project, place.folder)["evaluate"].rows
    assert rows.labels.tolist() == [(12 - int(row)) % 2 for row in rows.ids.tolist()]


def test_the_parts_of_a_dataset_dict_are_its_splits(place: Place) -> None:
    data = {"format": "hf", "path": str(HUB / "parts")}
    splits = place.splits(data, **hub(place, features=[2]))
    assert {name: len(split.rows) for name, split in splits.items()} == dict.fromkeys(SPLITS, 2) | {"evaluate": 4}
    assert "column 'split': 'test' is none of them" in told(
        place, data | {"path": str(HUB / "two_parts")}, **hub(place, features=[2])
    )


def test_labels_may_be_names_or_indices(place: Place) -> None:
    named = [("negative", "positive")[at % 2] for at in range(ROWS)]
    truths = [("False", "true")[at % 2] for at in range(ROWS)]
    decimals = [f"{at % 2}.0" for at in range(ROWS)]
    wanted = {name: split.rows.labels.tolist() for name, split in place.splits(place.images()).items()}
    for label in (named, truths, decimals):
        given = place.splits(place.images(label=label))
        assert {name: split.rows.labels.tolist() for name, split in given.items()} == wanted


def test_columns_have_the_names_that_they_have(place: Place) -> None:
    data = place.table(label=None, income=[at % 2 for at in range(ROWS)], key=[f"k{at}" for at in range(ROWS)])
    found = place.splits(
        data | {"columns": {"label": "income", "id": "key"}}, model=PROJECT["model"] | {"inputs": FEATURES}
    )
    assert found["evaluate"].rows.ids[0].startswith("k")


def test_a_split_column_decides(place: Place) -> None:
    names = [SPLITS[at // 2 % 5] for at in range(ROWS)]
    splits = place.splits(place.images(split=names))
    assert splits["tune"].rows.ids.tolist() == ["6.png", "a/7.png", "16.png", "a/17.png", "26.png", "a/27.png",
                                                "36.png", "a/37.png"]  # fmt: skip


def test_missing_attributes_are_unknown(place: Place) -> None:
    splits = place.splits(place.images())
    tones = {row: tone for split in splits.values()
             for row, tone in zip(split.rows.ids.tolist(), split.rows.attributes["tone"].tolist(), strict=True)}  # fmt: skip
    assert [tones[name] for name in ("0.png", "a/1.png", "2.png")] == ["light", "dark", "unknown"]


def orientated(at: int, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    Image.fromarray(pixels(at)).rotate(90, expand=True).save(stream, "PNG", exif=exif)
    return stream.getvalue()


def test_images_stand_upright_and_grey_becomes_rgb(place: Place) -> None:
    data = place.images()
    photos = place.folder / "photos"
    (photos / "0.png").write_bytes(orientated(0, 6))
    Image.fromarray(pixels(2)[..., 0]).save(photos / "2.png")
    Image.fromarray(np.dstack([pixels(4), np.full((4, 6), 255, np.uint8)])).save(photos / "4.png")
    found = place.read(data)
    np.testing.assert_array_equal(found["0.png"]["image"], pixels(0).transpose(2, 0, 1))
    np.testing.assert_array_equal(found["2.png"]["image"], np.stack([pixels(2)[..., 0]] * 3))
    np.testing.assert_array_equal(found["4.png"]["image"], pixels(4).transpose(2, 0, 1))


def test_images_of_another_size_are_scaled_when_asked(place: Place) -> None:
    data = place.images()
    wide = np.zeros((8, 40, 3), np.uint8)
    wide[:, :14], wide[:, 26:] = (255, 0, 0), (0, 0, 255)
    Image.fromarray(wide).save(place.folder / "photos" / "0.png")
    cropped = place.read(data | {"resize": "crop"})["0.png"]["image"]
    stretched = place.read(data | {"resize": "stretch"})["0.png"]["image"]
    assert cropped.shape == stretched.shape == (3, 4, 6)
    assert not cropped[:, :, 1:-1].any(), "the middle is black"
    assert stretched[0, 0, 0] == stretched[2, 0, -1] == 255


def test_the_digest_follows_every_file_and_the_seed(place: Place) -> None:
    def identity(data: Mapping[str, Any], **changes: Any) -> str:
        return json.dumps(source_identity(place.project(data, **changes), place.folder))

    data = place.images()
    first = identity(data)
    (place.folder / "other.py").write_text("print('of no concern')\n")
    assert identity(data) == first
    assert identity(data, seed=1) != first
    Image.fromarray(pixels(99)).save(place.folder / "photos" / "0.png")
    second = identity(data)
    assert second != first
    with (place.folder / "labels.csv").open("a") as stream:
        stream.write("\n")
    assert identity(data) not in (first, second)


Spoil = Callable[[Place], Mapping[str, Any]]


def spoilt_image(name: str, content: bytes) -> Spoil:
    def spoil(place: Place) -> Mapping[str, Any]:
        data = place.images()
        (place.folder / "photos" / name).write_bytes(content)
        return data

    return spoil


def png(array: NDArray[Any], mode: str | None = None) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).convert(mode).save(stream, "PNG") if mode else Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def paths(at: int, value: str) -> list[str]:
    return changed([f"{'a/' if at % 2 else ''}{at}.png" for at in range(ROWS)], at, value)


BASE = columns()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda place: place.images() | {"table": "lables.csv"}, "fairdeploy.yaml:30:3: 'data.table': no such file: lables.csv"),
        (lambda place: place.images() | {"root": "photo"}, "fairdeploy.yaml:29:3: 'data.root': no such folder: photo"),
        (lambda place: place.images() | {"columns": {"path": "file"}}, "labels.csv: no column 'file' (data.columns.path)"),
        (lambda place: place.images(tone=None), "labels.csv: no column 'tone' (attribute under groups)"),
        (lambda place: place.images(person=None), "labels.csv: no column 'person' (cluster under groups)"),
        (lambda place: place.images(label=None), "labels.csv: no column 'label' (data.columns.label)"),
        (lambda place: place.images(label=changed(BASE["label"], 4, 2)), "labels.csv:6: column 'label': '2' is no class"),
        (lambda place: place.images(label=changed(BASE["label"], 4, "")), "labels.csv:6: column 'label' is empty"),
        (
            lambda place: place.images(label=changed(["negative", "positive"] * 20, 4, "postive")),
            "labels.csv:6: column 'label': 'postive' is no class: expected negative, positive, or indices from 0 to 1",
        ),
        (
            lambda place: place.images(tone=changed(BASE["tone"], 4, "Dark")),
            "labels.csv:6: column 'tone': 'Dark' is not a declared level; did you mean 'dark'?",
        ),
        (lambda place: place.images(site=changed(BASE["site"], 4, "")), "labels.csv:6: column 'site' is empty"),
        (lambda place: place.images(person=changed(BASE["person"], 4, "")), "labels.csv:6: column 'person' is empty"),
        (
            lambda place: place.images(split=["train", "test"] * 20),
            "labels.csv:3: column 'split': 'test' is none of them; known: calibrate, evaluate, prune, train, tune",
        ),
        (
            lambda place: place.images(split=["train", "evaluate"] * 20),
            "labels.csv: 40 rows leave the split prune without any: column 'split' names none",
        ),
        (
            lambda place: place.images(split=["train"] * 40) | {"shares": {"train": 0.65, "evaluate": 0.1}},
            "labels.csv: column 'split' and data.shares would both decide",
        ),
        (
            lambda place: place.images(person=["one"] * 40),
            "labels.csv: 40 rows leave the split prune without any: give more rows or clusters",
        ),
        (lambda place: place.images(path=paths(4, "../labels.csv")), "labels.csv:6: column 'path': '../labels.csv' leaves"),
        (lambda place: place.images(path=paths(4, "a/../../x.png")), "labels.csv:6: column 'path': 'a/../../x.png' leaves"),
        (lambda place: place.images(path=paths(4, "/etc/passwd")), "labels.csv:6: column 'path': '/etc/passwd' leaves"),
        (lambda place: place.images(path=paths(4, "4.pgn")), "labels.csv:6: column 'path': no such file: photos/4.pgn"),
        (lambda place: place.images(path=paths(4, "2.png")), "column 'path': '2.png' stands at "),
        (
            lambda place: place.images(id=changed([*range(40)], 4, 2)),
            "labels.csv, line 4 already: each row needs an id of its own",
        ),
        (spoilt_image("0.png", b"<svg/>"), "labels.csv:2: photos/0.png is no image in JPEG, PNG, WEBP, BMP or TIFF format"),
        (spoilt_image("0.png", b""), "labels.csv:2: photos/0.png is no image"),
        (spoilt_image("0.png", png(pixels(0))[:-30]), "labels.csv:2: photos/0.png does not decode: "),
        (
            spoilt_image("0.png", png(np.zeros((5, 6, 3), np.uint8))),
            "labels.csv:2: photos/0.png is 6 x 5 pixels, the model's input 6 x 4: scale the images, or say resize:",
        ),
        (spoilt_image("0.png", png(np.zeros((4, 6), np.uint16))), "photos/0.png has the mode I;16: expected 8-bit RGB"),
        (spoilt_image("0.png", png(np.zeros((4, 6, 4), np.uint8))), "photos/0.png is transparent"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_folder_of_images_is_told(place: Place, spoil: Spoil, said: str) -> None:
    assert said in told(place, spoil(place))


def test_ten_thousand_groups_are_too_many(place: Place) -> None:
    many = [f"g{at}" for at in range(10_000)]
    rest = {"label": [0, 1] * 5000, "tone": ["dark"] * 10_000, "site": ["north"] * 10_000, "person": many,
            "age": [1] * 10_000, "hours": many}  # fmt: skip
    for column in ("tone", "site"):
        data = place.table(**(rest | {column: many}))
        said = told(place, data, model=PROJECT["model"] | {"inputs": FEATURES})
        assert said.startswith(f"rows.csv:502: column '{column}' holds 10,000 different values, at most 500")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda place: place.table(age=changed([1.5] * 40, 4, "NaN")), "rows.csv:6: column 'age' is 'NaN': expected a finite"),
        (lambda place: place.table(age=changed([1.5] * 40, 4, "")), "rows.csv:6: column 'age' is empty: fill it in"),
        (lambda place: place.table(age=changed([1.5] * 40, 4, "old")), "rows.csv:6: column 'age' is 'old': expected a finite"),
        (lambda place: place.table(age=changed([1.5] * 40, 4, 1e39)), "rows.csv:6: column 'age' is '1e+39'"),
        (lambda place: place.table("parquet", age=changed([1.5] * 40, 4, None)), "rows.parquet: row 5: column 'age' is empty"),
        (lambda place: place.table(age=None), "rows.csv: no column 'age' (data.inputs)"),
        (lambda place: place.table() | {"inputs": {"features": ["age"]}}, "'data.inputs.features' lists 1 columns, but model.inputs declares [batch, 2]"),
        (lambda place: place.table() | {"inputs": {"other": ["age", "hours"]}}, "'data.inputs.features' lists 0 columns"),
        (lambda place: place.table() | {"inputs": {"features": ["age", "label"]}}, "inputs.features lists 'label', which is not known"),
        (lambda place: place.table() | {"file": "data.npz"} if place.npz() else {}, "data.npz: is an npz file: say format: npz"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_table_is_told(place: Place, spoil: Spoil, said: str) -> None:
    assert said in told(place, spoil(place), model=PROJECT["model"] | {"inputs": FEATURES})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "rows.csv: is empty: expected a header"),
        ("label,tone,site,person,age,hours\n", "rows.csv: has no rows"),
        ("label,tone,site,person,age,hours\n0,dark,north,p,1,2\n1,dark,north\n", "rows.csv:3: 3 cells, but the header has 6"),
    ],
)
def test_tables_without_rows_or_of_another_shape_are_told(place: Place, content: str, said: str) -> None:
    data = place.table()
    (place.folder / "rows.csv").write_text(content)
    assert told(place, data, model=PROJECT["model"] | {"inputs": FEATURES}).startswith(said)


IMAGE = np.zeros((ROWS, 3, 4, 6), np.float32)


def with_nan() -> NDArray[np.float32]:
    values = np.random.default_rng(0).random((ROWS, 3, 4, 6), np.float32)
    values[7, 2, 3, 5] = np.nan
    return values


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image": None}, "data.npz: has no array 'image' for the model's input of that name; it has label, person"),
        ({"image": IMAGE[:30]}, "data.npz: column 'image' has 30 rows, but 'person' has 40: they must be aligned"),
        ({"image": IMAGE[:, :2]}, "data.npz: array 'image' has the shape [40, 2, 4, 6]; model.inputs declares [n, 3, 4, 6]"),
        ({"image": IMAGE.astype(str)}, "data.npz: array 'image' is <U32: expected numbers"),
        ({"image": np.asfortranarray(IMAGE)}, "data.npz: array 'image' lies column by column"),
        ({"image": with_nan()}, "data.npz: row 8: input 'image' holds NaN, infinity or a number beyond float32"),
        ({"tone": np.array(["dark"] * 30)}, "data.npz: column 'tone' has 30 rows, but"),
        ({"tone": np.zeros((40, 2))}, "data.npz: column 'tone' holds float64 [40, 2]: expected one text"),
        ({"label": np.array([0, 1, 5, 1] * 10)}, "data.npz: row 3: column 'label': '5' is no class"),
    ],
)
def test_what_is_wrong_with_an_npz_file_is_told(place: Place, changes: dict[str, Any], said: str) -> None:
    assert said in told(place, place.npz(**changes))


def test_pickled_arrays_are_not_opened(place: Place) -> None:
    data = place.npz()
    for name in ("tone", "image"):
        given = dict(np.load(place.folder / "data.npz")) | {name: np.array([{}] * ROWS)}
        np.savez(place.folder / "pickled.npz", allow_pickle=True, **given)
        said = told(place, data | {"file": "pickled.npz"})
        assert said == f"pickled.npz: column '{name}' holds pickled objects: save it as one array of text, numbers or booleans"


def test_a_damaged_npz_file_is_told(place: Place) -> None:
    data = place.npz(compressed=True)
    whole = (place.folder / "data.npz").read_bytes()
    with zipfile.ZipFile(place.folder / "data.npz") as archive:
        at = archive.getinfo("image.npy").header_offset + 400
    for content in (whole[:-100], b"PK", whole[:at] + bytes(64) + whole[at + 64 :]):
        (place.folder / "data.npz").write_bytes(content)
        assert told(place, data).startswith("data.npz: cannot be read as npz: ")


def rewritten(place: Place, change: Callable[[pa.Table], pa.Table]) -> dict[str, Any]:
    folder = place.folder / "rows"
    folder.mkdir()
    for file in (HUB / "rows").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    for file in folder.glob("*.arrow"):
        table = change(pa.ipc.open_stream(file.read_bytes()).read_all())
        with pa.OSFile(str(file), "wb") as stream, pa.ipc.new_stream(stream, table.schema) as writer:
            writer.write_table(table)
    return {"format": "hf", "path": "rows", "shares": EVENLY}


def set_column(name: str, values: list[Any]) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(table.schema.get_field_index(name), name, pa.array(values))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: table, ""),
        (lambda table: table.drop_columns("features"), "rows: has no column 'features' for the model's input of that name"),
        (set_column("features", [[1.0, 2.0]] * 5 + [[1.0]]), "rows: row 12: column 'features' has 1 values where model.inputs declares 2"),
        (set_column("features", [[1.0, 2.0]] * 5 + [None]), "rows: row 12: column 'features' has 0 values"),
        (set_column("features", [[1.0, 2.0]] * 5 + [[1.0, None]]), "rows: row 12: input 'features' holds NaN"),
        (set_column("features", [["a", "b"]] * 6), "column 'features' holds string: expected numbers"),
        (set_column("features", [1.0] * 6), "column 'features' holds double: expected lists of the shape [2]"),
        (set_column("image", [{"bytes": b"GIF89a", "path": None}] * 6), "column 'image' is no image in JPEG"),
        (set_column("image", [{"bytes": None, "path": "x.png"}] * 6), "column 'image' holds no image, or only the name"),
        (set_column("label", [7] * 6), "column 'label': '7' is no class"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_hugging_face_dataset_is_told(
    place: Place, change: Callable[[pa.Table], pa.Table], said: str
) -> None:
    data, wanted = rewritten(place, change), hub(place, image=[3, 4, 4], features=[2])
    if said:
        assert said in told(place, data, **wanted)
    else:
        assert len(place.read(data, **wanted)) == 12


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("state.json", "{", "rows/state.json: cannot be read as JSON"),
        ("state.json", '{"_data_files": [{"filename": "../x.arrow"}]}', "rows/state.json: names no data files, or files of"),
        ("dataset_dict.json", '{"splits": [".."]}', "rows/dataset_dict.json: names no splits"),
        ("data-00001-of-00002.arrow", "PAR1", "rows/data-00001-of-00002.arrow: cannot be read as an Arrow stream"),
    ],
)
def test_a_damaged_hugging_face_dataset_is_told(place: Place, name: str, content: str, said: str) -> None:
    data = rewritten(place, lambda table: table)
    (place.folder / "rows" / name).write_text(content)
    assert told(place, data, **hub(place, features=[2])).startswith(said)


def test_a_folder_that_is_no_dataset_is_told(place: Place) -> None:
    place.images()
    said = told(place, {"format": "hf", "path": "photos"}, **hub(place, features=[2]))
    assert said == "photos: is no Hugging Face dataset on disk: save_to_disk writes a state.json or dataset_dict.json"


@pytest.mark.parametrize(
    ("data", "line", "said"),
    [
        ("{format: npz, file: a.npz, root: photos}", 4, "unknown key 'data.root'; known: columns, file, format, note, shares"),
        ("{format: npz, import: 'm:splits'}", 4, "give either 'import: package.module:function' or 'format:' with"),
        ("{format: zip, file: a.zip}", 4, "give either 'import: package.module:function' or 'format:' with"),
        ("{file: a.npz}", 4, "give either"),
        ("{format: npz, format: hf}", 4, "duplicate key"),
        ("{format: npz, files: a.npz}", 4, "unknown key 'data.files'; did you mean 'file'? known: columns, file"),
        ("{format: npz, file: 3}", 4, "data.file"),
        ("{format: imagefolder, root: a, table: b, resize: fit}", 4, "'data.resize' is 'fit'"),
        ("{format: npz, file: a, shares: {train: 0.9}}", 4, "'data.shares': shares add up to 1.45, not 1 (train 0.9"),
        ("{format: npz, file: a, shares: {train: 0}}", 4, "data.shares.train"),
        ("{import: 'm:splits', file: a.npz}", 4, "unknown key 'data.file'; did you mean 'files'? known: arguments, files, import"),
        ("npz", 4, "give either"),
    ],
)  # fmt: skip
def test_mixed_and_wrong_keys_point_at_their_line(place: Place, data: str, line: int, said: str) -> None:
    config = f"version: 1\nname: shop\ntask: binary-classification\ndata: {data}\n"
    (place.folder / "fairdeploy.yaml").write_text(config)
    found: list[ConfigError] = []
    try:
        found += yamlfile.problems(Project, yamlfile.read(place.folder / "fairdeploy.yaml"))
    except ConfigError as error:
        found.append(error)
    about = [error for error in found if said in str(error)]
    assert [error.line for error in about] == [line], [str(error) for error in found]
    assert about[0].column


def test_validate_finds_what_is_missing_before_anything_runs(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.project(place.images(tone=None))
    assert main(["validate", "-C", str(place.folder)]) == 2
    assert "labels.csv: no column 'tone' (attribute under groups)" in capsys.readouterr().out.replace("\n", " ")
    place.project(place.images())
    assert main(["validate", "-C", str(place.folder)]) == 0


def test_a_missing_library_names_its_extra(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingExtra, match=r"reading images needs the extra 'images': pip install 'fairdeploy\[images\]'"):
        place.splits(place.images())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"fairdeploy\[hf\]"):
        place.splits({"format": "hf", "path": str(HUB / "rows"), "shares": EVENLY}, **hub(place, features=[2]))
