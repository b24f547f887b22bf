"""What stays of a tensor: positions along its blocks, and the smaller tensor made of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairdeploy.compaction.graph_labels import Blocks
from fairdeploy.compaction.labels import Block, Ids


@dataclass(frozen=True)
class Selection:
    """The places of a block that stay.

    Attributes
    ----------
    dims : tuple of int
        From the outermost to the innermost.
    sizes : tuple of int
        Their sizes before.
    places : array of int
        In the shape of the sizes after: the flat index before of each element.
    """

    dims: tuple[int, ...]
    sizes: tuple[int, ...]
    places: Ids

    @property
    def whole(self) -> bool:
        """Whether everything stays."""
        return self.places.shape == self.sizes

    def along(self, dim: int) -> NDArray[np.bool_]:
        """Return which indices of a dimension stay; in the first row, where rows differ."""
        axis = self.dims.index(dim)
        first = self.places.copy()
        for other in range(first.ndim):
            if other != axis:
                first = first.take([0], axis=other)
        kept = np.zeros(self.sizes[axis], bool)
        kept[np.unravel_index(first.ravel(), self.sizes)[axis]] = True
        return kept


class Ragged(Exception):
    """Rows of a joint block would keep different numbers."""


def select(blocks: Blocks, stays: NDArray[np.bool_]) -> tuple[Selection, ...]:
    """Return what stays of each block; `stays` says it for every label.

    Raises
    ------
    Ragged
        If the rest is not rectangular.
    """
    return tuple(_select(block, stays[block.ids]) for block in blocks)


def _select(block: Block, kept: NDArray[np.bool_]) -> Selection:
    flat = np.arange(block.ids.size).reshape(block.ids.shape)
    return Selection(block.dims, block.ids.shape, flat if kept.all() else _compress(flat, kept))


def _compress(flat: Ids, kept: NDArray[np.bool_]) -> Ids:
    if flat.ndim == 1:
        return flat[kept]
    rows = [_compress(flat[i], kept[i]) for i in range(len(flat)) if kept[i].any()]
    if len({row.shape for row in rows}) != 1:
        raise Ragged
    return np.stack(rows)


def shape_after(shape: tuple[int, ...], selections: tuple[Selection, ...]) -> tuple[int, ...]:
    """Return the shape of what stays of a tensor."""
    sizes = list(shape)
    for selection in selections:
        for dim, size in zip(selection.dims, selection.places.shape, strict=True):
            sizes[dim] = size
    return tuple(sizes)


def take(tensor: Tensor, selections: tuple[Selection, ...]) -> Tensor:
    """Return what stays of a tensor; along dimensions of size 1 there is nothing to choose."""
    for selection in selections:
        if selection.whole:
            continue
        if len(selection.dims) == 1:
            (dim,) = selection.dims
            if tensor.shape[dim] > 1:
                tensor = tensor.index_select(dim, torch.from_numpy(selection.places))
            continue
        if any(tensor.shape[dim] == 1 for dim in selection.dims):
            tensor = tensor.expand([
                selection.sizes[selection.dims.index(dim)] if dim in selection.dims else size
                for dim, size in enumerate(tensor.shape)
            ])  # fmt: skip
        ends = list(range(len(selection.dims)))
        front = tensor.movedim(selection.dims, ends).flatten(0, len(ends) - 1)
        tensor = front[torch.from_numpy(selection.places)].movedim(ends, selection.dims)
    return tensor
