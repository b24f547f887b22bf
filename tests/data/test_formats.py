"""Each declared format gives the rows and inputs that stand in its files."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fairdeploy.data import SPLITS, load_splits, source_identity
from tests.data.places import (
    EVENLY,
    FEATURES,
    HUB,
    PROJECT,
    ROWS,
    Place,
    hub,
    pixels,
    told,
)


def test_a_folder_of_images_and_a_table(place: Place) -> None:
    found = place.read(place.images())
    assert len(found) == ROWS
    for at in (0, 7):
        np.testing.assert_array_equal(
            found[f"{'a/' if at % 2 else ''}{at}.png"]["image"], pixels(at).transpose(2, 0, 1)
        )
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
    tones = {
        row: tone
        for split in splits.values()
        for row, tone in zip(split.rows.ids.tolist(), split.rows.attributes["tone"].tolist(), strict=True)
    }
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
