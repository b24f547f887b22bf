"""`Rows` and `Split`: what a data callable returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

SPLITS = ("train", "prune", "calibrate", "tune", "evaluate")
UNKNOWN = "unknown"
Batch = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Rows:
    """What is known about each row besides its inputs; every array has length n and the same order.

    Attributes
    ----------
    ids : array of str [n]
        Unique within the split.
    labels : array of int [n]
        Class indices.
    attributes : dict of str to array of str [n]
        Sensitive attributes by name; an empty string or ``unknown`` is a missing value.
    contexts : dict of str to array of str [n]
        Circumstances such as light, region, site.
    clusters : array of str [n], optional
        Rows with the same cluster (person, patient, drawing family) are not independent.
    """

    ids: NDArray[np.str_]
    labels: NDArray[np.integer]
    attributes: Mapping[str, NDArray[np.str_]]
    contexts: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)
    clusters: NDArray[np.str_] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: NDArray[np.integer]) -> Rows:
        """Return the rows at `indices` [m], in that order."""
        return Rows(
            ids=self.ids[indices],
            labels=self.labels[indices],
            attributes={name: values[indices] for name, values in self.attributes.items()},
            contexts={name: values[indices] for name, values in self.contexts.items()},
            clusters=None if self.clusters is None else self.clusters[indices],
        )

    def cells(self, *, groups: bool = True, labels: bool = True) -> list[NDArray[np.int64]]:
        """Return the positions of the rows of each joint cell of sensitive attributes and label that has any.

        The order is fixed; without `groups` and `labels` there is one cell.
        """
        columns: list[NDArray[Any]] = [self.attributes[name] for name in sorted(self.attributes)] if groups else []
        code = np.zeros(len(self), np.int64)
        for column in [*columns, self.labels] if labels else columns:
            levels, level = np.unique(column, return_inverse=True)
            code = code * len(levels) + level
        return [np.flatnonzero(code == one) for one in np.unique(code)]


@dataclass(frozen=True)
class Split:
    """Rows, and their inputs as a stream.

    Attributes
    ----------
    rows : Rows
    batches : callable
        ``batches(size)`` yields mappings from input name to an array [<= size, ...] of raw values (uint8 or
        float32, before `ModelSpec.preprocess`), in the order of the rows, the same at every call.
    """

    rows: Rows
    batches: Callable[[int], Iterator[Batch]]
