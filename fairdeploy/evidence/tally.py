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
from typing import TYPE_CHECKING, Any, ClassVar, Dict, Mapping, Optional, Sequence, Tuple, Type, TypeVar

import numpy as np

from fairdeploy.evidence.encoding import BUCKETS, buckets_of, classes, codes, distinct, hash_text, text
from fairdeploy.evidence.schema import MAX_ROWS, OUTCOME, UNKNOWN, Schema

try:
    from fairdeploy.errors import DataError, IntegrityError
except ImportError:  # alone on a device
    DataError = IntegrityError = ValueError  # type: ignore[misc,assignment]

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["BUCKETS", "UNKNOWN", "Counts", "Schema", "Tally"]

DENSE_CELLS = 2**24
Kind = TypeVar("Kind", bound="Counts")


@dataclass(frozen=True, eq=False)
class Counts:
    """Non-empty cells of a table and how many rows each holds; what `Tally` and `Scores` share. Adds with ``+``.

    Attributes
    ----------
    schema : Schema
    cells : array of int64 [k]
        Flat C-order indices into `shape`, strictly increasing.
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

    kind: ClassVar[str]
    head: ClassVar[Mapping[str, Any]]

    def __post_init__(self) -> None:
        cells, counts = self.cells, self.counts
        if cells.dtype != np.int64 or counts.dtype != np.int64 or cells.ndim != 1 or cells.shape != counts.shape:
            raise DataError("a {} needs two int64 arrays of one length".format(self.kind))
        if cells.size and (cells[0] < 0 or cells[-1] >= math.prod(self.shape) or (np.diff(cells) <= 0).any()):
            raise DataError("{} cells must be strictly increasing and inside the schema".format(self.kind))
        if (counts <= 0).any():
            raise DataError("{} counts must be positive".format(self.kind))
        if counts.astype(np.float64).sum() >= MAX_ROWS:
            raise DataError("a {} holds fewer than 2**53 rows".format(self.kind))
        cells.setflags(write=False)
        counts.setflags(write=False)

    @property
    def axes(self) -> Tuple[str, ...]:
        """Names of the dimensions, in the order of `shape`."""
        raise NotImplementedError

    @property
    def shape(self) -> Tuple[int, ...]:
        """Size of each dimension; the first are the buckets."""
        raise NotImplementedError

    @classmethod
    def zero(cls: Type[Kind], schema: Schema) -> Kind:
        """Return the empty one, the neutral element of ``+``."""
        return cls(schema, np.zeros(0, np.int64), np.zeros(0, np.int64))

    def __add__(self: Kind, other: Kind) -> Kind:
        """Return the sum; refuses another schema."""
        if not isinstance(other, type(self)):
            return NotImplemented
        if self.schema != other.schema:
            raise DataError("tallies of different schemas cannot be added: groups, contexts or classes differ")
        cells = np.concatenate([self.cells, other.cells])
        return type(self)(self.schema, *_merged(cells, np.concatenate([self.counts, other.counts])))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self.schema == other.schema and self.digest == other.digest

    __hash__ = None  # type: ignore[assignment]

    @property
    def rows(self) -> int:
        """Number of rows counted."""
        return int(self.counts.sum())

    @cached_property
    def coordinates(self) -> Dict[str, NDArray[np.int64]]:
        """Level index of each cell [k], by the name of the dimension."""
        return dict(zip(self.axes, np.unravel_index(self.cells, self.shape)))  # noqa: B905

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
        array of int64 [buckets, levels of axes[0], ...]
        """
        shape = self.shape[:1] + tuple(len(self.schema.levels(axis)) for axis in axes)
        flat = np.ravel_multi_index(tuple(self.coordinates[axis] for axis in ("bucket",) + tuple(axes)), shape)
        weights = self.counts if values is None else self.counts * values
        totals = np.bincount(flat, weights=weights, minlength=math.prod(shape))
        return np.rint(totals).astype(np.int64).reshape(shape)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON without the digest, as 64 hexadecimal digits."""
        return hashlib.sha256(_canonical(self._plain())).hexdigest()

    def _plain(self) -> Dict[str, Any]:
        steps = np.diff(self.cells, prepend=0).tolist()
        return {**self.head, "schema": self.schema.to_plain(), "steps": steps, "counts": self.counts.tolist()}

    def to_json(self) -> str:
        """Return JSON: ``steps`` are the differences between successive `cells`, from 0."""
        return _canonical({**self._plain(), "digest": self.digest}).decode() + "\n"

    @classmethod
    def from_json(cls: Type[Kind], text: str) -> Kind:
        """Read what `to_json` wrote.

        Raises
        ------
        IntegrityError
            If it is not such a text, or was changed since.
        """
        try:
            plain = json.loads(text, object_pairs_hook=_no_doubles, parse_float=_refuse, parse_constant=_refuse)
            declared = plain.pop("digest")
            if any(plain[key] != known for key, known in cls.head.items()):
                raise ValueError("expected {!r} with {} buckets".format(cls.head["format"], cls.head["buckets"]))
            if hashlib.sha256(_canonical(plain)).hexdigest() != declared:
                raise ValueError("its digest does not match its content")
            cells = np.cumsum(np.array(plain["steps"], np.int64), dtype=np.int64)
            found = cls(Schema(**plain["schema"]), cells, np.array(plain["counts"], np.int64))
            if found.digest != declared:
                raise ValueError("it is not in canonical form")
            return found
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, DataError) as error:
            raise IntegrityError("not a valid {}: {}".format(cls.kind, error)) from error


@dataclass(frozen=True, eq=False)
class Tally(Counts):
    """Rows per bucket, group, context, label and both predictions. Make one with `count`, `zero` or `from_json`."""

    kind: ClassVar[str] = "tally"
    head: ClassVar[Mapping[str, Any]] = {"format": "fairdeploy-tally/2", "buckets": BUCKETS}

    @property
    def axes(self) -> Tuple[str, ...]:
        """Names of the dimensions, in the order of `shape`."""
        return self.schema.axes

    @property
    def shape(self) -> Tuple[int, ...]:
        """Size of each dimension; the first are the buckets."""
        return self.schema.shape

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
        ids : array of str or int [n]
            Unique; choose the bucket when there are no clusters.
        labels, reference, deployed : array of int [n]
            True class, and the classes predicted by the reference and by the deployed model.
        attributes, contexts : dict of str to array of str [n]
            At least the columns that the schema declares; an empty string, None or NaN is ``unknown``.
        clusters : array of str or int [n], or None
            Must be given exactly when the schema is clustered.

        Raises
        ------
        DataError
            For arrays of different length, doubled ids, classes that are not whole numbers inside the schema, missing
            columns, undeclared levels, or clusters that are missing.
        """
        groups = {"attributes": attributes, "contexts": contexts, "clusters": clusters}
        columns = {"references": {"reference": reference}, "deployed": deployed}
        return cls.count_all(schema, ids=ids, labels=labels, **groups, **columns)["reference"]  # type: ignore[arg-type]

    @classmethod
    def count_all(
        cls,
        schema: Schema,
        *,
        ids: ArrayLike,
        labels: ArrayLike,
        attributes: Mapping[str, ArrayLike],
        contexts: Mapping[str, ArrayLike],
        clusters: Optional[ArrayLike],
        references: Mapping[str, ArrayLike],
        deployed: ArrayLike,
    ) -> Dict[str, Tally]:
        """Count the same rows against several references, and return a tally for each.

        As `count` does one by one, but the rows are encoded only once.
        """
        base, rows = placed(schema, ids, clusters, (attributes, contexts))
        size = len(schema.classes)
        for name, values in (("labels", labels), ("deployed", deployed), *references.items()):
            if np.shape(values) != (rows,):
                raise DataError("{}: {} rows, but there are {} ids".format(name, np.size(values), rows))
        base = base * size + classes("labels", labels, size)
        predicted = classes("deployed", deployed, size)
        return {
            name: cls(schema, *counted((base * size + classes(name, values, size)) * size + predicted, schema.shape))
            for name, values in references.items()
        }

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


