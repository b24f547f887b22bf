"""`StoredSplit`: a split on disk, its inputs memory-mapped, its contents fingerprinted.

::

    <folder>/
      rows.npz         ids, labels, attributes, contexts, clusters, digest of each row's inputs
      <input>.npy      raw values [n, ...] of one input
      meta.json        StoredMeta, written last: a folder without it is no split
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fairdeploy.data.checks import checked_rows
from fairdeploy.data.splits import UNKNOWN, Batch, Rows, Split
from fairdeploy.errors import DataError, IntegrityError
from fairdeploy.model import ModelSpec
from fairdeploy.project import Groups
from fairdeploy.records import Record, digest
from fairdeploy.usercode import user_errors

BATCH_ROWS = 256
BATCH_BYTES = 2**24
DTYPES = ("uint8", "float32")


class StoredMeta(Record):
    """What `meta.json` holds: the fingerprint over rows and contents, and each input's dtype and shape of one row."""

    fingerprint: str
    rows: int
    dtypes: dict[str, str]
    row_shapes: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class StoredSplit:
    """Rows and memory-mapped inputs.

    Attributes
    ----------
    folder : Path
    rows : Rows
        Checked; missing attribute values are ``unknown``.
    inputs : dict of str to array [n, ...]
        Raw values, read from disk as they are touched.
    fingerprint : str
        SHA-256 over rows and contents, as 64 hexadecimal digits.
    row_digests : array of bytes [n]
        BLAKE2b-128 of each row's inputs, as 32 hexadecimal digits.
    """

    folder: Path
    rows: Rows
    inputs: Mapping[str, NDArray[np.generic]]
    fingerprint: str
    row_digests: NDArray[np.bytes_]

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def load(cls, folder: Path) -> StoredSplit:
        """Open a split that `materialise` wrote.

        Raises
        ------
        IntegrityError
            If a file is missing, damaged, or does not fit the others.
        """
        meta = StoredMeta.load(folder / "meta.json")
        try:
            rows, row_digests = _read_rows(folder / "rows.npz")
            inputs = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in meta.dtypes}
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise IntegrityError(f"{folder}: not a stored split ({error})") from error
        for name, values in inputs.items():
            if values.shape != (meta.rows, *meta.row_shapes[name]) or values.dtype != meta.dtypes[name]:
                raise IntegrityError(f"{folder}/{name}.npy: {values.dtype} {values.shape} does not fit meta.json")
        if len(rows) != meta.rows or _fingerprint(rows, row_digests, meta) != meta.fingerprint:
            raise IntegrityError(f"{folder}/rows.npz does not fit meta.json")
        return cls(folder, rows, inputs, meta.fingerprint, row_digests)

    def batches(self, size: int) -> Iterator[dict[str, NDArray[np.generic]]]:
        """Yield the inputs by name, at most `size` rows at a time, in order."""
        for start in range(0, len(self), size):
            yield {name: values[start : start + size] for name, values in self.inputs.items()}


class GroupCount(NamedTuple):
    """How many rows one level of one attribute has."""

    attribute: str
    level: str
    rows: int


def count_groups(split: StoredSplit, groups: Groups) -> list[GroupCount]:
    """Count the rows of every declared level, those without any included, and of ``unknown`` where there are some."""
    counts = []
    for attribute, levels in groups.attributes.items():
        values = split.rows.attributes[attribute]
        for level in (*levels, UNKNOWN):
            n = int(np.count_nonzero(values == level))
            if n or level != UNKNOWN:
                counts.append(GroupCount(attribute, level, n))
    return counts


