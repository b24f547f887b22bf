"""CSV files: UTF-8, a header line, comma, semicolon, tab or bar between cells (RFC 4180 quoting)."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from operator import itemgetter
from pathlib import Path

from fairdeploy.data.tables import CHUNK_ROWS, Chunk, Table
from fairdeploy.errors import DataError

DELIMITERS = ",;\t|"
CHUNK_CELLS = 2**21


def csv_table(file: Path) -> Table:
    """Open a CSV file; its delimiter is the one that gives the header the most cells.

    Raises
    ------
    DataError
        If the header is missing or the file is no UTF-8 text; when rows are read, if one has more or fewer cells than
        the header, is the header again, or is wrongly quoted.
    """
    _refuse_other_encodings(file)
    delimiter, header = _sniff(file)
    if not any(header):
        raise DataError("has no header: its first line must name the columns", file=file, line=1)

    def read(columns: Sequence[str]) -> Iterator[Chunk]:
        positions = {name: header.index(name) for name in columns}
        at_once = max(1, min(CHUNK_ROWS, CHUNK_CELLS // len(header)))
        start = 0
        with _lines(file, delimiter) as lines:
            next(lines)
            while chunk := list(islice(lines, at_once)):
                if [] in chunk:  # empty lines are passed over
                    chunk = [row for row in chunk if row]
                _refuse_shape(table, chunk, header, start)
                start += len(chunk)
                yield {name: list(map(itemgetter(at), chunk)) for name, at in positions.items()}

    table = Table(file, tuple(header), read, line_of=lambda row: _line_of(file, delimiter, row))
    return table


def _refuse_other_encodings(file: Path) -> None:
    with file.open("rb") as stream:
        start = stream.read(4096)
    if start[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in start:
        what = "is UTF-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "holds NUL bytes, so it is no UTF-8 text"
        raise DataError(f"{what}: save it as CSV in UTF-8", file=file)


@contextmanager
def _lines(file: Path, delimiter: str) -> Iterator[csv._reader]:  # type: ignore[name-defined]
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, delimiter=delimiter, strict=True)
        try:
            yield reader
        except UnicodeDecodeError as error:
            what = f"is no UTF-8 text near line {reader.line_num + 1} (byte 0x{error.object[error.start]:02x})"
            raise DataError(f"{what}: save it as CSV in UTF-8", file=file) from None
        except csv.Error as error:
            raise DataError(f"is wrongly quoted: {error}", file=file, line=max(reader.line_num, 1)) from None


def _sniff(file: Path) -> tuple[str, list[str]]:
    """Return the delimiter and the header that it gives; one under which the quotes are wrong is out."""
    headers: dict[str, list[str]] = {}
    for delimiter in DELIMITERS:
        try:
            with _lines(file, delimiter) as reader:
                headers[delimiter] = [name.strip() for name in next(reader, [])]
        except DataError as error:
            wrong = error
    if not headers:
        raise wrong
    best = max(headers, key=lambda one: len(headers[one]))
    return best, headers[best]


def _line_of(file: Path, delimiter: str, row: int) -> int:
    with _lines(file, delimiter) as reader:
        next(reader)
        line, seen = reader.line_num + 1, -1
        for cells in reader:
            seen += bool(cells)
            if seen == row:
                break
            line = reader.line_num + 1
        return int(line)


def _refuse_shape(table: Table, chunk: list[list[str]], header: list[str], start: int) -> None:
    if not set(map(len, chunk)) <= {len(header)}:
        at, cells = next((at, len(row)) for at, row in enumerate(chunk) if len(row) != len(header))
        raise table.error(
            f"{cells} cells, but the header has {len(header)}: quote a cell that holds the delimiter", start + at
        )
    if header in chunk:
        raise table.error(
            "the header stands here again: give the files that were joined one by one", start + chunk.index(header)
        )
