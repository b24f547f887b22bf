"""What is refused before anything is computed: rows that are wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairdeploy.data.splits import UNKNOWN, Rows
from fairdeploy.errors import DataError
from fairdeploy.project import MOST_LEVELS, Groups
from fairdeploy.yamlfile import nearest

SHOWN = 5


def checked_rows(rows: Rows, *, split: str, classes: int, groups: Groups) -> Rows:
    """Return the rows with plain array types, missing attribute values as ``unknown``, undeclared columns dropped.

    Parameters
    ----------
    rows : Rows
        As a data callable made them; anything may be wrong.
    split : str
        Name of the split, for the messages.
    classes : int
        Number of classes; labels are below it.
    groups : Groups
        The declared attributes with their levels, contexts, and whether there is a cluster column.

    Raises
    ------
    DataError
        At the first thing that is wrong, naming the column, the row and what to mend.
    """
    for what, columns in (("attributes", rows.attributes), ("contexts", rows.contexts)):
        if not isinstance(columns, Mapping):
            raise DataError(f"{split}: Rows.{what} is {type(columns).__name__}, not a mapping of name to array of text")
    ids = _text(rows.ids, f"{split}: ids")
    if not len(ids):
        raise DataError(f"{split}: has no rows")
    _refuse_empty(ids, f"{split}: ids", ids)
    unique, first, counts = np.unique(ids, return_index=True, return_counts=True)
    if len(unique) < len(ids):
        twice = unique[counts > 1][np.argsort(first[counts > 1])]
        raise DataError(f"{split}: {len(ids) - len(unique)} ids stand more than once, first {some(twice)}")
    if groups.cluster is not None and rows.clusters is None:
        raise DataError(
            f"{split}: groups.cluster is '{groups.cluster}', but Rows.clusters is not given: fill it, one name per row"
        )
    given = {
        f"attribute '{name}'": _column(rows.attributes, name, f"{split}: attribute", ids) for name in groups.attributes
    }
    attributes = {
        name: _levels(given[f"attribute '{name}'"], levels, f"{split}: attribute '{name}'", ids)
        for name, levels in groups.attributes.items()
    }
    contexts = {name: _column(rows.contexts, name, f"{split}: context", ids) for name in groups.contexts}
    for name, values in contexts.items():
        _refuse_empty(values, f"{split}: context '{name}'", ids)
        if (levels := len(np.unique(values))) > MOST_LEVELS:
            raise DataError(
                f"{split}: context '{name}' holds {levels:,} different values, at most {MOST_LEVELS} can be told "
                "apart: put them into a few named ranges or merge them"
            )
    clusters = None
    if groups.cluster is not None:
        clusters = _column({groups.cluster: rows.clusters}, groups.cluster, f"{split}: cluster", ids)
        _refuse_empty(clusters, f"{split}: cluster '{groups.cluster}'", ids)
    return Rows(ids, _labels(rows.labels, split, classes, ids), attributes, contexts, clusters)


def _text(values: Any, what: str) -> NDArray[np.str_]:
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "UO" or not all(isinstance(one, str) for one in array.tolist()):
        raise DataError(f"{what}: expected an array of text [n], not {array.dtype} {list(array.shape)}")
    return array.astype(np.str_)


def _column(columns: Mapping[str, Any], name: str, what: str, ids: NDArray[np.str_]) -> NDArray[np.str_]:
    if name not in columns:
        raise DataError(f"{what} '{name}' is declared under groups but is not in the data{nearest(name, columns)}")
    values = _text(columns[name], f"{what} '{name}'")
    _refuse_length(values, f"{what} '{name}'", ids)
    return values


def _refuse_length(values: NDArray[Any], what: str, ids: NDArray[np.str_]) -> None:
    if len(values) != len(ids):
        raise DataError(f"{what} has {len(values)} values for {len(ids)} ids: rows must be aligned")


def _refuse_empty(values: NDArray[np.str_], what: str, ids: NDArray[np.str_]) -> None:
    empty = np.flatnonzero(np.char.str_len(np.char.strip(values)) == 0)
    if len(empty):
        raise DataError(f"{what}: {len(empty)} values are missing, first {_row(empty[0], ids)}")


def _labels(values: Any, split: str, classes: int, ids: NDArray[np.str_]) -> NDArray[np.int64]:
    labels = np.asarray(values)
    if labels.ndim != 1 or labels.dtype.kind not in "iuf":
        raise DataError(f"{split}: labels: expected class indices [n], not {labels.dtype} {list(labels.shape)}")
    _refuse_length(labels, f"{split}: labels", ids)
    wrong = np.flatnonzero(~np.isin(labels, np.arange(classes)))
    if len(wrong):
        raise DataError(
            f"{split}: {len(wrong)} labels are not a class index from 0 to {classes - 1}, "
            f"first {labels[wrong[0]]} at {_row(wrong[0], ids)}"
        )
    if labels.dtype.kind == "f":
        raise DataError(f"{split}: labels are {labels.dtype}: give integers")
    return labels.astype(np.int64)


def _levels(values: NDArray[np.str_], levels: tuple[str, ...], what: str, ids: NDArray[np.str_]) -> NDArray[np.str_]:
    known = values.astype(np.result_type(values, np.array(UNKNOWN)))
    known[np.char.str_len(np.char.strip(values)) == 0] = UNKNOWN
    wrong = np.flatnonzero(~np.isin(known, [*levels, UNKNOWN]))
    if len(wrong):
        value = str(known[wrong[0]])
        raise DataError(
            f"{what}: {len(wrong)} values are not declared, first '{value}' at {_row(wrong[0], ids)}"
            f"{nearest(value, levels)}"
        )
    return known


def _row(position: np.integer[Any], ids: NDArray[np.str_]) -> str:
    return f"row {int(position)} ('{ids[position]}')"


def some(values: NDArray[np.str_]) -> str:
    """Return the first few values, quoted, for a message."""
    return ", ".join(f"'{value}'" for value in values[:SHOWN].tolist()) + (" ..." if len(values) > SHOWN else "")
