"""Rewrites of an exported graph into fewer kinds of operations, so that the analyses see one of each."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, fx

from fairdeploy.compaction import ops
from fairdeploy.compaction.cells import split_layers
from fairdeploy.compaction.ops import argument, aten
from fairdeploy.compaction.shapes import Shapes, call, numbers_along, shapes_of
from fairdeploy.compaction.shuffles import pick_shuffled


def canonicalise(graph_module: fx.GraphModule) -> None:
    """Rewrite a graph in place; it computes the same.

    Nodes that return several tensors become nodes that return one, what does nothing goes, a projection that is
    viewed as several (queries, keys, values) becomes slices, so that their channels are apart, and so do shuffled
    channels become picked ones (`fairdeploy.compaction.shuffles`).
    """
    graph = graph_module.graph
    split_layers(graph)
    shapes = shapes_of(graph)
    for node in list(graph.nodes):
        if node.op == "call_function":
            with graph.inserting_before(node):
                new = _rewritten(graph, node, shapes)
            if new is not None:
                node.replace_all_uses_with(new)
                graph.erase_node(node)
    graph.eliminate_dead_code()
    shapes = shapes_of(graph)
    for node in list(graph.nodes):
        if node.target in ops.SELECT:
            _unpack(graph, node, shapes)
    pick_shuffled(graph_module, shapes_of(graph))
    graph.eliminate_dead_code()
    graph_module.recompile()


def _rewritten(graph: fx.Graph, node: fx.Node, shapes: Shapes) -> fx.Node | None:
    """Return what takes a node's place, made before it, or None."""
    if node.target is ops.getitem and isinstance(node.args[0], fx.Node) and isinstance(node.args[1], int):
        return _item(graph, node.args[0], node.args[1], shapes)
    if node.target in ops.VIEW and node.target is not aten.reshape.default:
        return call(graph, aten.reshape.default, node.args)
    if node.target in ops.SLICE and shapes[node] == shapes[node.args[0]]:  # type: ignore[index]
        return node.args[0] if argument(node, 4, "step", 1) == 1 else None  # type: ignore[return-value]
    if node.target is aten.dropout.default:
        return node.args[0]  # type: ignore[return-value]
    if node.target in ops.ATTENTION and argument(node, 7, "enable_gqa", False):
        return _repeated(graph, node, shapes)
    if node.target is aten.stack.default:
        rank = len(shapes[node])
        dim = int(argument(node, 1, "dim", 0)) % rank
        parts = [call(graph, aten.unsqueeze.default, (part, dim)) for part in argument(node, 0, "tensors")]
        return call(graph, aten.cat.default, (parts, dim))
    if node.target is aten.copy.default and shapes[node.args[0]] == shapes[node.args[1]]:  # type: ignore[index]
        return node.args[1] if _dtype(node.args[0]) == _dtype(node.args[1]) else None  # type: ignore[return-value]
    if node.target is aten.type_as.default:
        if _dtype(node.args[0]) == _dtype(node.args[1]):
            return node.args[0]  # type: ignore[return-value]
        cast = call(graph, aten._to_copy.default, (node.args[0],), {"dtype": torch.float64})
        cast.meta["dtype"] = _dtype(node.args[1])
        return cast
    if node.target is aten.glu.default:
        source, dim = node.args[0], int(argument(node, 1, "dim", -1)) % len(shapes[node])
        half = shapes[node][dim]
        value = call(graph, aten.slice.Tensor, (source, dim, 0, half))
        gate = call(graph, aten.slice.Tensor, (source, dim, half, 2 * half))
        return call(graph, aten.mul.Tensor, (value, call(graph, aten.sigmoid.default, (gate,))))
    if node.target is aten.addcmul.default and argument(node, 3, "value", 1) == 1:
        return call(graph, aten.add.Tensor, (node.args[0], call(graph, aten.mul.Tensor, node.args[1:3])))
    if node.target is aten.slice_scatter.default and argument(node, 5, "step", 1) == 1:
        return _scattered(graph, node, shapes)
    return None


def _dtype(node: Any) -> torch.dtype:
    dtype: torch.dtype = node.meta["val"].dtype
    return dtype