def materialise(
    split: Split,
    out: Path,
    *,
    spec: ModelSpec,
    groups: Groups,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> StoredSplit:
    """Stream a split to disk in constant memory, checking every row.

    Parameters
    ----------
    split : Split
    out : Path
        Folder to write into; left without files if anything is wrong.
    spec : ModelSpec
        The inputs' names and shapes, and the classes.
    groups : Groups
    progress : callable
        Told the rows done and all rows after each batch.

    Raises
    ------
    DataError
        If rows or inputs are wrong: names, shapes, dtypes, count, NaN or infinity.
    ConfigError
        If the user's ``batches`` raises.
    """
    rows = checked_rows(split.rows, split=out.name, classes=len(spec.classes), groups=groups)
    shapes = {name: tensor.row_shape for name, tensor in spec.inputs.items()}
    return _write(rows, _user_batches(split, _at_once(shapes)), out, shapes=shapes, progress=progress)


def _at_once(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return how many rows of float32 a batch may have."""
    row_bytes = 4 * sum(math.prod(shape) for shape in shapes.values())
    return max(1, min(BATCH_ROWS, BATCH_BYTES // row_bytes))


def _user_batches(split: Split, size: int) -> Iterator[Batch]:
    with user_errors("reading batches"):
        stream = iter(split.batches(size))
    while True:
        with user_errors("reading batches"):
            batch = next(stream, None)
        if batch is None:
            return
        yield batch


def _write(
    rows: Rows,
    batches: Iterator[Batch],
    out: Path,
    *,
    shapes: Mapping[str, tuple[int, ...]],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> StoredSplit:
    out.mkdir(parents=True, exist_ok=True)
    writer = _InputWriter(out, rows, shapes)
    try:
        for batch in batches:
            progress(writer.append(batch), len(rows))
        row_digests = writer.finish()
        meta = StoredMeta(fingerprint="", rows=len(rows), dtypes=writer.dtypes, row_shapes=dict(shapes))
        _write_rows(out / "rows.npz", rows, row_digests)
        meta.model_copy(update={"fingerprint": _fingerprint(rows, row_digests, meta)}).save(out / "meta.json")
    except BaseException:
        for file in (*(out / f"{name}.npy" for name in shapes), out / "rows.npz"):
            file.unlink(missing_ok=True)
        raise
    finally:
        writer.close()
    return StoredSplit.load(out)


class _InputWriter:
    """Appends batches to one ``.npy`` file per input; the number of rows is known beforehand."""

    def __init__(self, out: Path, rows: Rows, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._out, self._rows, self._shapes = out, rows, shapes
        self._files: dict[str, BinaryIO] = {}
        self._digests: list[bytes] = []
        self.dtypes: dict[str, str] = {}

    def append(self, batch: Batch) -> int:
        """Check and write one batch; returns the rows written so far."""
        if not isinstance(batch, Mapping) or set(batch) != set(self._shapes):
            given = ", ".join(map(str, batch)) if isinstance(batch, Mapping) else type(batch).__name__
            raise DataError(f"a batch holds {given or 'nothing'}; model.inputs declares {', '.join(self._shapes)}")
        checked = {name: self._checked(name, np.asarray(batch[name])) for name in self._shapes}
        lengths = {len(values) for values in checked.values()}
        if len(lengths) > 1:
            raise DataError(f"after row {len(self._digests)}, the inputs of one batch have different numbers of rows")
        for name, values in checked.items():
            values.tofile(self._files[name])
        self._digests += [
            hashlib.blake2b(b"".join(row), digest_size=16).hexdigest().encode()
            for row in zip(*(_canonical_rows(checked[name]) for name in sorted(checked)), strict=True)
        ]
        return len(self._digests)

    def _checked(self, name: str, values: NDArray[Any]) -> NDArray[Any]:
        done, total, expected = len(self._digests), len(self._rows), self._shapes[name]
        if values.ndim == 0 or values.shape[1:] != expected:
            raise DataError(
                f"input '{name}' after row {done}: shape {list(values.shape)}, model.inputs declares [n, "
                f"{', '.join(map(str, expected))}]"
            )
        dtype = self.dtypes.setdefault(name, str(values.dtype))
        if dtype not in DTYPES or values.dtype != dtype:
            allowed = " or ".join(DTYPES) if dtype not in DTYPES else f"{dtype}, as in the rows before"
            raise DataError(f"input '{name}' after row {done}: {values.dtype}; give {allowed}")
        if done + len(values) > total:
            raise DataError(f"input '{name}': more than the {total} rows that have an id")
        if dtype == "float32":
            broken = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(1))
            if len(broken):
                row = done + int(broken[0])
                raise DataError(f"input '{name}', row {row} ('{self._rows.ids[row]}'): NaN or infinity")
        if name not in self._files:
            self._files[name] = (self._out / f"{name}.npy").open("wb")
            header = {"descr": np.lib.format.dtype_to_descr(values.dtype), "fortran_order": False}
            np.lib.format.write_array_header_1_0(self._files[name], header | {"shape": (total, *expected)})
        return np.ascontiguousarray(values)

    def finish(self) -> NDArray[np.bytes_]:
        """Check the count and return the digest of each row."""
        if len(self._digests) != len(self._rows):
            raise DataError(f"the batches end after {len(self._digests)} rows, but {len(self._rows)} have an id")
        self.close()
        return np.array(self._digests, "S32")

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def _canonical_rows(values: NDArray[Any]) -> Iterator[bytes]:
    """Yield each row's bytes as float32 without negative zeros: equal values are equal whatever their dtype."""
    return ((row.astype(np.float32) + np.float32(0)).tobytes() for row in values)


def _fingerprint(rows: Rows, row_digests: NDArray[np.bytes_], meta: StoredMeta) -> str:
    """Digest every value of every row; contents enter through their digests, dtypes and shapes."""
    columns = {name: hashlib.sha256("\0".join(map(str, values.tolist())).encode()).hexdigest()
               for name, values in _columns(rows).items()}  # fmt: skip
    contents = hashlib.sha256(row_digests.tobytes()).hexdigest()
    return digest([columns, contents, meta.model_dump(mode="json", exclude={"fingerprint"})])


def _columns(rows: Rows) -> dict[str, NDArray[Any]]:
    columns: dict[str, NDArray[Any]] = {"id": rows.ids, "label": rows.labels}
    columns |= {f"attribute.{name}": values for name, values in rows.attributes.items()}
    columns |= {f"context.{name}": values for name, values in rows.contexts.items()}
    return columns if rows.clusters is None else columns | {"cluster": rows.clusters}


def _write_rows(file: Path, rows: Rows, row_digests: NDArray[np.bytes_]) -> None:
    np.savez_compressed(file, allow_pickle=False, row_digest=row_digests, **_columns(rows))


def _read_rows(file: Path) -> tuple[Rows, NDArray[np.bytes_]]:
    with np.load(file, allow_pickle=False) as stored:
        columns = dict(stored)
    parts: dict[str, dict[str, NDArray[np.str_]]] = {"attribute": {}, "context": {}}
    for key, values in columns.items():
        kind, _, name = key.partition(".")
        if kind in parts:
            parts[kind][name] = values
    rows = Rows(columns["id"], columns["label"], parts["attribute"], parts["context"], columns.get("cluster"))
    return rows, columns["row_digest"]
