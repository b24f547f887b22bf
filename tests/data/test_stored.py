"""A stored split holds what the stream gave, in constant memory, and nothing is half-written."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fairdeploy.data import GroupCount, Rows, Split, StoredSplit, count_groups, materialise
from fairdeploy.errors import ConfigError, DataError, IntegrityError
from fairdeploy.model import ModelSpec, TensorSpec
from fairdeploy.project import Groups

MakeSplit = Callable[..., Split]
GROUPS = Groups(attributes={"tone": ("light", "dark")}, contexts=("site",), cluster="person")


@pytest.fixture
def store(tmp_path: Path, spec: ModelSpec, groups: Groups) -> Callable[..., StoredSplit]:
    return lambda split, name="tune": materialise(split, tmp_path / name, spec=spec, groups=groups)


def test_a_split_comes_back_as_it_was_streamed(store: Any, make_split: MakeSplit, tmp_path: Path) -> None:
    values = np.random.default_rng(1).normal(size=(700, 3, 2)).astype(np.float32)
    split = make_split(700, values=values)
    stored = store(split)
    again = StoredSplit.load(tmp_path / "tune")
    for one in (stored, again):
        np.testing.assert_array_equal(one.inputs["image"], values)
        np.testing.assert_array_equal(one.rows.ids, split.rows.ids)
        np.testing.assert_array_equal(one.rows.labels, split.rows.labels)
        np.testing.assert_array_equal(one.rows.clusters, split.rows.clusters)  # type: ignore[arg-type]
        np.testing.assert_array_equal(one.rows.contexts["site"], split.rows.contexts["site"])
        assert set(one.rows.attributes["tone"]) == {"light", "dark", "unknown"}
        assert isinstance(one.inputs["image"], np.memmap)
        assert one.fingerprint == stored.fingerprint
    first = hashlib.blake2b(values[0].tobytes(), digest_size=16).hexdigest()
    assert stored.row_digests[0] == first.encode()


def test_the_same_split_gives_the_same_bytes(store: Any, make_split: MakeSplit) -> None:
    one, two = store(make_split(), "one"), store(make_split(), "two")
    files = sorted(file.name for file in one.folder.iterdir())
    assert files == ["image.npy", "meta.json", "rows.npz"]
    for name in files:
        assert (one.folder / name).read_bytes() == (two.folder / name).read_bytes()


@given(sizes=st.lists(st.integers(0, 7), max_size=12), seed=st.integers(0, 3))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_however_the_stream_is_cut_the_result_is_one(
    sizes: list[int], seed: int, tmp_path: Path, make_split: MakeSplit, spec: ModelSpec
) -> None:
    values = np.random.default_rng(seed).integers(0, 256, (20, 3, 2), np.uint8)
    split = make_split(20, values=values)

    def cut(size: int) -> Iterator[dict[str, NDArray[Any]]]:
        ends = np.minimum(np.cumsum([*sizes, 20]), 20)
        for start, end in zip([0, *ends], ends, strict=False):
            yield {"image": values[start:end]}

    whole = materialise(split, tmp_path / "whole", spec=spec, groups=GROUPS)
    pieces = materialise(Split(split.rows, cut), tmp_path / "pieces", spec=spec, groups=GROUPS)
    assert pieces.fingerprint == whole.fingerprint
    np.testing.assert_array_equal(pieces.inputs["image"], values)


def test_the_fingerprint_sees_every_value(store: Any, make_split: MakeSplit) -> None:
    base = make_split()
    rows = base.rows
    tone, site = rows.attributes["tone"].copy(), rows.contexts["site"].copy()
    tone[3], site[3] = "dark", "south" if site[3] == "north" else "north"
    values = next(base.batches(10))["image"].copy()
    values[9, 2, 1] ^= 1
    variants = [
        base,
        make_split(ids=np.array([*"abcdefghij"])),
        make_split(labels=1 - rows.labels),
        make_split(attributes={"tone": tone}),
        make_split(contexts={"site": site}),
        make_split(clusters=np.roll(rows.clusters, 1)),  # type: ignore[arg-type]
        make_split(values=values),
        make_split(values=next(base.batches(10))["image"].astype(np.float32)),
    ]
    assert len({store(split, str(i)).fingerprint for i, split in enumerate(variants)}) == len(variants)


def test_memory_does_not_grow_with_the_inputs(tmp_path: Path, groups: Groups, make_split: MakeSplit) -> None:
    n, shape = 4096, (3, 64, 64)
    spec = ModelSpec(task="binary-classification", inputs={"image": TensorSpec(shape=("batch", *shape))})

    def batches(size: int) -> Iterator[dict[str, NDArray[Any]]]:
        for start in range(0, n, size):
            yield {"image": np.full((min(size, n - start), *shape), start % 251, np.uint8)}

    tracemalloc.start()
    stored = materialise(Split(make_split(n).rows, batches), tmp_path / "big", spec=spec, groups=groups)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert stored.inputs["image"].nbytes == n * 3 * 64 * 64 > 50e6
    assert peak_bytes < 20e6


def test_progress_counts_rows(tmp_path: Path, make_split: MakeSplit, spec: ModelSpec, groups: Groups) -> None:
    told: list[tuple[int, int]] = []
    materialise(
        make_split(600), tmp_path / "x", spec=spec, groups=groups, progress=lambda done, n: told.append((done, n))
    )
    assert told == [(256, 600), (512, 600), (600, 600)]


def _float(shape: tuple[int, ...] = (10, 3, 2)) -> NDArray[np.float32]:
    return np.ones(shape, np.float32)


def _with(value: float) -> NDArray[np.float32]:
    values = _float()
    values[7, 1, 1] = value
    return values


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (_with(np.nan), r"input 'image', row 7 \('tune-7'\): NaN or infinity"),
        (_with(-np.inf), r"input 'image', row 7 \('tune-7'\): NaN or infinity"),
        (_float((10, 2, 3)), r"shape \[10, 2, 3\], model.inputs declares \[n, 3, 2\]"),
        (_float((10, 6)), r"shape \[10, 6\], model.inputs declares"),
        (_float((9, 3, 2)), "the batches end after 9 rows, but 10 have an id"),
        (_float((0, 3, 2)), "the batches end after 0 rows"),
        (_float((11, 3, 2)), "more than the 10 rows that have an id"),
        (_float().astype(np.float64), "float64; give uint8 or float32"),
        (_float().astype(object), "object; give uint8 or float32"),
    ],
)
def test_wrong_inputs_are_told_and_nothing_stays(
    store: Any, make_split: MakeSplit, tmp_path: Path, values: NDArray[Any], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        store(make_split(values=values))
    assert list((tmp_path / "tune").iterdir()) == []


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        ([{"picture": np.zeros((10, 3, 2), np.uint8)}], "a batch holds picture; model.inputs declares image"),
        ([np.zeros((10, 3, 2), np.uint8)], "a batch holds ndarray; model.inputs declares image"),
        ([{}], "a batch holds nothing"),
        ([{"image": np.uint8(3)}], r"shape \[\]"),
        (
            [{"image": np.zeros((5, 3, 2), np.uint8)}, {"image": np.zeros((5, 3, 2), np.float32)}],
            "after row 5: float32; give uint8, as in the rows before",
        ),
    ],
)
def test_wrong_batches_are_told(store: Any, make_split: MakeSplit, batches: list[Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        store(Split(make_split().rows, lambda size: iter(batches)))


def test_inputs_of_unequal_length_are_told(tmp_path: Path, make_split: MakeSplit, groups: Groups) -> None:
    spec = ModelSpec(
        task="binary-classification",
        inputs={"left": TensorSpec(shape=("batch", 2)), "right": TensorSpec(shape=("batch", 2))},
    )
    batch = {"left": np.zeros((10, 2), np.uint8), "right": np.zeros((9, 2), np.uint8)}
    with pytest.raises(DataError, match="different numbers of rows"):
        materialise(Split(make_split().rows, lambda size: iter([batch])), tmp_path / "x", spec=spec, groups=groups)


def test_an_error_while_streaming_points_at_the_users_line(store: Any, make_split: MakeSplit, tmp_path: Path) -> None:
    def batches(size: int) -> Iterator[dict[str, NDArray[Any]]]:
        yield {"image": np.zeros((5, 3, 2), np.uint8)}
        raise OSError("camera gone")

    with pytest.raises(ConfigError, match="reading batches failed: OSError: camera gone") as caught:
        store(Split(make_split().rows, batches))
    assert caught.value.file == Path(__file__)
    assert list((tmp_path / "tune").iterdir()) == []


def test_wrong_rows_are_refused_before_anything_is_read(store: Any, make_split: MakeSplit, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="labels"):
        store(make_split(labels=np.full(10, 2)))
    assert not (tmp_path / "tune").exists()


@pytest.mark.parametrize("size", [1, 3, 10, 99])
def test_stored_batches_cover_all_rows_in_order(store: Any, make_split: MakeSplit, size: int) -> None:
    stored = store(make_split())
    parts = [batch["image"] for batch in stored.batches(size)]
    assert all(len(part) <= size for part in parts)
    np.testing.assert_array_equal(np.concatenate(parts), stored.inputs["image"])


def _spoil_rows(folder: Path) -> None:
    with np.load(folder / "rows.npz") as file:
        columns = dict(file)
    columns["label"] = 1 - columns["label"]
    np.savez(folder / "rows.npz", **columns)


@pytest.mark.parametrize(
    "spoil",
    [
        _spoil_rows,
        lambda folder: (folder / "meta.json").unlink(),
        lambda folder: (folder / "image.npy").unlink(),
        lambda folder: (folder / "image.npy").write_bytes(b""),
        lambda folder: (folder / "rows.npz").write_bytes(b"PK"),
        lambda folder: np.save(folder / "image.npy", np.zeros((10, 3, 3), np.uint8)),
        lambda folder: np.save(folder / "image.npy", np.zeros((10, 3, 2), np.float32)),
        lambda folder: np.save(folder / "image.npy", np.array([{}] * 10), allow_pickle=True),
    ],
)
def test_a_damaged_split_is_refused(store: Any, make_split: MakeSplit, spoil: Callable[[Path], None]) -> None:
    stored = store(make_split())
    spoil(stored.folder)
    with pytest.raises(IntegrityError, match=str(stored.folder)):
        StoredSplit.load(stored.folder)


def test_groups_are_counted_with_those_that_nobody_has(make_split: MakeSplit, tmp_path: Path, spec: ModelSpec) -> None:
    groups = Groups(attributes={"tone": ("light", "dark", "green")})
    stored = materialise(make_split(10), tmp_path / "x", spec=spec, groups=groups)
    assert count_groups(stored, groups) == [
        GroupCount("tone", "light", 4), GroupCount("tone", "dark", 3),
        GroupCount("tone", "green", 0), GroupCount("tone", "unknown", 3),
    ]  # fmt: skip
    full = make_split(4, attributes={"tone": np.array(["dark"] * 4)})
    stored = materialise(full, tmp_path / "y", spec=spec, groups=groups)
    assert [count.level for count in count_groups(stored, groups)] == ["light", "dark", "green"]


def test_rows_take_keeps_columns_together(make_rows: Callable[..., Rows]) -> None:
    rows = make_rows(6).take(np.array([5, 0]))
    assert rows.ids.tolist() == ["tune-5", "tune-0"]
    assert rows.labels.tolist() == [1, 0]
    assert rows.clusters is not None
    assert rows.clusters.tolist() == ["tune-person-2", "tune-person-0"]