def _repeated(graph: fx.Graph, node: fx.Node, shapes: Shapes) -> fx.Node:
    """Attention in which several heads of queries share keys and values: repeat these."""
    query, *shared = node.args[:3]
    repeated = [
        call(graph, aten.repeat_interleave.self_int, (part, shapes[query][-3] // shapes[part][-3], -3))  # type: ignore[index]
        for part in shared
    ]
    keywords = {name: value for name, value in node.kwargs.items() if name != "enable_gqa"}
    return call(graph, node.target, (query, *repeated, *node.args[3:7]), keywords)


def _item(graph: fx.Graph, source: fx.Node, index: int, shapes: Shapes) -> fx.Node | None:
    if source.target is aten._native_batch_norm_legit_no_training.default and index == 0:
        x, weight, bias, mean, variance, momentum, epsilon = source.args
        return call(graph, aten.batch_norm.default, (x, weight, bias, mean, variance, False, momentum, epsilon, False))
    if source.target in (aten._native_batch_norm_legit.default, aten.native_batch_norm.default) and index == 0:
        x, weight, bias, mean, variance, training, momentum, epsilon = source.args
        return call(
            graph, aten.batch_norm.default, (x, weight, bias, mean, variance, training, momentum, epsilon, False)
        )
    if source.target is aten._native_batch_norm_legit.no_stats and index == 0:
        x, weight, bias, training, momentum, epsilon = source.args
        return call(graph, aten.batch_norm.default, (x, weight, bias, None, None, training, momentum, epsilon, False))
    if source.target in (aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default):
        return _piece(graph, source, index, shapes)
    if source.target is aten.unbind.int:
        return call(graph, aten.select.int, (source.args[0], argument(source, 1, "dim", 0), index))
    if source.target is aten.adaptive_max_pool2d.default and index == 0 and set(source.args[1]) == {1}:  # type: ignore[arg-type]
        return call(graph, aten.amax.default, (source.args[0], [-2, -1], True))
    if source.target is aten.adaptive_max_pool2d.default and index == 0:
        before, after = shapes[source.args[0]][2:], source.args[1]  # type: ignore[index]
        if all(size % cells == 0 for size, cells in zip(before, after, strict=True)):  # type: ignore[arg-type]
            kernel = [size // cells for size, cells in zip(before, after, strict=True)]  # type: ignore[arg-type]
            return call(graph, aten.max_pool2d.default, (source.args[0], kernel, kernel))
    if source.target is aten.max_pool2d_with_indices.default and index == 0:
        return call(graph, aten.max_pool2d.default, source.args)
    return None


def _piece(graph: fx.Graph, source: fx.Node, index: int, shapes: Shapes) -> fx.Node | None:
    whole = source.args[0]
    assert isinstance(whole, fx.Node)
    dim = int(argument(source, 2, "dim", 0)) % len(shapes[whole])
    sizes: Any = source.args[1]
    if source.target is aten.chunk.default:
        sizes = -(-shapes[whole][dim] // sizes)
    if isinstance(sizes, int):
        start, size = sizes * index, sizes
    elif all(isinstance(size, int) for size in sizes):
        start, size = sum(sizes[:index]), sizes[index]
    else:
        return None
    return call(graph, aten.slice.Tensor, (whole, dim, start, start + size))


def _scattered(graph: fx.Graph, node: fx.Node, shapes: Shapes) -> fx.Node | None:
    """A slice that is written over: what is before it, the new part, what is after it."""
    whole, part = node.args[:2]
    dim = int(argument(node, 2, "dim", 0)) % len(shapes[node])
    start, stop, _ = slice(argument(node, 3, "start"), argument(node, 4, "end")).indices(shapes[node][dim])
    if shapes[part] != shapes[node][:dim] + (stop - start,) + shapes[node][dim + 1 :]:  # type: ignore[index]
        return None
    if (start, stop) == (0, shapes[node][dim]):
        return part  # type: ignore[return-value]
    pieces: list[Any] = [part]
    if start > 0:
        pieces.insert(0, call(graph, aten.slice.Tensor, (whole, dim, 0, start)))
    if stop < shapes[node][dim]:
        pieces.append(call(graph, aten.slice.Tensor, (whole, dim, stop, sys.maxsize)))
    return call(graph, aten.cat.default, (pieces, dim))


def _unpack(graph: fx.Graph, node: fx.Node, shapes: Shapes) -> None:
    """Replace ``view(.., k, ..)`` and a choice along k by a slice before the view, if k is outermost in it."""
    chain: list[fx.Node] = []
    view = node.args[0]
    while isinstance(view, fx.Node) and view.target in ops.PERMUTE | ops.SAME:
        chain.insert(0, view)
        view = view.args[0]
    if not isinstance(view, fx.Node) or view.target not in ops.VIEW:
        return
    source, sizes = view.args
    assert isinstance(source, fx.Node)
    picked, index = int(node.args[1]) % len(shapes[node.args[0]]), int(node.args[2])  # type: ignore[index, arg-type]

    def through(numbers: Tensor) -> Tensor:
        for link in chain:
            if link.target in ops.PERMUTE:
                numbers = link.target(numbers, *link.args[1:], **link.kwargs)  # type: ignore[operator]
        return numbers

    for place, size in enumerate(shapes[view]):
        if size == 1 or not _varies_along(through(numbers_along(shapes[view], place)), picked):
            continue
        index %= size
        for dim, whole in enumerate(shapes[source]):
            piece = whole // size
            if whole % size or sizes[place] != size:  # type: ignore[index]
                continue
            inside = numbers_along(shapes[source], dim).reshape(shapes[view]).select(place, index)
            if inside.numel() and int(inside.min()) == index * piece and int(inside.max()) == (index + 1) * piece - 1:
                with graph.inserting_before(node):
                    new = call(graph, aten.slice.Tensor, (source, dim, index * piece, (index + 1) * piece))
                    new = call(graph, view.target, (new, [*sizes[:place], 1, *sizes[place + 1 :]]))  # type: ignore[index, misc]
                    for link in chain:
                        new = call(graph, link.target, (new, *link.args[1:]), link.kwargs)
                    new = call(graph, aten.select.int, (new, picked, 0))
                node.replace_all_uses_with(new)
                graph.erase_node(node)
                return


def _varies_along(numbers: Tensor, dim: int) -> bool:
    return numbers.shape[dim] > 1 and bool((numbers.narrow(dim, 0, 1) != numbers.narrow(dim, 1, 1)).any())
