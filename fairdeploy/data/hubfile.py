"""Hugging Face datasets on disk, as ``save_to_disk`` leaves them: Arrow streams named by a ``state.json``.

They are read with pyarrow alone, batch by batch; the library that wrote them is not needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fairdeploy.data.images import decode
from fairdeploy.data.splits import Batch
from fairdeploy.data.tables import Chunk, Table, first_line
from fairdeploy.errors import DataError, MissingExtra
from fairdeploy.source import Resize

SPLIT = "split"


def hub_files(folder: Path) -> list[Path]:
    """Return the files that hold a dataset's rows and the names of its classes."""
    return [file for part in _parts(folder) for file in (*_arrow_files(folder, part), _info(folder, part))]


def hub_table(folder: Path) -> Table:
    """Open a dataset; of a ``DatasetDict`` all parts, one after the other, with their names in the column ``split``.

    Columns of ``ClassLabel`` hold the names of the classes.

    Raises
    ------
    DataError
        If the folder holds no dataset.
    MissingExtra
        If pyarrow is not installed.
    """
    _require_arrow()
    parts = _parts(folder)
    names = _class_names(folder, parts[0])
    columns = _columns(folder, parts)

    def read(wanted: Sequence[str]) -> Iterator[Chunk]:
        for part, batch in _batches(folder, parts):
            known = batch.schema.names
            yield {
                name: _scalars(batch.column(name), names.get(name)) if name in known else [part] * batch.num_rows
                for name in wanted
            }

    return Table(folder, (*columns, *((SPLIT,) if parts != [None] else ())), read)


