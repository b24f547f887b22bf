"""The formats under ``data:``, opened: a table of rows, and their inputs as a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fairdeploy.data.images import decode, require_pillow
from fairdeploy.data.labelled import columns_of
from fairdeploy.data.roles import refuse_missing_columns
from fairdeploy.data.splits import Batch
from fairdeploy.data.tables import Table, open_table
from fairdeploy.data.values import parts_of
from fairdeploy.errors import DataError
from fairdeploy.project import Project
from fairdeploy.source import CallableSource, FormatSource, HubSource, ImageFolderSource, NpzSource, TableSource
from fairdeploy.yamlfile import Document

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
Positions: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Opened:
    """A format, opened.

    Attributes
    ----------
    table : Table
        The rows' labels, groups and ids.
    inputs : callable
        ``inputs(positions, size)`` yields the inputs of the rows at some positions of the table (ascending), at most
        `size` at a time.
    files : callable
        Yields the files that are read, each with its name in the project.
    images : bool
        Whether images are decoded.
    """

    table: Table
    inputs: Callable[[Positions, int], Iterator[Batch]]
    files: Callable[[], Iterator[tuple[str, Path]]]
    images: bool = False


def check_source(project: Project, document: Document, folder: Path) -> None:
    """Check what can be checked of ``data:`` without reading a row: files, columns, and how they fit the model.

    Raises
    ------
    ConfigError
        With the line and column of the key, or the file that does not hold what it should.
    MissingExtra
        If a library that reads the format is not installed.
    """
    source = project.data
    if isinstance(source, CallableSource):
        return
    for key, path in _paths(source).items():
        is_folder = key in ("root", "path")
        if not ((folder / path).is_dir() if is_folder else (folder / path).is_file()):
            wanted = "folder" if is_folder else "file"
            raise document.error(f"'data.{key}': no such {wanted}: {path}", ("data", key))
    shapes = _shapes(project)
    if isinstance(source, ImageFolderSource) and not (len(shapes) == 1 and _is_image(*shapes.values())):
        declared = ", ".join(f"{name} {_shown(shape)}" for name, shape in shapes.items())
        raise document.error(
            f"images fill one input of the shape [batch, 3 or 1, height, width]; model.inputs declares {declared}",
            ("data", "format"),
        )
    if isinstance(source, TableSource):
        for name in [*shapes, *(source.inputs.keys() - shapes.keys())]:
            listed = len(source.inputs.get(name, ()))
            if shapes.get(name) != (listed,):
                wanted = f"declares {_shown(shapes[name])}" if name in shapes else f"has no '{name}'"
                raise document.error(
                    f"'data.inputs.{name}' lists {listed} columns, but model.inputs {wanted}", ("data", "inputs", name)
                )
    opened = open_source(project, folder)
    columns_of(opened.table, source.columns, project.groups)


def open_source(project: Project, folder: Path) -> Opened:
    """Open the project's data; no row is read yet.

    Raises
    ------
    DataError
        If a file is missing, cannot be read, or lacks a column or array for an input of the model.
    MissingExtra
        If a library that reads the format is not installed.
    """
    source, shapes = project.data, _shapes(project)
    if isinstance(source, ImageFolderSource):
        return _image_folder(source, shapes, folder)
    if isinstance(source, NpzSource):
        return _npz(source, shapes, folder)
    if isinstance(source, TableSource):
        return _table(source, shapes, folder)
    assert isinstance(source, HubSource)
    return _hub(source, shapes, folder)


def _paths(source: FormatSource) -> dict[str, Path]:
    return {key: getattr(source, key) for key in ("root", "table", "file", "path") if hasattr(source, key)}


def _shapes(project: Project) -> dict[str, tuple[int, ...]]:
    return {name: tensor.row_shape for name, tensor in project.model.inputs.items()}


def _shown(shape: tuple[int, ...]) -> str:
    return f"[batch, {', '.join(map(str, shape))}]"


def _is_image(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[0] in (1, 3)


def _image_folder(source: ImageFolderSource, shapes: Shapes, folder: Path) -> Opened:
    require_pillow()
    table = _text_table(folder / source.table)
    ((name, shape),) = shapes.items()
    root, column = folder / source.root, source.columns.path

    def named() -> Iterator[tuple[int, str]]:
        for part in parts_of([table], [column]):
            for at, path in enumerate(part.complete(column, part.texts(column))):
                if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "\\" in path:
                    raise part.error(
                        at, f"column '{column}': '{path}' leaves the folder {source.root}: write paths below it, with /"
                    )
                if not (root / path).is_file():
                    raise part.error(at, f"column '{column}': no such file: {source.root / path}")
                yield part.start + at, path

    def files() -> Iterator[tuple[str, Path]]:
        yield str(source.table), folder / source.table
        for row, path in named():
            if not (root / path).is_file():
                raise table.error(f"column '{column}': no such file: {source.root / path}", row)
            yield str(source.root / path), root / path

    def image(row: int, path: str) -> NDArray[np.uint8]:
        return decode(
            root / path, shape, source.resize,
            error=lambda message: table.error(f"{source.root / path} {message}", row),
        )  # fmt: skip

    def inputs(positions: Positions, size: int) -> Iterator[Batch]:
        wanted = set(positions.tolist())
        batch: list[NDArray[np.uint8]] = []
        for row, path in named():
            if row in wanted:
                batch.append(image(row, path))
            if len(batch) == size:
                yield {name: np.stack(batch)}
                batch = []
        if batch:
            yield {name: np.stack(batch)}

    return Opened(table, inputs, files, images=True)


def _npz(source: NpzSource, shapes: Shapes, folder: Path) -> Opened:
    from fairdeploy.data.npzfile import check_arrays, npz_arrays, npz_table

    file = folder / source.file
    check_arrays(file, shapes)

    def inputs(positions: Positions, size: int) -> Iterator[Batch]:
        start = 0
        for chunk in npz_arrays(file, shapes, size):
            rows = len(next(iter(chunk.values())))
            inside = positions[slice(*np.searchsorted(positions, (start, start + rows)))] - start
            if len(inside):
                yield {name: values[inside] for name, values in chunk.items()}
            start += rows

    return Opened(npz_table(file, but=shapes), inputs, lambda: iter([(str(source.file), file)]))


def _table(source: TableSource, shapes: Shapes, folder: Path) -> Opened:
    table = _text_table(folder / source.file)
    columns = [one for listed in source.inputs.values() for one in listed]
    refuse_missing_columns(table, [("data.inputs", one) for one in columns])

    def inputs(positions: Positions, size: int) -> Iterator[Batch]:
        for part in parts_of([table], columns):
            rows = len(part.chunk[columns[0]])
            inside = positions[slice(*np.searchsorted(positions, (part.start, part.start + rows)))] - part.start
            if not len(inside):
                continue
            numbers = {one: part.numbers(one) for one in dict.fromkeys(columns)}
            for first in range(0, len(inside), size):
                chosen = inside[first : first + size]
                yield {name: np.stack([numbers[one][chosen] for one in source.inputs[name]], axis=1) for name in shapes}

    return Opened(table, inputs, lambda: iter([(str(source.file), folder / source.file)]))


def _hub(source: HubSource, shapes: Shapes, folder: Path) -> Opened:
    from fairdeploy.data.hubfile import check_inputs, hub_files, hub_inputs, hub_table

    place = folder / source.path
    table = hub_table(place)
    images = check_inputs(place, shapes)
    if images:
        require_pillow()

    def inputs(positions: Positions, size: int) -> Iterator[Batch]:
        return hub_inputs(table, shapes, positions, size, source.resize)

    def files() -> Iterator[tuple[str, Path]]:
        return ((str(file.relative_to(place)), file) for file in hub_files(place))

    return Opened(table, inputs, files, images)


def _text_table(file: Path) -> Table:
    if file.suffix.lower() == ".npz":
        raise DataError("is an npz file: say format: npz, or give a CSV or Parquet file", file=file)
    return open_table(file)
