"""Tables of rows that somebody else made: CSV, Parquet and npz files, data frames and mappings of arrays.

A `Table` knows its columns and hands them out in chunks, so that ten million rows take no more memory than one chunk.
Nothing is guessed about what a column means; that is `fairdeploy.data.predictions`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fairdeploy.errors import DataError, MissingExtra

CHUNK_ROWS = 65_536
Values = Sequence[Any]
Chunk = dict[str, Values]


@dataclass(frozen=True)
class Table:
    """Rows in named columns.

    Attributes
    ----------
    file : Path or None
        None for what is in memory.
    columns : tuple of str
        All different.
    read : callable
        ``read(columns)`` yields chunks: the values [rows] of each of the named columns, in the order of the rows, the
        same at every call. Values are text, numbers, booleans, or missing (None, NaN, an empty text).
    line_of : callable
        From the position of a row, from 0, to its 1-based line in the file; None where rows are no lines.
    """

    file: Path | None
    columns: tuple[str, ...]
    read: Callable[[Sequence[str]], Iterator[Chunk]]
    line_of: Callable[[int], int] | None = None

    def __post_init__(self) -> None:
        twice = sorted({name for name in self.columns if name and self.columns.count(name) > 1})
        if twice:
            names = ", ".join(f"'{name}'" for name in twice[:5])
            raise DataError(f"columns stand twice: {names}: rename one of each", file=self.file)

    def error(self, message: str, row: int) -> DataError:
        """Make an error that points at a row, given by its position from 0."""
        if self.line_of is not None:
            return DataError(message, file=self.file, line=self.line_of(row))
        return DataError(f"row {row + 1}: {message}", file=self.file)

    def place(self, row: int) -> str:
        """Name a row in a sentence."""
        where = f"line {self.line_of(row)}" if self.line_of else f"row {row + 1}"
        return f"{self.file}, {where}" if self.file else where


def open_table(source: Any) -> Table:
    """Open a file by its suffix, a data frame (pandas, polars, pyarrow) or a mapping of columns.

    Raises
    ------
    DataError
        If the file is missing, unreadable or of an unknown kind, or the columns are not of one length.
    MissingExtra
        If a Parquet file is given and pyarrow is not installed.
    """
    if isinstance(source, str | Path):
        return _open_file(Path(source))
    return _in_memory(source)


def _open_file(file: Path) -> Table:
    if not file.is_file():
        what = "is a folder: give its files" if file.is_dir() else "no such file"
        raise DataError(what, file=file)
    if not file.stat().st_size:
        raise DataError("is empty: expected a header and rows", file=file)
    suffix = file.suffix.lower()
    if suffix in (".csv", ".tsv", ".txt"):
        from fairdeploy.data.csvfile import csv_table

        return csv_table(file)
    if suffix in (".parquet", ".pq"):
        return _parquet(file)
    if suffix == ".npz":
        from fairdeploy.data.npzfile import npz_table

        return npz_table(file)
    raise DataError(f"'{suffix}' is no known kind of table: save it as .csv, .parquet or .npz", file=file)


def _parquet(file: Path) -> Table:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtra("reading a Parquet file", "parquet") from None

    def read(columns: Sequence[str]) -> Iterator[Chunk]:
        try:
            with parquet.ParquetFile(file) as opened:
                for batch in opened.iter_batches(batch_size=CHUNK_ROWS, columns=list(columns)):
                    yield {name: _plain_arrow(batch.column(name)) for name in columns}
        except (arrow.ArrowException, OSError) as error:
            raise DataError(f"cannot be read as Parquet: {first_line(error)}", file=file) from None

    def _plain_arrow(column: Any) -> Values:
        if arrow.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        values: Values = column.to_numpy(zero_copy_only=False).tolist()
        return values

    try:
        with parquet.ParquetFile(file) as opened:
            names = tuple(opened.schema_arrow.names)
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"cannot be read as Parquet: {first_line(error)}", file=file) from None
    return Table(file, names, read)


def _in_memory(data: Any) -> Table:
    if isinstance(data, Mapping):
        names = list(data)
    else:
        known = getattr(data, "column_names", None)  # pyarrow's; its `columns` are the values
        names = list(known if isinstance(known, list) else getattr(data, "columns", ()))
        if not names:
            raise DataError(
                f"cannot read columns from {type(data).__name__}: give a path, a data frame or a mapping of arrays"
            )
    texts = tuple(map(str, names))
    table = Table(None, texts, lambda _: iter(()))  # refuses doubled names before the columns are looked at
    columns = {text: _column(text, data[name]) for text, name in zip(texts, names, strict=True)}
    refuse_lengths({name: len(values) for name, values in columns.items()}, None)

    def read(wanted: Sequence[str]) -> Iterator[Chunk]:
        for start in range(0, len(columns[wanted[0]]), CHUNK_ROWS):
            yield {name: _listed(columns[name][start : start + CHUNK_ROWS]) for name in wanted}

    return Table(None, table.columns, read)


def _column(name: str, values: Any) -> Values:
    if isinstance(values, list | tuple | range):
        return values
    if isinstance(values, np.ma.MaskedArray):
        values = np.where(np.ma.getmaskarray(values), np.array(None), values.data)
    array: Any = np.asarray(values)
    if array.ndim != 1:
        raise DataError(f"column '{name}' has the shape {list(array.shape)}: expected one value per row")
    return array  # type: ignore[no-any-return]


def _listed(values: Values) -> Values:
    return values.tolist() if isinstance(values, np.ndarray) else values


def refuse_lengths(lengths: Mapping[str, int], file: Path | None) -> None:
    """Raise DataError if columns, given with their numbers of rows, are not equally long."""
    if len(set(lengths.values())) > 1:
        (one, n), (other, m) = sorted(lengths.items(), key=lambda item: item[1])[:: len(lengths) - 1][:2]
        raise DataError(f"column '{one}' has {n} rows, but '{other}' has {m}: they must be aligned", file=file)


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, or its kind."""
    return (str(error) or type(error).__name__).splitlines()[0]