def check_inputs(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Refuse a dataset without a column for each input; return whether one holds images.

    Raises
    ------
    DataError
        Naming the input, and the columns that there are.
    """
    columns = _columns(folder, _parts(folder))
    for name in shapes:
        if name not in columns:
            raise DataError(
                f"has no column '{name}' for the model's input of that name; it has {', '.join(columns)}", file=folder
            )
    return any(_is_image(columns[name]) for name in shapes)


def hub_inputs(
    table: Table,
    shapes: Mapping[str, tuple[int, ...]],
    positions: NDArray[np.int64],
    size: int,
    resize: Resize | None,
) -> Iterator[Batch]:
    """Yield the inputs of the rows at `positions` (ascending), at most `size` at a time.

    Raises
    ------
    DataError
        If a row has another shape, is no number, or an image does not decode.
    """
    assert table.file is not None
    start = 0
    for _, batch in _batches(table.file, _parts(table.file)):
        inside = positions[slice(*np.searchsorted(positions, (start, start + batch.num_rows)))]
        for first in range(0, len(inside), size):
            rows = inside[first : first + size]
            chosen = batch.take(_require_arrow().array(rows - start))
            yield {
                name: _Input(table, name, shape, rows).values(chosen.column(name), resize)
                for name, shape in shapes.items()
            }
        start += batch.num_rows


class _Input(NamedTuple):
    """One input of some rows, to be read from an Arrow column."""

    table: Table
    name: str
    shape: tuple[int, ...]
    rows: NDArray[np.int64]

    def values(self, column: Any, resize: Resize | None) -> NDArray[Any]:
        if _is_image(column.type):
            return np.stack([self._image(at, value, resize) for at, value in enumerate(column.to_pylist())])
        return self._numbers(getattr(column, "storage", column))

    def _image(self, at: int, value: Any, resize: Resize | None) -> NDArray[np.uint8]:
        content = value and value.get("bytes")
        if content is None:
            raise self._error(at, "holds no image, or only the name of its file: save it with the images inside")
        return decode(content, self.shape, resize, error=lambda message: self._error(at, message))

    def _numbers(self, column: Any) -> NDArray[Any]:
        from pyarrow import compute, types

        rows = len(self.rows)
        per_row = 1
        for size in self.shape:
            if not (
                types.is_list(column.type) or types.is_large_list(column.type) or types.is_fixed_size_list(column.type)
            ):
                raise self._error(0, f"holds {column.type}: expected lists of the shape {list(self.shape)}")
            lengths = compute.fill_null(compute.list_value_length(column), 0).to_numpy(zero_copy_only=False)
            wrong = np.flatnonzero(lengths != size)
            if len(wrong):
                at = int(wrong[0]) // per_row
                raise self._error(
                    at, f"has {lengths[wrong[0]]} values where model.inputs declares {size}, as in {list(self.shape)}"
                )
            per_row *= size
            column = column.flatten()
        values = column.to_numpy(zero_copy_only=False)
        if values.dtype.kind not in "uif":
            raise self._error(0, f"holds {column.type}: expected numbers")
        return np.asarray(values).reshape(rows, *self.shape)

    def _error(self, at: int, message: str) -> DataError:
        return self.table.error(f"column '{self.name}' {message}", int(self.rows[at]))


def _parts(folder: Path) -> list[str | None]:
    """Return the names of a ``DatasetDict``'s parts; of one dataset only None."""
    if (folder / "dataset_dict.json").is_file():
        parts = _json(folder / "dataset_dict.json").get("splits")
        if (
            not isinstance(parts, list)
            or not parts
            or not all(isinstance(one, str) and _is_plain(one) for one in parts)
        ):
            raise DataError("names no splits, or not as text", file=folder / "dataset_dict.json")
        return list(parts)
    if not (folder / "state.json").is_file():
        raise DataError(
            "is no Hugging Face dataset on disk: save_to_disk writes a state.json or dataset_dict.json",
            file=folder,
        )
    return [None]


def _arrow_files(folder: Path, part: str | None) -> list[Path]:
    state = folder / (part or "") / "state.json"
    found = _json(state).get("_data_files")
    names = [one.get("filename") for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    if not names or not all(map(_is_plain, names)):
        raise DataError("names no data files, or files of another folder", file=state)
    return [state.parent / str(name) for name in names]


def _info(folder: Path, part: str | None) -> Path:
    return folder / (part or "") / "dataset_info.json"


def _is_plain(name: Any) -> bool:
    return isinstance(name, str) and name not in ("", ".", "..") and Path(name).name == name


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read as JSON: {first_line(error)}", file=file) from None
    if not isinstance(found, dict):
        raise DataError("is no JSON object", file=file)
    return found


def _class_names(folder: Path, part: str | None) -> dict[str, list[str]]:
    features = _json(_info(folder, part)).get("features")
    labels = {
        column: feature["names"]
        for column, feature in (features.items() if isinstance(features, dict) else ())
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    }
    return {column: list(map(str, names)) for column, names in labels.items() if isinstance(names, list)}


def _columns(folder: Path, parts: list[str | None]) -> dict[str, Any]:
    """Return the Arrow type of each column, which all parts share."""
    schemas = []
    for part in parts:
        for file in _arrow_files(folder, part):
            with _opened(file) as reader:
                schemas.append((file, {field.name: field.type for field in reader.schema}))
    for file, columns in schemas[1:]:
        if columns != schemas[0][1]:
            raise DataError(f"has other columns than {schemas[0][0].name}", file=file)
    return schemas[0][1]


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    arrow = _require_arrow()
    try:
        with arrow.OSFile(str(file)) as stream, arrow.ipc.open_stream(stream) as reader:
            yield reader
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"cannot be read as an Arrow stream: {first_line(error)}", file=file) from None


def _require_arrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise MissingExtra("reading a Hugging Face dataset", "hf") from None
    return pyarrow


def _batches(folder: Path, parts: list[str | None]) -> Iterator[tuple[str | None, Any]]:
    for part in parts:
        for file in _arrow_files(folder, part):
            with _opened(file) as reader:
                for batch in reader:
                    yield part, batch


def _scalars(column: Any, classes: list[str] | None) -> list[Any]:
    values: list[Any] = column.to_pylist()
    if classes is None:
        return values
    return [classes[value] if isinstance(value, int) and 0 <= value < len(classes) else value for value in values]


def _is_image(kind: Any) -> bool:
    from pyarrow import types

    return types.is_struct(kind) and {field.name for field in kind} == {"bytes", "path"}
