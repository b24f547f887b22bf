"""Shapes of a graph's tensors, known from the export without running anything."""

from __future__ import annotations

from typing import Any

import torch
from torch import SymInt, Tensor, fx

from fairdeploy.errors import CompactionError


class Shapes(dict[fx.Node, tuple[int, ...]]):
    """Shapes by node; nodes that were added since are looked up when they are asked for."""

    def __missing__(self, node: fx.Node) -> tuple[int, ...]:
        shape = self[node] = tuple(number(size) for size in node.meta["val"].shape)
        return shape


def shapes_of(graph: fx.Graph) -> Shapes:
    """Return the shape of every tensor at the batch size that the graph was exported with."""
    values = {node: node.meta.get("val") for node in graph.nodes if node.op != "output"}
    found = {node: value.shape for node, value in values.items() if isinstance(value, Tensor)}
    return Shapes({node: tuple(number(size) for size in shape) for node, shape in found.items()})


def number(size: int | SymInt) -> int:
    """Return a size as it was in the export."""
    if not isinstance(size, SymInt):
        return int(size)
    if size.node.hint is None:
        raise CompactionError("a tensor's size depends on the data, which no smaller graph can follow")
    return int(size.node.hint)


def call(graph: fx.Graph, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> fx.Node:
    """Add a call to a graph, with the shape of its result noted as the export notes it."""
    node = graph.call_function(target, args, kwargs)

    def value(other: fx.Node) -> Any:
        return other.meta["val"]

    with torch.no_grad():
        node.meta["val"] = target(*fx.map_arg(args, value), **fx.map_arg(kwargs or {}, value))
    return node


def numbers_along(shape: tuple[int, ...], dim: int) -> Tensor:
    """Return the index along one dimension, everywhere in a tensor of that shape."""
    numbers = torch.arange(float(shape[dim]))
    return numbers.reshape([-1 if d == dim else 1 for d in range(len(shape))]).expand(shape)
