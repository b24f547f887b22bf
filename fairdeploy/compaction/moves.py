"""Operations that only move elements, understood by running them on labels in the elements' place.

No shape operation needs a rule: each is run on a block's labels, spread over the operand without copying, and the
dimensions along which the result varies are where the labels went.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fairdeploy.compaction.labels import Block, Ids, Labels

Move = Callable[[Tensor], Tensor]

_MOST_PAIRS = 1_000_000


def moved(
    labels: Labels, blocks: tuple[Block, ...], shape: tuple[int, ...], move: Move, reason: str
) -> tuple[Block, ...]:
    """Return the blocks of a moved tensor.

    Parameters
    ----------
    labels : Labels
    blocks : tuple of Block
        Of a tensor of shape `shape`.
    move : callable
        Gives the result for a tensor of that shape; zeros in it are padding.
    reason : str
        Why a label stays that is picked out singly.
    """
    result: list[Block] = []
    for block in blocks:
        dims, numbers = where_to(move(spread(block, shape, 1)))
        if not dims:
            labels.pin(numbers[numbers > 0] - 1, reason)
            continue
        padding = numbers == 0
        ids = numbers - 1
        ids[padding] = labels.fresh(int(padding.sum()))
        found = Block(dims, ids)
        for other in [other for other in result if set(other.dims) & set(dims)]:
            result.remove(other)
            found = _pairs(labels, other, found, reason)
        if found.dims:
            keep_rectangular(labels, found.ids)
            result.append(found)
    return tuple(result)


def spread(block: Block, shape: tuple[int, ...], offset: int = 0) -> Tensor:
    """Return a block's ids as a float64 tensor of the given shape, repeated along all other dimensions."""
    order = np.argsort(block.dims).tolist()
    ids = torch.from_numpy((block.ids + offset).astype(np.float64)).permute(*order)
    return ids[tuple(slice(None) if dim in block.dims else None for dim in range(len(shape)))].expand(shape)


def where_to(result: Tensor) -> tuple[tuple[int, ...], Ids]:
    """Return the dimensions along which a tensor of numbers varies, outermost first, and the numbers over them.

    Zeros vary from nothing: they are padding.
    """
    small = result
    for dim, stride in enumerate(result.stride()):
        if stride == 0:
            small = small.narrow(dim, 0, 1)
    for dim in range(small.ndim):
        if small.shape[dim] > 1:
            highest = small.amax(dim, keepdim=True)
            lowest = small.where(small > 0, torch.inf).amin(dim, keepdim=True)
            if not bool((lowest < highest).any()):
                small = highest
    varying = [dim for dim in range(small.ndim) if small.shape[dim] > 1]
    outermost_first = sorted(varying, key=lambda dim: -result.stride()[dim])
    rest = [dim for dim in range(small.ndim) if dim not in varying]
    ids = small.permute(*outermost_first, *rest).reshape([small.shape[dim] for dim in outermost_first])
    return tuple(outermost_first), ids.numpy().astype(np.int64)


def keep_rectangular(labels: Labels, ids: Ids) -> None:
    """Demand that a joint block stays an array of full rows, at every level."""
    while ids.ndim > 1:
        ids = labels.rows(ids.reshape(-1, ids.shape[-1])).reshape(ids.shape[:-1])


def _pairs(labels: Labels, first: Block, second: Block, reason: str) -> Block:
    """Merge two independent blocks that came out along one dimension: an element stays iff both its labels do."""
    dims = tuple(sorted({*first.dims, *second.dims}))
    size = dict(zip(first.dims + second.dims, first.ids.shape + second.ids.shape, strict=True))
    shape = tuple(size[dim] for dim in dims)
    a, b = (
        spread(Block(tuple(dims.index(dim) for dim in block.dims), block.ids), shape).numpy().astype(np.int64)
        for block in (first, second)
    )
    (rows, at_row), (columns, at_column) = (np.unique(ids, return_inverse=True) for ids in (a, b))
    if len(rows) * len(columns) > _MOST_PAIRS:
        labels.pin(rows, reason)
        labels.pin(columns, reason)
        return Block((), np.empty(0, np.int64))
    pairs = labels.fresh(len(rows), len(columns))
    labels.unite(labels.rows(pairs, product=True), rows)
    labels.unite(labels.rows(np.ascontiguousarray(pairs.T), product=True), columns)
    return Block(dims, pairs[at_row.reshape(shape), at_column.reshape(shape)])
