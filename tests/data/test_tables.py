"""Tables: every kind of file gives the same rows, and a wrong one is refused with its line."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairdeploy.data import tables
from fairdeploy.data.tables import Table, open_table
from fairdeploy.errors import DataError, MissingExtra

ROWS = {"id": ["a", "b", "c"], "n": [1, 2, 3], "p": [0.5, 0.25, 1.0]}


def rows_of(table: Table) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {name: [] for name in table.columns}
    for chunk in table.read(table.columns):
        for name, values in chunk.items():
            found[name] += list(values)
    return found


def written(folder: Path, content: str | bytes, name: str = "rows.csv") -> Path:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def refused(source: Any) -> str:
    with pytest.raises(DataError) as error:
        rows_of(open_table(source))
    return str(error.value)


@pytest.mark.parametrize(
    "data",
    [ROWS, pd.DataFrame(ROWS), pa.table(ROWS), {name: np.array(values) for name, values in ROWS.items()}],
    ids=["lists", "pandas", "pyarrow", "arrays"],
)
def test_what_is_in_memory_is_read_by_its_columns(data: Any) -> None:
    assert rows_of(open_table(data)) == ROWS


def test_a_frame_like_polars_is_read_without_knowing_its_library() -> None:
    class Frame:
        columns = tuple(ROWS)

        def __getitem__(self, name: str) -> Any:
            return np.array(ROWS[name])

    assert rows_of(open_table(Frame())) == ROWS


def test_parquet_and_npz_give_the_rows_that_were_written(tmp_path: Path) -> None:
    pq.write_table(pa.table(ROWS), tmp_path / "rows.parquet")
    np.savez_compressed(tmp_path / "rows.npz", **{name: np.array(values) for name, values in ROWS.items()})
    assert rows_of(open_table(tmp_path / "rows.parquet")) == ROWS
    assert rows_of(open_table(str(tmp_path / "rows.npz"))) == ROWS


def test_parquet_categories_are_text(tmp_path: Path) -> None:
    frame = pd.DataFrame({"sex": pd.Categorical(["f", "m", None])})
    frame.to_parquet(tmp_path / "rows.parquet")
    assert rows_of(open_table(tmp_path / "rows.parquet")) == {"sex": ["f", "m", None]}


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=8)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(CELL, CELL), min_size=1, max_size=9), st.sampled_from(",;\t|"), st.booleans(), st.booleans())
def test_csv_rows_come_back_whatever_the_delimiter_quotes_line_ends_and_bom(
    tmp_path: Path, rows: list[tuple[str, str]], delimiter: str, crlf: bool, bom: bool
) -> None:
    def quoted(cell: str) -> str:
        return '"' + cell.replace('"', '""') + '"'

    end = "\r\n" if crlf else "\n"
    text = end.join(delimiter.join(map(quoted, row)) for row in [("one", "two"), *rows])
    file = written(tmp_path, text.encode("utf-8-sig" if bom else "utf-8"))
    expected = [row for row in rows if row != ("one", "two")]
    if len(expected) < len(rows):
        assert "header stands here again" in refused(file)
    else:
        found = rows_of(open_table(file))
        assert list(zip(found["one"], found["two"], strict=True)) == rows


def test_chunks_add_up_to_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = {"id": [f"r{at}" for at in range(25)], "n": list(range(25))}
    pq.write_table(pa.table(many), tmp_path / "rows.parquet")
    np.savez(tmp_path / "rows.npz", **{name: np.array(values) for name, values in many.items()})
    pd.DataFrame(many).to_csv(tmp_path / "rows.csv", index=False)
    monkeypatch.setattr(tables, "CHUNK_ROWS", 4)
    monkeypatch.setattr("fairdeploy.data.csvfile.CHUNK_ROWS", 4)
    monkeypatch.setattr("fairdeploy.data.npzfile.CHUNK_ROWS", 4)
    for source in (many, tmp_path / "rows.parquet", tmp_path / "rows.npz", tmp_path / "rows.csv"):
        table = open_table(source)
        sizes = [len(chunk["id"]) for chunk in table.read(["id"])]
        assert sizes == [4] * 6 + [1]
        assert rows_of(table)["id"] == many["id"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("\n\n", "no header"),
        ("id,n\na,1\nb\n", r"rows\.csv:3: 1 cells, but the header has 2"),
        ("id,n\na,1,\n", r"rows\.csv:2: 3 cells"),
        ("id,n\n\na,1\n\nb,2,3\n", r"rows\.csv:5: 3 cells"),
        ('id,n\n"a\nb",1\nc\n', r"rows\.csv:4: 1 cells"),
        ("id,n\na,1\nid,n\nb,2\n", r"rows\.csv:3: the header stands here again"),
        ("id,n,n\na,1,2\n", "columns stand twice: 'n'"),
        ('id,n\na,"1\nb,2\n', "wrongly quoted"),
        ('id,n\na,"1"2\n', r"rows\.csv:2: is wrongly quoted"),
        ("id,n\na,1\n".encode("utf-16"), "UTF-16.*UTF-8"),
        ("id,n\na,1\n".encode("utf-16-le"), "NUL.*UTF-8"),
        (b"id,n\na,\xff\n", "no UTF-8 text near line"),
        ("id,n\na," + "x" * 200_000, "wrongly quoted: field larger"),
    ],
)
def test_a_csv_that_is_wrong_is_refused_with_its_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    found = refused(written(tmp_path, content))
    assert re.search(message, found), found


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.parquet", b"PAR1 but not really", "cannot be read as Parquet"),
        ("rows.npz", b"not a zip", "cannot be read as npz"),
        ("rows.xlsx", b"PK", "'.xlsx' is no known kind of table: save it as .csv, .parquet or .npz"),
        ("rows", b"id,n", "'' is no known kind"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    assert message in refused(written(tmp_path, content, name))


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "none.csv")
    assert "is a folder" in refused(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"id": np.array(["a", None], dtype=object)}, "pickled objects"),
        ({"id": np.array([["a"], ["b"]])}, "[2, 1]"),
        ({"id": np.array(["a", "b"]), "n": np.arange(3)}, "column 'id' has 2 rows, but 'n' has 3"),
        ({"id": np.array([1 + 2j])}, "complex128"),
        ({"id": np.array(["2026-01-01"], dtype="datetime64[D]")}, "datetime64"),
    ],
)
def test_an_npz_never_unpickles_and_has_one_value_per_row(
    tmp_path: Path, arrays: Mapping[str, Any], message: str
) -> None:
    np.savez(tmp_path / "rows.npz", **arrays)
    assert message in refused(tmp_path / "rows.npz")


def test_an_npz_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", id=np.arange(1000))
    whole = (tmp_path / "rows.npz").read_bytes()
    assert "cannot be read" in refused(written(tmp_path, whole[: len(whole) // 2], "half.npz"))
    wrong = whole.replace(b"(1000,)", b"(1999,)")
    assert "cannot be read" in refused(written(tmp_path, wrong, "wrong.npz"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"id": [1, 2], "n": [1]}, "column 'n' has 1 rows, but 'id' has 2"),
        ({"id": np.zeros((2, 2))}, "shape [2, 2]"),
        (42, "cannot read columns from int"),
        (pd.DataFrame([[1, 2]], columns=["n", "n"]), "columns stand twice: 'n'"),
    ],
)
def test_what_is_in_memory_and_wrong_is_refused(data: Any, message: str) -> None:
    assert message in refused(data)


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table(ROWS), tmp_path / "rows.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"fairdeploy\[parquet\]"):
        open_table(tmp_path / "rows.parquet")


def test_thousands_of_columns_are_read_in_small_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairdeploy.data.csvfile.CHUNK_CELLS", 30_000)
    names = [f"c{at}" for at in range(3000)]
    text = "\n".join(",".join(line) for line in [names, *([str(at)] * 3000 for at in range(25))])
    table = open_table(written(tmp_path, text))
    chunks = list(table.read(["c7", "c2999"]))
    assert [len(chunk["c7"]) for chunk in chunks] == [10, 10, 5]
    assert [value for chunk in chunks for value in chunk["c2999"]] == [str(at) for at in range(25)]


def test_opening_a_csv_loads_no_library_of_data_frames(tmp_path: Path) -> None:
    file = written(tmp_path, "id,n\na,1\n")
    code = (
        "import sys; from fairdeploy.data.tables import open_table; "
        f"list(open_table({str(file)!r}).read(['id'])); "
        "print([m for m in ('pandas', 'pyarrow', 'torch', 'onnx', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
