"""New arguments for operations that hold sizes, once channels are gone.

Operations that move elements are checked on the spot: run on what stays of their operand they must give what stays
of their result, element for element.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx

from fairdeploy.compaction import ops
from fairdeploy.compaction.graph_labels import LabelledGraph
from fairdeploy.compaction.label_rules import run_on
from fairdeploy.compaction.selection import Selection, shape_after, take

Selections = dict[fx.Node, tuple[Selection, ...]]


@dataclass(frozen=True)
class Arguments:
    """Arguments of a call; a tensor among them is stored with the network."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class NotRewritten(Exception):
    """An operation that does not give what stays of its result."""

    def __init__(self, node: fx.Node) -> None:
        self.node = node
        super().__init__(str(node))


@dataclass(frozen=True)
class _At:
    labelled: LabelledGraph
    values: dict[fx.Node, Any]
    selections: Selections
    node: fx.Node

    @property
    def unchanged(self) -> Arguments:
        return Arguments(self.node.args, dict(self.node.kwargs))

    @property
    def source(self) -> fx.Node:
        return self.node.all_input_nodes[0]

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Return the shape of what stays of a node."""
        return shape_after(self.labelled.shapes[node], self.selections[node])

    def along(self, node: fx.Node, dim: int) -> Any:
        """Return which indices [size] of a dimension stay."""
        for selection in self.selections[node]:
            if dim in selection.dims:
                return selection.along(dim)
        return np.ones(self.labelled.shapes[node][dim], bool)


Rewrite = Callable[[_At], Arguments]


def rewritten(
    labelled: LabelledGraph, values: dict[fx.Node, Any], selections: Selections, node: fx.Node
) -> Arguments | None:
    """Return a node's new arguments, or None where they stay.

    Raises
    ------
    NotRewritten
        If the operation cannot give what stays of its result from what stays of its operand.
    """
    at = _At(labelled, values, selections, node)
    rewrite = _REWRITES.get(node.target)
    new = Arguments(node.args, dict(node.kwargs)) if rewrite is None else rewrite(at)
    if node.target in ops.MOVE | ops.INDEX:
        _check(at, new)
    return None if rewrite is None else new


def _check(at: _At, new: Arguments) -> None:
    """Run the operation, old and new, on numbers that are all different."""
    source = at.source
    numbers = torch.arange(at.values[source].numel(), dtype=torch.float64).reshape(at.values[source].shape)
    expected = take(run_on(at.values, at.node, source, numbers), at.selections[at.node])

    def value(other: fx.Node) -> Any:
        return take(numbers, at.selections[source]) if other is source else at.values[other]

    try:
        function: Any = torch.reshape if at.node.target in ops.VIEW else at.node.target
        args, kwargs = fx.map_arg(new.args, value), fx.map_arg(new.kwargs, value)
        if at.node.target in ops.PAD and ops.pads_constant(at.node):
            args, kwargs = args[:2], {}
        found = function(*args, **kwargs)
    except (RuntimeError, IndexError) as error:
        raise NotRewritten(at.node) from error
    if found.shape != expected.shape or not torch.equal(found, expected):
        raise NotRewritten(at.node)


def _sizes(at: _At) -> Arguments:
    """View, expand, zeros: each size becomes the number of indices that stay; -1 and computed ones stay."""
    place, name = (0, "size") if at.node.target in ops.FILLED - ops.NEW else (1, "size")
    old, shape = list(ops.argument(at.node, place, name)), at.shape(at.node)
    before = at.labelled.shapes[at.node]
    sizes: list[Any] = list(old)
    for dim, size in enumerate(old):
        if isinstance(size, int) and size >= 0:
            sizes[dim] = shape[dim]
        elif isinstance(size, fx.Node) and shape[dim] != before[dim]:
            if at.node.target not in ops.VIEW:
                raise NotRewritten(at.node)
            sizes = [-1 if d == dim else (shape[d] if s == -1 else s) for d, s in enumerate(sizes)]
    return Arguments(*ops.with_argument(at.node, place, name, sizes))


def _unflatten(at: _At) -> Arguments:
    args = at.node.args
    dim, sizes = int(args[1]), list(args[2])  # type: ignore[arg-type]
    shape = at.shape(at.node)
    first = dim % len(at.labelled.shapes[at.source])
    return Arguments((args[0], dim, [shape[first + k] if s != -1 else -1 for k, s in enumerate(sizes)]), {})


def _slice(at: _At) -> Arguments:
    """Bounds become ranks among the indices that stay."""
    dim = int(ops.argument(at.node, 1, "dim", 0)) % len(at.labelled.shapes[at.source])
    kept = at.along(at.source, dim)
    if kept.all():
        return at.unchanged
    step = int(ops.argument(at.node, 4, "step", 1))
    bounds = slice(ops.argument(at.node, 2, "start"), ops.argument(at.node, 3, "end"), step).indices(len(kept))
    picked = np.arange(*bounds)
    ranks = (np.cumsum(kept) - 1)[picked[kept[picked]]]
    if step == 1:
        start, end = (int(kept[:bound].sum()) for bound in bounds[:2])
        return Arguments((at.source, dim, start, end, 1), {})
    strides = np.unique(np.diff(ranks))
    if len(strides) > 1 or not len(ranks):
        raise NotRewritten(at.node)
    return Arguments((at.source, dim, int(ranks[0]), int(ranks[-1]) + 1, int(strides[0]) if len(strides) else 1), {})


def _select(at: _At) -> Arguments:
    dim = int(at.node.args[1]) % len(at.labelled.shapes[at.source])  # type: ignore[arg-type]
    kept = at.along(at.source, dim)
    index = int(at.node.args[2]) % len(kept)  # type: ignore[arg-type]
    return Arguments((at.source, dim, int(kept[:index].sum())), {})


def _pad(at: _At) -> Arguments:
    amounts = list(ops.argument(at.node, 1, "pad"))
    rank = len(at.labelled.shapes[at.node])
    for pair in range(len(amounts) // 2):
        dim, (before, after) = rank - 1 - pair, amounts[2 * pair : 2 * pair + 2]
        kept = at.along(at.node, dim)
        if not kept.all() and before >= 0 and after >= 0:
            amounts[2 * pair] = int(kept[:before].sum())
            amounts[2 * pair + 1] = int(kept[len(kept) - after :].sum())
    return Arguments(*ops.with_argument(at.node, 1, "pad", amounts))


def _roll(at: _At) -> Arguments:
    shifts, dims = list(at.node.args[1]), list(ops.argument(at.node, 2, "dims", []))  # type: ignore[arg-type]
    for place, dim in enumerate(dims):
        kept = at.along(at.source, dim % len(at.labelled.shapes[at.source]))
        if not kept.all():
            shift = int(shifts[place]) % len(kept)
            shifts[place] = int(kept[len(kept) - shift :].sum())
    return Arguments((at.source, shifts, dims), {})


def _index(at: _At) -> Arguments:
    """Constant numbers become ranks among the indices that stay."""
    if at.node.target is ops.aten.index_select.default:
        dim, index = ops.argument(at.node, 1, "dim"), ops.argument(at.node, 2, "index")
    else:
        indices = ops.argument(at.node, 1, "indices")
        dim = next((place for place, index in enumerate(indices) if index is not None), 0)
        index = indices[dim]
        if sum(other is not None for other in indices) != 1:
            return at.unchanged
    dim %= len(at.labelled.shapes[at.source])
    kept, numbers = at.along(at.source, dim), at.values[index]
    if kept.all():
        return at.unchanged
    if numbers.dtype is torch.bool or numbers.ndim != 1:
        raise NotRewritten(at.node)
    picked = numbers.numpy() % len(kept)
    ranks = torch.from_numpy((np.cumsum(kept) - 1)[picked[kept[picked]]])
    if at.node.target is ops.aten.index_select.default:
        return Arguments((at.source, dim, ranks), {})
    return Arguments((at.source, [*[None] * dim, ranks]), {})


def _convolution(at: _At) -> Arguments:
    """Groups become those of which anything stays."""
    weight = ops.argument(at.node, 1, "weight")
    across = at.labelled.grouped.get(weight)
    if across is None:
        return at.unchanged
    groups = groups_that_stay(at.labelled, at.selections, at.node, at.source)
    return Arguments(*ops.with_argument(at.node, 6, "groups", groups))


def groups_that_stay(labelled: LabelledGraph, selections: Selections, node: fx.Node, source: fx.Node) -> int:
    """Return how many groups a grouped convolution has left."""
    kept = next((s.along(1) for s in selections[source] if 1 in s.dims), np.ones(labelled.shapes[source][1], bool))
    return int(kept.reshape(ops.groups_of(node), -1).any(1).sum())


def _group_norm(at: _At) -> Arguments:
    per_group = at.labelled.shapes[at.source][1] // int(at.node.args[1])  # type: ignore[arg-type]
    return Arguments((at.source, at.shape(at.source)[1] // per_group, *at.node.args[2:]), dict(at.node.kwargs))


def _attention(at: _At) -> Arguments:
    """The scale of the scores stays that of the old width."""
    scale = ops.argument(at.node, 6, "scale")
    width = at.labelled.shapes[at.source][-1]
    return Arguments(at.node.args, {**at.node.kwargs, "scale": 1 / math.sqrt(width) if scale is None else scale})


_REWRITES: dict[Any, Rewrite] = {
    **dict.fromkeys(ops.VIEW | ops.EXPAND | ops.FILLED, _sizes),
    ops.aten.unflatten.int: _unflatten,
    **dict.fromkeys(ops.SLICE, _slice),
    **dict.fromkeys(ops.SELECT, _select),
    **dict.fromkeys(ops.PAD, _pad),
    **dict.fromkeys(ops.ROLL, _roll),
    **dict.fromkeys(ops.INDEX, _index),
    **dict.fromkeys((*ops.CONVOLUTION, *ops.TRANSPOSED), _convolution),
    **dict.fromkeys(ops.GROUP_NORM, _group_norm),
    **dict.fromkeys(ops.ATTENTION, _attention),
}
