"""`Tally`: integer counts from which every fairness number follows; tallies of shards and devices merge by ``+``.

A tally counts rows over ``bucket x attribute levels x context levels x label x reference x deployed``. Rows of one
cluster (person, patient, drawing family) share a bucket, so a resample or a variance over buckets is one over
clusters ("random groups", Wolter, Introduction to Variance Estimation, ch. 2). Only non-empty cells are kept.

This file is shipped to devices: standard library and numpy only, Python 3.8 syntax.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Dict, Mapping, Optional, Sequence, Tuple

import numpy as np

try:
    from fairdeploy.errors import DataError, IntegrityError
except ImportError:  # alone on a device
    DataError = IntegrityError = ValueError  # type: ignore[misc,assignment]

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

BUCKETS = 512
UNKNOWN = "unknown"
FORMAT = "fairdeploy-tally/1"
MAX_ROWS = 2**53
OUTCOME = ("label", "reference", "deployed")
Levels = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Schema:
    """What is counted. Names are kept in alphabetical order; ``unknown`` comes last in every list of levels.

    Attributes
    ----------
    attributes : dict of str to tuple of str
        Levels of each sensitive attribute.
    contexts : dict of str to tuple of str
        Levels of each context, such as light or site.
    classes : tuple of str
        Class names by index; with two classes, class 1 is the positive one.
    clustered : bool
        Whether buckets hold clusters (True) or single rows.

    Raises
    ------
    DataError
        If a name is empty, a level is doubled, or there are more cells than an int64 can number.
    """

    attributes: Levels
    contexts: Levels
    classes: Sequence[str]
    clustered: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "attributes", _with_unknown(self.attributes))
        object.__setattr__(self, "contexts", _with_unknown(self.contexts))
        object.__setattr__(self, "classes", tuple(self.classes))
        if len(set(self.axes)) != len(self.axes):
            raise DataError("attributes and contexts need different names, none of " + ", ".join(("bucket",) + OUTCOME))
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise DataError("classes: give at least two different names")
        if math.prod(self.shape) >= MAX_ROWS:
            raise DataError("too many groups x contexts x classes for one tally: declare fewer attributes")

    @property
    def axes(self) -> Tuple[str, ...]:
        """Names of the dimensions, in the order of `shape`."""
        return ("bucket",) + tuple(self.attributes) + tuple(self.contexts) + OUTCOME

    @property
    def shape(self) -> Tuple[int, ...]:
        """Size of each dimension."""
        levels = tuple(len(names) for part in (self.attributes, self.contexts) for names in part.values())
        return (BUCKETS,) + levels + (len(self.classes),) * 3

    def levels(self, axis: str) -> Tuple[str, ...]:
        """Return the levels of an attribute or context, ``unknown`` last."""
        part = self.attributes if axis in self.attributes else self.contexts
        if axis not in part:
            raise DataError("no attribute or context '{}': known: {}".format(axis, ", ".join(self.axes[1:-3])))
        return tuple(part[axis])

    def to_plain(self) -> Dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "attributes": {name: list(levels) for name, levels in self.attributes.items()},
            "contexts": {name: list(levels) for name, levels in self.contexts.items()},
            "classes": list(self.classes),
            "clustered": self.clustered,
        }


@dataclass(frozen=True, eq=False)
class Tally:
    """Non-empty cells and how many rows each holds. Make one with `count`, `zero` or `from_json`; add with ``+``.

    Attributes
    ----------
    schema : Schema
    cells : array of int64 [k]
        Flat C-order indices into ``schema.shape``, strictly increasing.
    counts : array of int64 [k]
        Rows per cell, all positive.

    Raises
    ------
    DataError
        If the arrays break what is said above, or hold 2**53 rows or more.
    """

    schema: Schema
    cells: NDArray[np.int64]
    counts: NDArray[np.int64]

    def __post_init__(self) -> None:
        cells, counts = self.cells, self.counts
        if cells.dtype != np.int64 or counts.dtype != np.int64 or cells.ndim != 1 or cells.shape != counts.shape:
            raise DataError("a tally needs two int64 arrays of one length")
        if cells.size and (cells[0] < 0 or cells[-1] >= math.prod(self.schema.shape) or (np.diff(cells) <= 0).any()):
            raise DataError("tally cells must be strictly increasing and inside the schema")
        if (counts <= 0).any():
            raise DataError("tally counts must be positive")
        if counts.astype(np.float64).sum() >= MAX_ROWS:
            raise DataError("a tally holds fewer than 2**53 rows")
        cells.setflags(write=False)
        counts.setflags(write=False)

    @classmethod
    def zero(cls, schema: Schema) -> Tally:
        """Return the empty tally, the neutral element of ``+``."""
        return cls(schema, np.zeros(0, np.int64), np.zeros(0, np.int64))

    @classmethod
    def count(
        cls,
        schema: Schema,
        *,
        ids: ArrayLike,
        labels: ArrayLike,
        attributes: Mapping[str, ArrayLike],
        contexts: Mapping[str, ArrayLike],
        clusters: Optional[ArrayLike],
        reference: ArrayLike,
        deployed: ArrayLike,
    ) -> Tally:
        """Count rows; all arrays have length n and the same order.

        Parameters
        ----------
        ids : array of str [n]
            Unique; choose the bucket when there are no clusters.
        labels, reference, deployed : array of int [n]
            True class, and the classes predicted by the reference and by the deployed model.
        attributes, contexts : dict of str to array of str [n]
            At least the columns that the schema declares; an empty string, None or NaN is ``unknown``.
        clusters : array of str [n] or None
            Must be given exactly when the schema is clustered.

        Raises
        ------
        DataError
            For arrays of different length, doubled ids, classes that are not whole numbers inside the schema, missing
            columns, undeclared levels, or clusters that are missing.
        """
        ids = _text("ids", ids)
        if len(set(ids.tolist())) != len(ids):
            raise DataError("ids: each row needs an id of its own, and some are doubled")
        if (clusters is not None) != schema.clustered:
            raise DataError("clusters must be given exactly when the schema is clustered")
        owners = ids if clusters is None else _text("clusters", clusters)
        if (owners == "").any():
            raise DataError(
                "{}: {} rows have none".format("ids" if clusters is None else "clusters", int((owners == "").sum()))
            )
        columns = [("bucket", _buckets(owners))]
        for names, given in ((schema.attributes, attributes), (schema.contexts, contexts)):
            columns += [(name, _codes(name, levels, given)) for name, levels in names.items()]
        size = len(schema.classes)
        predictions = (("labels", labels), ("reference", reference), ("deployed", deployed))
        columns += [(name, _classes(name, values, size)) for name, values in predictions]
        for name, column in columns:
            if len(column) != len(ids):
                raise DataError("{}: {} rows, but there are {} ids".format(name, len(column), len(ids)))
        flat = np.ravel_multi_index(tuple(column for _, column in columns), schema.shape)
        cells, counts = np.unique(flat, return_counts=True)
        return cls(schema, cells.astype(np.int64), counts.astype(np.int64))

    def __add__(self, other: Tally) -> Tally:
        """Return the tally of both; refuses another schema."""
        if not isinstance(other, Tally):
            return NotImplemented
        if self.schema != other.schema:
            raise DataError("tallies of different schemas cannot be added: groups, contexts or classes differ")
        cells = np.concatenate([self.cells, other.cells])
        return Tally(self.schema, *_merged(cells, np.concatenate([self.counts, other.counts])))

    def one_vs_rest(self, index: int) -> Tally:
        """Return the tally of one class against all others, so that every binary metric has a meaning.

        Parameters
        ----------
        index : int
            Position of the class in ``schema.classes``; it becomes the positive class, named as before. The negative
            one is "other" ("rest" where the class itself is called "other").

        Raises
        ------
        DataError
            If there is no such class.
        """
        if not 0 <= index < len(self.schema.classes):
            raise DataError("no class {}: there are {}".format(index, ", ".join(self.schema.classes)))
        name = self.schema.classes[index]
        schema = Schema(
            attributes=self.schema.attributes,
            contexts=self.schema.contexts,
            classes=("rest" if name == "other" else "other", name),
            clustered=self.schema.clustered,
        )
        at = self.coordinates
        columns = tuple(at[axis] == index if axis in OUTCOME else at[axis] for axis in schema.axes)
        flat = np.ravel_multi_index(tuple(column.astype(np.int64) for column in columns), schema.shape)
        return Tally(schema, *_merged(flat, self.counts))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tally) and self.schema == other.schema and self.digest == other.digest

    __hash__ = None  # type: ignore[assignment]

    @property
    def rows(self) -> int:
        """Number of rows counted."""
        return int(self.counts.sum())

    @cached_property
    def coordinates(self) -> Dict[str, NDArray[np.int64]]:
        """Level index of each cell [k], by the name of the dimension."""
        return dict(zip(self.schema.axes, np.unravel_index(self.cells, self.schema.shape)))  # noqa: B905

    def sums(self, axes: Sequence[str], values: Optional[NDArray[Any]] = None) -> NDArray[np.int64]:
        """Add up a value over the rows of each bucket and level.

        Parameters
        ----------
        axes : sequence of str
            Attributes or contexts to keep apart.
        values : array of bool or int [k], optional
            What one row of each cell adds; 1 when left out.

        Returns
        -------
        array of int64 [BUCKETS, levels of axes[0], ...]
        """
        shape = (BUCKETS,) + tuple(len(self.schema.levels(axis)) for axis in axes)
        flat = np.ravel_multi_index(tuple(self.coordinates[axis] for axis in ("bucket",) + tuple(axes)), shape)
        weights = self.counts if values is None else self.counts * values
        totals = np.bincount(flat, weights=weights, minlength=math.prod(shape))
        return np.rint(totals).astype(np.int64).reshape(shape)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON without the digest, as 64 hexadecimal digits."""
        return hashlib.sha256(_canonical(self._plain())).hexdigest()

    def _plain(self) -> Dict[str, Any]:
        return {
            "format": FORMAT,
            "buckets": BUCKETS,
            "schema": self.schema.to_plain(),
            "steps": np.diff(self.cells, prepend=0).tolist(),
            "counts": self.counts.tolist(),
        }

    def to_json(self) -> str:
        """Return the tally as JSON: ``steps`` are the differences between successive `cells`, from 0."""
        return _canonical({**self._plain(), "digest": self.digest}).decode() + "\n"

    @classmethod
    def from_json(cls, text: str) -> Tally:
        """Read what `to_json` wrote.

        Raises
        ------
        IntegrityError
            If it is not such a text, or was changed since.
        """
        try:
            plain = json.loads(text, object_pairs_hook=_no_doubles, parse_float=_refuse, parse_constant=_refuse)
            declared = plain.pop("digest")
            if plain["format"] != FORMAT or plain["buckets"] != BUCKETS:
                raise ValueError("expected {!r} with {} buckets".format(FORMAT, BUCKETS))
            if hashlib.sha256(_canonical(plain)).hexdigest() != declared:
                raise ValueError("its digest does not match its content")
            cells = np.cumsum(np.array(plain["steps"], np.int64), dtype=np.int64)
            tally = cls(Schema(**plain["schema"]), cells, np.array(plain["counts"], np.int64))
            if tally.digest != declared:
                raise ValueError("it is not in canonical form")
            return tally
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, DataError) as error:
            raise IntegrityError("not a valid tally: {}".format(error)) from error


