"""`load_splits`: the project's data, from the user's callable or from a declared format, checked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairdeploy.data.checks import checked_rows
from fairdeploy.data.dealing import deal
from fairdeploy.data.formats import Opened, open_source
from fairdeploy.data.labelled import read_labelled
from fairdeploy.data.splits import SPLITS, Batch, Rows, Split
from fairdeploy.errors import DataError
from fairdeploy.project import Project
from fairdeploy.records import file_digest
from fairdeploy.source import CallableSource, FormatSource
from fairdeploy.usercode import call, code_digest, load_object


def load_splits(project: Project, folder: Path) -> dict[str, Split]:
    """Return the rows of all five splits, checked; no input is read yet.

    Parameters
    ----------
    project : Project
        Its ``data`` names a callable and its arguments, or a format and its files.
    folder : Path
        The project's folder, put first on ``sys.path``.

    Returns
    -------
    dict of str to Split
        By name, in the order of `SPLITS`, rows as `checked_rows` returns them.

    Raises
    ------
    ConfigError
        If the callable cannot be imported, does not take the arguments, or raises.
    DataError
        If a split is missing or its rows are wrong.
    MissingExtra
        If a library that reads the format is not installed.
    """
    source = project.data
    made = _called(source, folder) if isinstance(source, CallableSource) else _read(project, source, folder)
    classes = len(project.model.classes)
    return {
        split: replace(
            made[split], rows=checked_rows(made[split].rows, split=split, classes=classes, groups=project.groups)
        )
        for split in SPLITS
    }


def source_identity(project: Project, folder: Path) -> dict[str, Any]:
    """Return what decides, besides the configuration, which rows and inputs are read.

    For a callable: the digest of the project's Python files and of the declared data files. For a format: the digest
    of its files, the seed by which rows are dealt, and the version of what decodes images.

    Raises
    ------
    DataError
        If a file is missing or cannot be read.
    """
    source = project.data
    if isinstance(source, CallableSource):
        return {"code": code_digest(folder, source.files)}
    opened = open_source(project, folder)
    identity: dict[str, Any] = {"files": _files_digest(opened), "seed": project.seed}
    return identity | {"decoder": f"pillow {version('pillow')}"} if opened.images else identity


def _files_digest(opened: Opened) -> str:
    total = hashlib.sha256()
    for name, file in opened.files():
        try:
            total.update(f"{file_digest(file)} {name}\n".encode())
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}", file=file) from None
    return total.hexdigest()


def _called(source: CallableSource, folder: Path) -> dict[str, Split]:
    name = source.import_
    made = call(load_object(name, folder), source.arguments, name=name)
    if not isinstance(made, dict):
        raise DataError(f"{name} returned {type(made).__name__}, not a dict of Split by name")
    missing = [split for split in SPLITS if split not in made]
    unknown = [str(split) for split in made if split not in SPLITS]
    if missing or unknown:
        lacks = f"lacks {', '.join(missing)}" if missing else f"has unknown {', '.join(unknown)}"
        raise DataError(f"{name}: the dict {lacks}; it holds exactly {', '.join(SPLITS)}")
    for split in SPLITS:
        if not isinstance(made[split], Split) or not isinstance(made[split].rows, Rows):
            raise DataError(f"{name}: '{split}' is {type(made[split]).__name__}, not a fairdeploy.data.Split of Rows")
        if not callable(made[split].batches):
            kind = type(made[split].batches).__name__
            raise DataError(f"{name}: '{split}' has {kind} for batches, not a function of a size that yields batches")
    return made


def _read(project: Project, source: FormatSource, folder: Path) -> dict[str, Split]:
    opened = open_source(project, folder)
    table = opened.table
    found = read_labelled(table, source.columns, groups=project.groups, classes=project.model.classes)
    rows, splits = found.rows, found.splits
    if splits is None:
        splits = deal(rows.labels, rows.clusters, source.shares, seed=project.seed)
    elif "shares" in source.model_fields_set:
        raise DataError(
            f"column '{source.columns.split}' and data.shares would both decide on the splits: leave one of them out",
            file=table.file,
        )
    of = {name: np.flatnonzero(splits == name) for name in SPLITS}
    empty = [name for name in SPLITS if not len(of[name])]
    if empty:
        how = "give more rows or clusters" if found.splits is None else f"column '{source.columns.split}' names none"
        raise DataError(f"{len(rows)} rows leave the split {empty[0]} without any: {how}", file=table.file)
    return {name: Split(rows.take(at), partial(_batches, opened, at)) for name, at in of.items()}


def _batches(opened: Opened, positions: NDArray[np.int64], size: int) -> Iterator[Batch]:
    """Yield inputs as uint8 or float32, each row finite."""
    done = 0
    for batch in opened.inputs(positions, size):
        with np.errstate(over="ignore"):
            fed = {
                name: values if values.dtype == np.uint8 else np.asarray(values, np.float32)
                for name, values in batch.items()
            }
        for name, values in fed.items():
            broken = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(1))
            if len(broken):
                row = int(positions[done + broken[0]])
                raise opened.table.error(f"input '{name}' holds NaN, infinity or a number beyond float32", row)
        done += len(next(iter(fed.values())))
        yield fed
