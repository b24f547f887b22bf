"""npz files: columns [n] as a table, and arrays [n, ...] as a stream. Nothing is unpickled, nothing is read whole."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fairdeploy.data.tables import CHUNK_ROWS, Chunk, Table, first_line, refuse_lengths
from fairdeploy.errors import DataError

CHUNK_BYTES = 2**26


class _Header(NamedTuple):
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran_order: bool


def npz_table(file: Path, *, but: Collection[str] = ()) -> Table:
    """Open an npz file of columns [n].

    Parameters
    ----------
    file : Path
    but : collection of str
        Names of arrays that are no columns; they have as many rows.

    Raises
    ------
    DataError
        If the file cannot be read, or an array is no column of text, numbers or booleans.
    """
    headers = {}
    with _archive(file) as archive:
        for name, member in _members(archive).items():
            with archive.open(member) as stream:
                headers[name] = _header(stream, name, file)
    columns = {name: header for name, header in headers.items() if name not in but}
    for name, header in columns.items():
        if len(header.shape) != 1 or header.dtype.kind not in "Uiufb":
            what = f"{header.dtype} {list(header.shape)}"
            raise DataError(f"column '{name}' holds {what}: expected one text, number or boolean per row", file=file)
    lengths = {name: header.shape[0] if header.shape else 0 for name, header in headers.items()}
    refuse_lengths(lengths, file)

    def read(wanted: Sequence[str]) -> Iterator[Chunk]:
        widest = max(columns[name].dtype.itemsize for name in wanted)
        at_once = max(1, min(CHUNK_ROWS, CHUNK_BYTES // max(widest, 1)))
        for chunk in _stream(file, {name: () for name in wanted}, at_once):
            yield {name: values.tolist() for name, values in chunk.items()}

    return Table(file, tuple(columns), read)


def npz_arrays(file: Path, shapes: Mapping[str, tuple[int, ...]], size: int) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield arrays [<= size, ...] of numbers by name, from the first row to the last.

    Parameters
    ----------
    file : Path
    shapes : mapping of str to tuple of int
        The shape of one row of each.
    size : int

    Raises
    ------
    DataError
        If an array is missing, has rows of another shape, or holds no numbers in C order.
    """
    yield from _stream(file, shapes, size)


def check_arrays(file: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise what `npz_arrays` would, without reading the rows."""
    with _archive(file) as archive:
        members = _members(archive)
        for name, shape in shapes.items():
            if name not in members:
                raise DataError(
                    f"has no array '{name}' for the model's input of that name; it has {', '.join(sorted(members))}",
                    file=file,
                )
            with archive.open(members[name]) as stream:
                _refuse_array(_header(stream, name, file), name, shape, file)


def _stream(file: Path, shapes: Mapping[str, tuple[int, ...]], size: int) -> Iterator[dict[str, NDArray[Any]]]:
    with _archive(file) as archive, ExitStack() as opened:
        members = _members(archive)
        streams = {name: opened.enter_context(archive.open(members[name])) for name in shapes}
        headers = {name: _header(stream, name, file) for name, stream in streams.items()}
        rows = min(header.shape[0] for header in headers.values())
        for start in range(0, rows, size):
            many = min(size, rows - start)
            yield {name: _part(streams[name], headers[name], many) for name in shapes}


@contextmanager
def _archive(file: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, EOFError, RuntimeError) as error:
        raise DataError(f"cannot be read as npz: {first_line(error)}", file=file) from None


def _members(archive: zipfile.ZipFile) -> dict[str, str]:
    return {name.removesuffix(".npy"): name for name in archive.namelist() if name.endswith(".npy")}


def _header(stream: IO[bytes], name: str, file: Path) -> _Header:
    version = np.lib.format.read_magic(stream)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in read_header:
        raise DataError(f"column '{name}': format {version} is not known: save it with numpy.savez", file=file)
    shape, fortran_order, dtype = read_header[version](stream)
    if dtype.hasobject:
        raise DataError(
            f"column '{name}' holds pickled objects: save it as one array of text, numbers or booleans", file=file
        )
    return _Header(dtype, shape, fortran_order and len(shape) > 1)


def _refuse_array(header: _Header, name: str, shape: tuple[int, ...], file: Path) -> None:
    if not header.shape or header.shape[1:] != shape:
        found, wanted = list(header.shape), ", ".join(map(str, shape))
        raise DataError(f"array '{name}' has the shape {found}; model.inputs declares [n, {wanted}]", file=file)
    if header.dtype.kind not in "uif":
        raise DataError(f"array '{name}' is {header.dtype}: expected numbers", file=file)
    if header.fortran_order:
        raise DataError(f"array '{name}' lies column by column: save numpy.ascontiguousarray of it", file=file)


def _part(stream: IO[bytes], header: _Header, rows: int) -> NDArray[Any]:
    shape = (rows, *header.shape[1:])
    size_bytes = math.prod(shape) * header.dtype.itemsize
    content = stream.read(size_bytes)
    if len(content) != size_bytes:
        raise EOFError("the file ends too early")
    return np.frombuffer(content, header.dtype).reshape(shape) if size_bytes else np.zeros(shape, header.dtype)