def _merged(cells: NDArray[np.int64], counts: NDArray[np.int64]) -> Tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sort cells and add up the counts of equal ones."""
    order = np.argsort(cells, kind="stable")
    cells, counts = cells[order], counts[order]
    starts = np.flatnonzero(np.diff(cells, prepend=-1))
    return cells[starts], np.add.reduceat(counts, starts) if len(starts) else counts


def _with_unknown(levels_by_name: Levels) -> Dict[str, Tuple[str, ...]]:
    complete = {}
    for name in sorted(levels_by_name):
        levels = tuple(level for level in levels_by_name[name] if level not in ("", UNKNOWN)) + (UNKNOWN,)
        if not name or len(levels) < 2 or len(set(levels)) != len(levels):
            raise DataError("{!r}: declare at least one level, and none twice".format(name))
        complete[name] = levels
    return complete


def _text(name: str, values: Any) -> NDArray[np.str_]:
    column = np.asarray(values)
    if column.dtype.kind == "O":
        column = np.array(["" if value is None or value != value else value for value in column.tolist()], dtype=object)
        if any(not isinstance(value, (str, int)) for value in column.tolist()):
            raise DataError("{}: give text, not numbers with a fraction or other objects".format(name))
    elif column.dtype.kind not in "Uiu" and column.size:
        raise DataError("{}: give text, not {}".format(name, column.dtype))
    return column.astype(str)


def _buckets(owners: NDArray[np.str_]) -> NDArray[np.int64]:
    texts = owners.tolist()
    known = {
        text: int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") % BUCKETS
        for text in set(texts)
    }
    return np.fromiter((known[text] for text in texts), np.int64, len(texts))


def _codes(name: str, levels: Sequence[str], given: Mapping[str, Any]) -> NDArray[np.int64]:
    if name not in given:
        raise DataError("the column '{}' is missing; there are: {}".format(name, ", ".join(sorted(given)) or "none"))
    values = _text(name, given[name])
    codes = np.where(values == "", len(levels) - 1, -1)
    for code, level in enumerate(levels):
        codes[values == level] = code
    if (codes < 0).any():
        stranger = str(values[codes < 0][0])
        raise DataError("'{}' is not a declared level of {}: {}".format(stranger, name, ", ".join(levels)))
    return codes


def _classes(name: str, values: Any, size: int) -> NDArray[np.int64]:
    column = np.asarray(values)
    if column.dtype.kind not in "iub" and column.size:
        raise DataError("{}: give class indices as whole numbers, not {}".format(name, column.dtype))
    if column.size and (column.min() < 0 or column.max() >= size):
        raise DataError(
            "{}: classes run from 0 to {}, found {} to {}".format(name, size - 1, column.min(), column.max())
        )
    return column.astype(np.int64)


def _canonical(plain: Any) -> bytes:
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _no_doubles(pairs: Sequence[Tuple[str, Any]]) -> Dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _refuse(number: str) -> None:
    raise ValueError("{} is not a whole number".format(number))