def placed(
    schema: Schema, ids: ArrayLike, clusters: Optional[ArrayLike], columns: Sequence[Mapping[str, ArrayLike]]
) -> Tuple[NDArray[np.int64], int]:
    """Return each row's flat index over (bucket, attributes, contexts), and the number of rows.

    Parameters
    ----------
    columns : (attributes, contexts)
        By name.
    """
    texts = text("ids", ids)
    hashes = hash_text(texts)
    distinct(texts, hashes)
    if (clusters is not None) != schema.clustered:
        raise DataError("clusters must be given exactly when the schema is clustered")
    owners = texts if clusters is None else text("clusters", clusters)
    if owners.dtype.kind == "U" and (owners == "").any():
        raise DataError(
            "{}: {} rows have none".format("ids" if clusters is None else "clusters", int((owners == "").sum()))
        )
    flat = buckets_of(hashes if clusters is None else hash_text(owners))
    for declared, given in zip((schema.attributes, schema.contexts), columns):  # noqa: B905
        for name, levels in declared.items():
            column = codes(name, levels, given)
            if len(column) != len(texts):
                raise DataError("{}: {} rows, but there are {} ids".format(name, len(column), len(texts)))
            flat = flat * len(levels) + column
    if len(owners) != len(texts):
        raise DataError("clusters: {} rows, but there are {} ids".format(len(owners), len(texts)))
    return flat, len(texts)


def counted(flat: NDArray[np.int64], shape: Tuple[int, ...]) -> Tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the cells that occur, in order, and how often."""
    if math.prod(shape) <= min(DENSE_CELLS, 8 * len(flat)):
        every = np.bincount(flat)
        cells = np.flatnonzero(every)
        return cells.astype(np.int64), every[cells].astype(np.int64)
    cells, counts = np.unique(flat, return_counts=True)
    return cells.astype(np.int64), counts.astype(np.int64)


def _merged(cells: NDArray[np.int64], counts: NDArray[np.int64]) -> Tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sort cells and add up the counts of equal ones."""
    order = np.argsort(cells, kind="stable")
    cells, counts = cells[order], counts[order]
    starts = np.flatnonzero(np.diff(cells, prepend=-1))
    return cells[starts], np.add.reduceat(counts, starts) if len(starts) else counts


def _canonical(plain: Any) -> bytes:
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _no_doubles(pairs: Sequence[Tuple[str, Any]]) -> Dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _refuse(number: str) -> None:
    raise ValueError("{} is not a whole number".format(number))
