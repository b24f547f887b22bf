"""Whatever is wrong with data is told in one sentence with file and row or key, and nothing is half-written."""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image

from fairdeploy import yamlfile
from fairdeploy.cli import main
from fairdeploy.errors import ConfigError, MissingExtra
from fairdeploy.project import Project
from tests.data.places import (
    EVENLY,
    FEATURES,
    HUB,
    PROJECT,
    ROWS,
    Place,
    changed,
    columns,
    hub,
    pixels,
    told,
)

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
        (
            lambda place: place.images() | {"table": "lables.csv"},
            "fairdeploy.yaml:30:3: 'data.table': no such file: lables.csv",
        ),
        (lambda place: place.images() | {"root": "photo"}, "fairdeploy.yaml:29:3: 'data.root': no such folder: photo"),
        (
            lambda place: place.images() | {"columns": {"path": "file"}},
            "labels.csv: no column 'file' (data.columns.path)",
        ),
        (lambda place: place.images(tone=None), "labels.csv: no column 'tone' (attribute under groups)"),
        (lambda place: place.images(person=None), "labels.csv: no column 'person' (cluster under groups)"),
        (lambda place: place.images(label=None), "labels.csv: no column 'label' (data.columns.label)"),
        (
            lambda place: place.images(label=changed(BASE["label"], 4, 2)),
            "labels.csv:6: column 'label': '2' is no class",
        ),
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
        (
            lambda place: place.images(path=paths(4, "../labels.csv")),
            "labels.csv:6: column 'path': '../labels.csv' leaves",
        ),
        (
            lambda place: place.images(path=paths(4, "a/../../x.png")),
            "labels.csv:6: column 'path': 'a/../../x.png' leaves",
        ),
        (lambda place: place.images(path=paths(4, "/etc/passwd")), "labels.csv:6: column 'path': '/etc/passwd' leaves"),
        (lambda place: place.images(path=paths(4, "4.pgn")), "labels.csv:6: column 'path': no such file: photos/4.pgn"),
        (lambda place: place.images(path=paths(4, "2.png")), "column 'path': '2.png' stands at "),
        (
            lambda place: place.images(id=changed([*range(40)], 4, 2)),
            "labels.csv, line 4 already: each row needs an id of its own",
        ),
        (
            spoilt_image("0.png", b"<svg/>"),
            "labels.csv:2: photos/0.png is no image in JPEG, PNG, WEBP, BMP or TIFF format",
        ),
        (spoilt_image("0.png", b""), "labels.csv:2: photos/0.png is no image"),
        (spoilt_image("0.png", png(pixels(0))[:-30]), "labels.csv:2: photos/0.png does not decode: "),
        (
            spoilt_image("0.png", png(np.zeros((5, 6, 3), np.uint8))),
            "labels.csv:2: photos/0.png is 6 x 5 pixels, the model's input 6 x 4: scale the images, or say resize:",
        ),
        (spoilt_image("0.png", png(np.zeros((4, 6), np.uint16))), "photos/0.png has the mode I;16: expected 8-bit RGB"),
        (spoilt_image("0.png", png(np.zeros((4, 6, 4), np.uint8))), "photos/0.png is transparent"),
    ],
)
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
        (
            lambda place: place.table(age=changed([1.5] * 40, 4, "NaN")),
            "rows.csv:6: column 'age' is 'NaN': expected a finite",
        ),
        (lambda place: place.table(age=changed([1.5] * 40, 4, "")), "rows.csv:6: column 'age' is empty: fill it in"),
        (
            lambda place: place.table(age=changed([1.5] * 40, 4, "old")),
            "rows.csv:6: column 'age' is 'old': expected a finite",
        ),
        (lambda place: place.table(age=changed([1.5] * 40, 4, 1e39)), "rows.csv:6: column 'age' is '1e+39'"),
        (
            lambda place: place.table("parquet", age=changed([1.5] * 40, 4, None)),
            "rows.parquet: row 5: column 'age' is empty",
        ),
        (lambda place: place.table(age=None), "rows.csv: no column 'age' (data.inputs)"),
        (
            lambda place: place.table() | {"inputs": {"features": ["age"]}},
            "'data.inputs.features' lists 1 columns, but model.inputs declares [batch, 2]",
        ),
        (
            lambda place: place.table() | {"inputs": {"other": ["age", "hours"]}},
            "'data.inputs.features' lists 0 columns",
        ),
        (
            lambda place: place.table() | {"inputs": {"features": ["age", "label"]}},
            "inputs.features lists 'label', which is not known",
        ),
        (
            lambda place: place.table() | {"file": "data.npz"} if place.npz() else {},
            "data.npz: is an npz file: say format: npz",
        ),
    ],
)
def test_what_is_wrong_with_a_table_is_told(place: Place, spoil: Spoil, said: str) -> None:
    assert said in told(place, spoil(place), model=PROJECT["model"] | {"inputs": FEATURES})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "rows.csv: is empty: expected a header"),
        ("label,tone,site,person,age,hours\n", "rows.csv: has no rows"),
        (
            "label,tone,site,person,age,hours\n0,dark,north,p,1,2\n1,dark,north\n",
            "rows.csv:3: 3 cells, but the header has 6",
        ),
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
        (
            {"image": IMAGE[:, :2]},
            "data.npz: array 'image' has the shape [40, 2, 4, 6]; model.inputs declares [n, 3, 4, 6]",
        ),
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
        assert (
            said
            == f"pickled.npz: column '{name}' holds pickled objects: save it as one array of text, numbers or booleans"
        )


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
        (
            lambda table: table.drop_columns("features"),
            "rows: has no column 'features' for the model's input of that name",
        ),
        (
            set_column("features", [[1.0, 2.0]] * 5 + [[1.0]]),
            "rows: row 12: column 'features' has 1 values where model.inputs declares 2",
        ),
        (set_column("features", [[1.0, 2.0]] * 5 + [None]), "rows: row 12: column 'features' has 0 values"),
        (set_column("features", [[1.0, 2.0]] * 5 + [[1.0, None]]), "rows: row 12: input 'features' holds NaN"),
        (set_column("features", [["a", "b"]] * 6), "column 'features' holds string: expected numbers"),
        (set_column("features", [1.0] * 6), "column 'features' holds double: expected lists of the shape [2]"),
        (set_column("image", [{"bytes": b"GIF89a", "path": None}] * 6), "column 'image' is no image in JPEG"),
        (
            set_column("image", [{"bytes": None, "path": "x.png"}] * 6),
            "column 'image' holds no image, or only the name",
        ),
        (set_column("label", [7] * 6), "column 'label': '7' is no class"),
    ],
)
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
        (
            "state.json",
            '{"_data_files": [{"filename": "../x.arrow"}]}',
            "rows/state.json: names no data files, or files of",
        ),
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
        (
            "{format: npz, file: a.npz, root: photos}",
            4,
            "unknown key 'data.root'; known: columns, file, format, note, shares",
        ),
        ("{format: npz, import: 'm:splits'}", 4, "give either 'import: package.module:function' or 'format:' with"),
        ("{format: zip, file: a.zip}", 4, "give either 'import: package.module:function' or 'format:' with"),
        ("{file: a.npz}", 4, "give either"),
        ("{format: npz, format: hf}", 4, "duplicate key"),
        ("{format: npz, files: a.npz}", 4, "unknown key 'data.files'; did you mean 'file'? known: columns, file"),
        ("{format: npz, file: 3}", 4, "data.file"),
        ("{format: imagefolder, root: a, table: b, resize: fit}", 4, "'data.resize' is 'fit'"),
        ("{format: npz, file: a, shares: {train: 0.9}}", 4, "'data.shares': shares add up to 1.45, not 1 (train 0.9"),
        ("{format: npz, file: a, shares: {train: 0}}", 4, "data.shares.train"),
        (
            "{import: 'm:splits', file: a.npz}",
            4,
            "unknown key 'data.file'; did you mean 'files'? known: arguments, files, import",
        ),
        ("npz", 4, "give either"),
    ],
)
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
    with pytest.raises(MissingExtra, match=r"needs the extra 'images': pip install 'fairdeploy\[images\]'"):
        place.splits(place.images())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"fairdeploy\[hf\]"):
        place.splits({"format": "hf", "path": str(HUB / "rows"), "shares": EVENLY}, **hub(place, features=[2]))
