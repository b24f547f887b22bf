"""Which channels must stay once some do: tensors are rectangular, and none is empty.

Any subset of the removable channels may be removed, so what cannot be carried out is given back: the closure grows
the set of channels that stay until every demand holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairdeploy.compaction.labels import Channels, Grid, Ids

LAST_CHANNEL = "the last channel of a layer is never removed"
UNEVEN = "the other rows (heads, groups) of its tensor keep as many"

Kept = NDArray[np.bool_]


@dataclass
class Closure:
    """The demands of a network on the channels that stay.

    Attributes
    ----------
    channels : Channels
    grids : list of Grid
        With channels (roots) in the place of labels.
    dimensions : list of array of int
        The channels of each dimension that must not become empty.
    """

    channels: Channels
    grids: list[Grid]
    dimensions: list[Ids]

    @staticmethod
    def of(channels: Channels, grids: list[Grid], dimensions: list[Ids]) -> Closure:
        """Return the demands of grids and dimensions given by labels."""
        root = channels.root
        unique: dict[tuple[tuple[int, ...], bytes], Grid] = {}
        for grid in grids:
            key = (grid.ids.shape, root[grid.ids].tobytes())
            found = unique.setdefault(key, Grid(root[grid.ids], root[grid.rows], grid.product))
            found.product |= grid.product
        sizes = {root[ids].tobytes(): root[ids].ravel() for ids in dimensions}
        return Closure(channels, list(unique.values()), list(sizes.values()))

    def close(self, kept: Kept, because: dict[int, str]) -> None:
        """Grow `kept` [labels] in place until every demand holds; `because` gets what was given back, and why."""
        changed = True
        while changed:
            changed = False
            for grid in self.grids:
                changed |= self._fill(grid, kept, because)
            for ids in self.dimensions:
                if not kept[ids].any():
                    kept[ids[0]] = changed = True
                    because.setdefault(int(ids[0]), LAST_CHANNEL)

    @staticmethod
    def _fill(grid: Grid, kept: Kept, because: dict[int, str]) -> bool:
        inside = kept[grid.ids]
        rows = inside.any(1) | kept[grid.rows]
        if not rows.any():
            return False
        wanted = inside.copy()
        if grid.product:
            columns: Kept = np.asarray(inside.any(0))
            columns[0] |= not columns.any()
            wanted |= rows[:, None] & columns
        else:
            most = max(int(inside.sum(1).max()), 1)
            favour = inside.sum(0)
            for row in np.flatnonzero(rows & (inside.sum(1) < most)):
                free = np.flatnonzero(~inside[row])
                order = free[np.argsort(-favour[free], kind="stable")]
                wanted[row, order[: most - int(inside[row].sum())]] = True
        new = np.unique(grid.ids[wanted & ~inside])
        new = new[~kept[new]]
        alive = np.unique(grid.rows[rows])
        changed = len(new) > 0 or not kept[alive].all()
        kept[alive] = True
        kept[new] = True
        for channel in new.tolist():
            because.setdefault(channel, UNEVEN)
        return changed
