"""Columns of rows to small whole numbers, in a few vectorised passes.

A text's hash is ``sum(code point i * GOLDEN ** (i + 1))`` modulo 2**64 over its UTF-32 code points, finished as in
splitmix64 (Steele, Lea and Flood 2014, fig. 16), so it does not depend on how wide the array is padded, and is the same
on every machine. It only finds: what it finds is compared exactly.

This file is shipped to devices: standard library and numpy only, Python 3.8 syntax.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping, Sequence

import numpy as np

try:
    from fairdeploy.errors import DataError
except ImportError:  # alone on a device
    DataError = ValueError  # type: ignore[misc,assignment]

if TYPE_CHECKING:
    from numpy.typing import NDArray

BUCKETS = 512
GOLDEN = 0x9E3779B97F4A7C15
TABLE_BITS = 24


def hash_text(values: NDArray[Any]) -> NDArray[np.uint64]:
    """Return the 64-bit hash [n] of texts or of whole numbers, which hash as their decimal text.

    Parameters
    ----------
    values : array of str or int [n]
    """
    if values.dtype.kind in "iu":
        return _finished(_number_sums(values))
    points = np.ascontiguousarray(values).view(np.uint32).reshape(len(values), max(1, values.itemsize // 4))
    if not values.dtype.isnative:
        points = points.byteswap()
    return _finished(np.einsum("ij,j->i", points, _powers(points.shape[1])))


def _powers(count: int) -> NDArray[np.uint64]:
    return np.array([pow(GOLDEN, at + 1, 2**64) for at in range(count)], np.uint64)


def _number_sums(values: NDArray[Any]) -> NDArray[np.uint64]:
    """Return the sums of the decimal digits' code points without making texts, one length of text at a time."""
    sums = np.zeros(len(values), np.uint64)
    powers = _powers(21)
    negative = values < 0
    size = values.astype(np.uint64)
    size[negative] = ~size[negative] + np.uint64(1)
    sums[negative] = ord("-") * powers[:1]
    digits = np.searchsorted(np.array([10**k for k in range(1, 20)], np.uint64), size, side="right") + 1
    for count in np.flatnonzero(np.bincount(digits)).tolist():
        for sign in (False, True):
            here = np.flatnonzero((digits == count) & (negative == sign))
            left = size[here]
            for place in range(count - 1 + sign, sign - 1, -1):
                left, digit = np.divmod(left, np.uint64(10))
                sums[here] += (digit + np.uint64(ord("0"))) * powers[place]
    return sums


def _finished(sums: NDArray[np.uint64]) -> NDArray[np.uint64]:
    sums = (sums ^ (sums >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    sums = (sums ^ (sums >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return sums ^ (sums >> np.uint64(31))


def buckets_of(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the bucket of each hash, in [0, BUCKETS)."""
    return (hashes & np.uint64(BUCKETS - 1)).astype(np.int64)


def text(name: str, values: Any) -> NDArray[Any]:
    """Return a column as an array of str or of whole numbers; None and NaN become the empty text.

    Raises
    ------
    DataError
        If it is not one-dimensional, or holds anything else.
    """
    column = np.asarray(values)
    if column.ndim != 1:
        raise DataError("{}: give one value per row, not an array of shape {}".format(name, column.shape))
    if column.dtype.kind in "Uiu":
        return column
    if column.dtype.kind in "OT":
        given = ["" if value is None or value != value else value for value in column.tolist()]
        if any(not isinstance(value, (str, int)) for value in given):
            raise DataError("{}: give text, not numbers with a fraction or other objects".format(name))
        return np.array(list(map(str, given)), dtype=str)
    if column.size:
        raise DataError("{}: give text, not {}".format(name, column.dtype))
    return column.astype(str)


def distinct(ids: NDArray[Any], hashes: NDArray[np.uint64]) -> None:
    """Refuse doubled ids: equal hashes are looked for first, then the ids themselves.

    Raises
    ------
    DataError
        Naming one of the doubled ids.
    """
    ordered = np.sort(hashes)
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(again):
        return
    found, times = np.unique(ids[np.isin(hashes, again)], return_counts=True)
    if (times > 1).any():
        doubled = found[times > 1]
        raise DataError(
            "ids: each row needs an id of its own, and {} are doubled, such as '{}'".format(len(doubled), doubled[0])
        )


def codes(name: str, levels: Sequence[str], given: Mapping[str, Any]) -> NDArray[np.int64]:
    """Return the position of each row's level [n]; what is empty is the last level.

    Raises
    ------
    DataError
        If the column is missing or holds a level that is not declared.
    """
    if name not in given:
        raise DataError("the column '{}' is missing; there are: {}".format(name, ", ".join(sorted(given)) or "none"))
    values = text(name, given[name])
    known = np.array([*levels, ""])
    if values.dtype.kind != "U":
        unique, place = np.unique(values, return_inverse=True)
        return codes(name, levels, {name: unique.astype(str)})[place]
    found = _nearest_by_hash(hash_text(known), hash_text(values))
    wrong = known.take(found) != values
    if wrong.any():
        stranger = str(values[wrong][0])
        raise DataError("'{}' is not a declared level of {}: {}".format(stranger, name, ", ".join(levels)))
    return np.where(found == len(levels), len(levels) - 1, found)


def _nearest_by_hash(known: NDArray[np.uint64], hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the position of a known hash for each hash; any position where it is none of them."""
    for bits in range(len(known).bit_length(), TABLE_BITS, 2):
        for shift in range(64 - bits):
            slots = (known >> np.uint64(shift)) & np.uint64(2**bits - 1)
            if len(np.unique(slots)) == len(slots):
                table = np.zeros(2**bits, np.int64)
                table[slots.astype(np.int64)] = np.arange(len(known))
                return table[((hashes >> np.uint64(shift)) & np.uint64(2**bits - 1)).astype(np.int64)]
    order = np.argsort(known)
    return order[np.minimum(np.searchsorted(known[order], hashes), len(known) - 1)]


def classes(name: str, values: Any, size: int) -> NDArray[np.int64]:
    """Return class indices [n] as int64.

    Raises
    ------
    DataError
        If they are not whole numbers from 0 to size - 1.
    """
    column = np.asarray(values)
    if column.dtype.kind not in "iub" and column.size:
        raise DataError("{}: give class indices as whole numbers, not {}".format(name, column.dtype))
    if column.size and (column.min() < 0 or column.max() >= size):
        raise DataError(
            "{}: classes run from 0 to {}, found {} to {}".format(name, size - 1, column.min(), column.max())
        )
    return column.astype(np.int64)
