"""Which elements go together: labels on the dimensions of every tensor, united along the graph.

Every index of every parameter dimension gets a label of its own. Labels are carried through the graph in *blocks*
and united where an operation needs two of them to stay or go together. What must stay whatever happens (inputs,
outputs, whatever an unknown operation touches) is pinned, with the reason. Labels united form a channel; the
smallest one names it, so that a channel is named after its producer.

A block is an int array of labels over one or several dimensions of a tensor. A view of 8 channels as 2 heads of
4 gives one block [2, 4] with the eight labels, so heads and dimensions may be removed apart as long as the tensor
stays rectangular: each head keeps equally many. That is what a `Grid` demands, the only other kind of constraint.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Ids = NDArray[np.int64]
Key = tuple[tuple[int, ...], bytes]


@dataclass(frozen=True)
class Block:
    """Labels over some dimensions of a tensor; dimensions in no block stay whole.

    Attributes
    ----------
    dims : tuple of int
        From the outermost to the innermost; the number kept along the last may differ in place, not in count.
    ids : array of int
        One label for each combination of indices, its axes as in `dims`.
    """

    dims: tuple[int, ...]
    ids: Ids


def ids_over(blocks: Iterable[Block], dim: int) -> Ids | None:
    """Return the labels of a dimension that is a block of its own."""
    return next((block.ids for block in blocks if block.dims == (dim,)), None)


@dataclass(eq=False)
class Grid:
    """Labels [rows, columns] that must stay rectangular: every row that stays keeps equally many columns.

    Attributes
    ----------
    ids : array of int [r, c]
    rows : array of int [r]
        Labels that stay exactly as long as something of the row does.
    product : bool
        Whether rows must keep the *same* columns.
    """

    ids: Ids
    rows: Ids
    product: bool = False


@dataclass(frozen=True)
class Channels:
    """What is left of the labels once all unions are done.

    Attributes
    ----------
    root : array of int [labels]
        The smallest label united with each.
    reason : array of int [labels]
        At each root the index in `reasons` of why it is pinned, else -1.
    reasons : list of str
    """

    root: Ids
    reason: Ids
    reasons: list[str]

    def roots(self, ids: Iterable[Ids]) -> Ids:
        """Return the channels, each once, of several arrays of labels."""
        found: Ids = np.unique(np.concatenate([np.empty(0, np.int64), *(self.root[part].ravel() for part in ids)]))
        return found

    def pinned(self, root: int) -> str | None:
        """Return why a channel is pinned, or None."""
        return None if self.reason[root] < 0 else self.reasons[self.reason[root]]


@dataclass
class Labels:
    """Labels 0, 1, 2, ... under union, some of them pinned, some of them in grids."""

    count: int = 0
    grids: list[Grid] = field(default_factory=list)
    _edges: list[tuple[Ids, Ids]] = field(default_factory=list)
    _pins: list[tuple[Ids, int]] = field(default_factory=list)
    _reasons: list[str] = field(default_factory=list)
    _grid_of: dict[Key, Grid] = field(default_factory=dict)
    _owners: list[tuple[str, int]] = field(default_factory=list)
    _starts: list[int] = field(default_factory=list)

    def fresh(self, *shape: int, owner: tuple[str, int] | None = None) -> Ids:
        """Return new labels, made for a dimension of a parameter or for none."""
        start = self.count
        self.count += int(np.prod(shape))
        if owner is not None:
            self._owners.extend((owner, ("", 0)))
            self._starts.extend((start, self.count))
        return np.arange(start, self.count).reshape(shape)

    def owner(self, label: int) -> tuple[str, int] | None:
        """Return the parameter or buffer and the dimension that a label was made for."""
        place = bisect_right(self._starts, label) - 1
        return self._owners[place] if place >= 0 and self._owners[place][0] else None

    def unite(self, first: Ids, second: Ids) -> None:
        """Unite two arrays of labels of one shape, element by element."""
        if first is not second:
            self._edges.append((first.ravel(), second.ravel()))

    def pin(self, ids: Ids, reason: str) -> None:
        """Let labels stay whatever happens."""
        if reason not in self._reasons:
            self._reasons.append(reason)
        self._pins.append((ids.ravel(), self._reasons.index(reason)))

    def rows(self, ids: Ids, *, product: bool = False) -> Ids:
        """Return a label for each row of `ids` [r, c] that stays as long as something of the row does."""
        if ids.shape[1] == 1:
            return ids[:, 0]
        unique, place = np.unique(ids, axis=0, return_inverse=True)
        key = (unique.shape, unique.tobytes())
        grid = self._grid_of.get(key)
        if grid is None:
            grid = self._grid_of[key] = Grid(unique, self.fresh(len(unique)))
            self.grids.append(grid)
        grid.product |= product
        return grid.rows[place.ravel()]

    def channels(self) -> Channels:
        """Carry out all unions; rows of grids that turn out to be one grid are united as well."""
        while True:
            root = self._components()
            seen: dict[Key, Grid] = {}
            merged = False
            for grid in self.grids:
                other = seen.setdefault((grid.ids.shape, root[grid.ids].tobytes()), grid)
                if other is not grid:
                    other.product = grid.product = other.product or grid.product
                    if not np.array_equal(root[other.rows], root[grid.rows]):
                        self.unite(other.rows, grid.rows)
                        merged = True
            if not merged:
                break
        reason = np.full(self.count, -1)
        for ids, why in reversed(self._pins):
            reason[root[ids]] = why
        return Channels(root, reason, self._reasons)

    def _components(self) -> Ids:
        first = np.concatenate([a for a, _ in self._edges] or [np.empty(0, np.int64)])
        second = np.concatenate([b for _, b in self._edges] or [np.empty(0, np.int64)])
        graph = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(self.count, self.count))
        _, component = connected_components(graph, directed=False)
        smallest = np.full(component.max(initial=-1) + 1, self.count)
        np.minimum.at(smallest, component, np.arange(self.count))
        root: Ids = smallest[component].astype(np.int64)
        return root
