"""Layer norms over fewer channels that still divide by the old width.

A layer norm sees all its channels, so by default they stay. Written out, it can do without those that hold a
constant: with C the old width, n channels removed, s and q the sums of their values and squares,

    mean = (sum_kept(x) + s) / C
    var = (sum_kept((x - mean)^2) + q - 2 mean s + n mean^2) / C

which is exact, and several operations in the place of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from fairdeploy.compaction.folds import collapsed
from fairdeploy.compaction.ops import argument, aten
from fairdeploy.compaction.stored import free_name


@dataclass(frozen=True)
class Lost:
    """What a layer norm lost.

    Attributes
    ----------
    width : int
        Channels before.
    count : int
        Channels removed.
    total, squares : Tensor
        Sums of their values and of the squares, size 1 along the channels and wherever they are the same.
    """

    width: int
    count: int
    total: Tensor
    squares: Tensor

    @staticmethod
    def of(values: Tensor, removed: Tensor) -> Lost:
        """Sum up the values [..., c] of the channels for which `removed` [c] is true."""
        gone = values[..., removed]
        total, squares = gone.sum(-1, keepdim=True), gone.square().sum(-1, keepdim=True)
        everywhere = total == total
        return Lost(values.shape[-1], int(removed.sum()), collapsed(total, everywhere), collapsed(squares, everywhere))


def widen(graph_module: fx.GraphModule, node: fx.Node, lost: Lost) -> None:
    """Write a layer norm out, its lost sums stored beside the parameters."""
    graph = graph_module.graph
    source, epsilon = node.args[0], argument(node, 4, "eps", 1e-5)
    with graph.inserting_before(node):

        def stored(name: str, value: Tensor) -> fx.Node:
            name = free_name(graph_module, name)
            graph_module.register_buffer(name, value)
            return graph.get_attr(name)

        def apply(target: Any, *args: Any) -> fx.Node:
            return graph.call_function(target, args)

        total = stored("_lost_total", lost.total)
        mean = apply(aten.sum.dim_IntList, source, [-1], True)
        mean = apply(aten.div.Tensor, apply(aten.add.Tensor, mean, total), lost.width)
        centred = apply(aten.sub.Tensor, source, mean)
        spread = apply(aten.sum.dim_IntList, apply(aten.mul.Tensor, centred, centred), [-1], True)
        spread = apply(aten.add.Tensor, spread, stored("_lost_squares", lost.squares))
        spread = apply(aten.sub.Tensor, spread, apply(aten.mul.Tensor, apply(aten.mul.Tensor, mean, total), 2))
        square = apply(aten.mul.Tensor, mean, mean)
        spread = apply(aten.add.Tensor, spread, apply(aten.mul.Tensor, square, lost.count))
        variance = apply(aten.add.Tensor, apply(aten.div.Tensor, spread, lost.width), epsilon)
        result = apply(aten.mul.Tensor, centred, apply(aten.rsqrt.default, variance))
        for operation, vector in zip((aten.mul.Tensor, aten.add.Tensor), node.args[2:4], strict=False):
            if vector is not None:
                result = apply(operation, result, vector)
    node.replace_all_uses_with(result)
    graph.erase_node(node)
