"""Channel shuffles: picked by their numbers while channels are removed, shuffled again where that is what is left.

A shuffle is a view as rows, a transpose and a view back, so its rows would have to keep equally many channels.
Picked one by one, every channel may go by itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from fairdeploy.compaction import ops
from fairdeploy.compaction.ops import aten
from fairdeploy.compaction.shapes import Shapes, call
from fairdeploy.compaction.stored import free_name

PICKED = "_index"  # how surgery names the numbers that an operation picks by
_ORDER = "_shuffle"
_LINKS = ops.PERMUTE | {aten.clone.default, aten.contiguous.default}


def pick_shuffled(graph_module: fx.GraphModule, shapes: Shapes) -> None:
    """Replace every shuffle of dimension 1 by a choice of its channels in their new order, in place."""
    graph, orders = graph_module.graph, dict[tuple[int, int], str]()
    for node in list(graph.nodes):
        shuffle = _shuffle(node, shapes)
        if shuffle is None:
            continue
        source, rows = shuffle
        order = _order(shapes[node][1], rows)
        if (len(order), rows) not in orders:
            orders[len(order), rows] = free_name(graph_module, _ORDER)
            graph_module.register_buffer(orders[len(order), rows], order)
        with graph.inserting_before(node):
            index = graph.get_attr(orders[len(order), rows])
            index.meta["val"] = node.meta["val"].fake_mode.from_tensor(order)
            node.replace_all_uses_with(call(graph, aten.index_select.default, (source, 1, index)))


def shuffle_picked(graph_module: fx.GraphModule) -> None:
    """Write every choice of channels that is a shuffle as one again, in place."""
    graph = graph_module.graph
    for node in list(graph.nodes):
        if node.target is not aten.index_select.default or node.args[1] != 1 or node.meta["val"].ndim < 3:
            continue
        name = str(node.args[2].target)
        if not name.startswith((_ORDER, PICKED)):
            continue
        order = graph_module.get_buffer(name)
        divisors = (rows for rows in range(2, len(order)) if len(order) % rows == 0)
        rows = next((rows for rows in divisors if torch.equal(order, _order(len(order), rows))), None)
        if rows is not None:
            with graph.inserting_before(node):
                node.replace_all_uses_with(graph.call_function(aten.channel_shuffle.default, (node.args[0], rows)))
            graph.erase_node(node)


def _shuffle(node: fx.Node, shapes: Shapes) -> tuple[fx.Node, int] | None:
    """Return what a node shuffles, and as how many rows; None where it does something else."""
    if node.target is aten.channel_shuffle.default:
        source, rows = node.args
        return source, rows  # type: ignore[return-value]
    chain: list[Any] = [node]
    if node.target not in ops.VIEW:
        return None
    while chain[-1].target in _LINKS or len(chain) == 1:
        chain.append(chain[-1].args[0])
    view = chain[-1]
    if view.target not in ops.VIEW or shapes[view.args[0]] != shapes[node] or len(shapes[node]) < 2:
        return None
    batch, channels, *rest = shapes[node]
    rows = shapes[view][1]
    if shapes[view] != (batch, rows, channels // rows, *rest):
        return None
    moved = plain = torch.empty(shapes[view], device="meta")
    for link in reversed(chain[1:-1]):
        moved = link.target(moved, *link.args[1:], **link.kwargs) if link.target in ops.PERMUTE else moved
    swapped = plain.transpose(1, 2)
    return (view.args[0], rows) if (moved.shape, moved.stride()) == (swapped.shape, swapped.stride()) else None


def _order(size: int, rows: int) -> Tensor:
    """Return the old place [size] of each channel once its rows are read column by column."""
    return torch.arange(size).reshape(rows, -1).T.flatten()
