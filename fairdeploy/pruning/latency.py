"""What a runtime sees of a network under masks: the shapes of its layers, and from them how long it takes.

A network's latency is the sum of its layers' measured ones and of the rest: norms, activations, sums. How much the
rest takes is known of the dense network (measured as a whole, less its layers) and scales with the elements that
it works on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, fx, nn

from fairdeploy.compaction import ops
from fairdeploy.compaction.groups import ChannelGroup, Masks
from fairdeploy.compaction.trace import BATCH, trace

ATTENTION = frozenset({ops.aten.scaled_dot_product_attention.default})
MOVES = frozenset({"view", "reshape", "_unsafe_view", "expand", "slice", "permute", "transpose", "t", "unsqueeze",
                   "squeeze", "flatten", "unflatten", "select", "alias", "clone", "batch_norm"})  # fmt: skip
Kept = Callable[[Masks], int]


@dataclass(frozen=True, order=True)
class LayerShape:
    """One layer as a runtime sees it, for one row of input.

    Attributes
    ----------
    kind : {"convolution", "linear", "attention"}
    inputs, outputs : int
        Channels; of an attention the heads, and the width of each.
    size : tuple of int
        What the layer goes over: the input's spatial size, rows of a linear layer, queries and keys.
    kernel, stride, dilation : tuple of int
        Of a convolution.
    padding : tuple of int
        At the start of each dimension, then at the end of each.
    groups : int
    """

    kind: Literal["convolution", "linear", "attention"]
    inputs: int
    outputs: int
    size: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        if self.kind == "attention":
            return 2 * self.inputs * self.outputs * math.prod(self.size)
        if self.kind == "linear":
            return self.inputs * self.outputs * math.prod(self.size)
        rank = len(self.size)
        steps: list[int] = [
            (size + before + after - d * (k - 1) - 1) // s + 1
            for size, before, after, k, s, d in zip(
                self.size, self.padding[:rank], self.padding[rank:], self.kernel, self.stride, self.dilation,
                strict=True,
            )
        ]  # fmt: skip
        return math.prod(steps) * self.outputs * (self.inputs // self.groups) * math.prod(self.kernel)


class Layers:
    """A network's convolutions, linear layers and attentions, as they would be under masks.

    Convolutions and linear layers are exact; an attention keeps the share that the layer before it keeps, of whole
    heads where that fits and else of their width. Transposed convolutions, recurrent layers and products of two
    activations count as rest.

    Parameters
    ----------
    model : Module
    example_inputs : tuple of Tensor
        With the batch in dimension 0.
    groups : iterable of ChannelGroup
        The network's `channel_groups`.
    """

    def __init__(self, model: nn.Module, example_inputs: tuple[Tensor, ...], groups: Iterable[ChannelGroup]) -> None:
        traced = trace(model, example_inputs)
        values = traced.run()
        kept = _KeptIndices(groups)
        self._shapes: list[tuple[Callable[[Masks], LayerShape], int]] = []
        self._rest: dict[str, float] = {}
        self._share_of: dict[str, Callable[[Masks], float]] = {}
        producers: dict[fx.Node, dict[str, float]] = {}
        for node in traced.graph_module.graph.nodes:
            value = values.get(node)
            if not isinstance(value, Tensor) or node.op == "get_attr":
                continue
            layer = _layer(node, values, kept)
            if layer is not None:
                shape_under, share, repeats = layer
                self._shapes.append((shape_under, repeats))
                self._share_of[node.name] = share
                producers[node] = {node.name: 1.0}
                continue
            producers[node] = shares = _mean_producers(node, values, producers)
            if node.target in ATTENTION:
                self._shapes.append(_attention(node, values, shares, self._share_of))
            elif node.op == "call_function" and _works(node):
                for name, part in shares.items():
                    self._rest[name] = self._rest.get(name, 0.0) + part * value.numel() / BATCH

    def shapes(self, masks: Masks) -> list[LayerShape]:
        """Return the layers under masks, in the order of the network."""
        return [shape_under(masks) for shape_under, repeats in self._shapes for _ in range(repeats)]

    def rest(self, masks: Masks) -> float:
        """Return which share of its dense elements everything but the layers works on."""
        dense = sum(self._rest.values())
        left = sum(part * self._share_of[name](masks) if name else part for name, part in self._rest.items())
        return left / dense if dense else 1.0


class NetworkLatency:
    """Predicts how long a network takes under masks, from measured layers.

    Parameters
    ----------
    layers : Layers
    measure : callable
        Gives the measured latency of each layer shape in milliseconds.
    rest_ms : float
        What the dense network takes as a whole, less its layers.
    """

    def __init__(
        self, layers: Layers, measure: Callable[[Collection[LayerShape]], Mapping[LayerShape, float]], rest_ms: float
    ) -> None:
        self._layers, self._measure, self._rest_ms = layers, measure, rest_ms

    def __call__(self, several: Sequence[Masks]) -> list[float]:
        """Return the latency in milliseconds for each of several masks; what is not known yet is measured at once."""
        networks = [self._layers.shapes(masks) for masks in several]
        by_shape = self._measure({shape for shapes in networks for shape in shapes})
        rests = (self._rest_ms * self._layers.rest(masks) for masks in several)
        return [sum(by_shape[s] for s in shapes) + rest for shapes, rest in zip(networks, rests, strict=True)]


def _works(node: fx.Node) -> bool:
    """Return whether an operation costs time of its own: moves are free, batch norms melt into their layer."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._opname not in MOVES


class _KeptIndices:
    """How many indices of a parameter's dimension stay under masks."""

    def __init__(self, groups: Iterable[ChannelGroup]) -> None:
        self._parts: dict[tuple[str, int], list[tuple[str, Any]]] = {}
        for group in groups:
            for member in group.members:
                times = np.bincount(np.asarray(member.channels), minlength=group.size)
                self._parts.setdefault((member.parameter, member.dim), []).append((group.name, times))

    def of(self, parameter: str, dim: int, size: int) -> Kept:
        parts = self._parts.get((parameter, dim), [])

        def kept(masks: Masks) -> int:
            return size - sum(int(times[~masks[name]].sum()) for name, times in parts if name in masks)

        return kept


def _layer(
    node: fx.Node, values: dict[fx.Node, Any], kept: _KeptIndices
) -> tuple[Callable[[Masks], LayerShape], Callable[[Masks], float], int] | None:
    """Return a layer's shape under masks, the share of its outputs that stay, and how often it runs per row."""
    if node.target not in ops.LINEAR and node.target not in ops.CONVOLUTION:
        return None
    source, weight = ops.argument(node, 0, "input"), ops.argument(node, 1, "weight")
    if weight.op != "get_attr":
        return None
    matrix: Tensor = values[weight]
    value: Tensor = values[source]
    name = str(weight.target)
    groups = 1 if node.target in ops.LINEAR else int(ops.argument(node, 6, "groups", 1))
    outputs, inputs = kept.of(name, 0, matrix.shape[0]), kept.of(name, 1, groups * matrix.shape[1])

    def share(masks: Masks) -> float:
        return outputs(masks) / matrix.shape[0]

    if node.target in ops.LINEAR:
        rows = math.prod(value.shape[:-1]) // BATCH

        def linear(masks: Masks) -> LayerShape:
            return LayerShape("linear", inputs(masks), outputs(masks), (rows,))

        return linear, share, 1

    rank = matrix.ndim - 2
    size, kernel = tuple(value.shape[2:]), tuple(matrix.shape[2:])
    stride, dilation = (_each(ops.argument(node, place, "", 1), rank) for place in (3, 5))
    padding = _padding(ops.argument(node, 4, "padding", 0), kernel, dilation)

    def convolution(masks: Masks) -> LayerShape:
        # A depthwise convolution loses groups with its channels, any other keeps them.
        parts = inputs(masks) if matrix.shape[1] == 1 else groups
        return LayerShape("convolution", inputs(masks), outputs(masks), size, kernel, stride, padding, dilation, parts)

    return convolution, share, value.shape[0] // BATCH


def _attention(
    node: fx.Node,
    values: dict[fx.Node, Any],
    shares: Mapping[str, float],
    share_of: Mapping[str, Callable[[Masks], float]],
) -> tuple[Callable[[Masks], LayerShape], int]:
    query, key = (values[ops.argument(node, place, name)] for place, name in enumerate(("query", "key")))
    heads, queries, width = query.shape[-3:]
    keys = key.shape[-2]

    def attention(masks: Masks) -> LayerShape:
        share = sum(part * share_of[name](masks) if name else part for name, part in shares.items())
        if (share * heads).is_integer():
            return LayerShape("attention", int(share * heads), width, (queries, keys))
        return LayerShape("attention", heads, max(1, round(share * width)), (queries, keys))

    return attention, math.prod(query.shape[:-3]) // BATCH


def _mean_producers(
    node: fx.Node, values: dict[fx.Node, Any], producers: Mapping[fx.Node, dict[str, float]]
) -> dict[str, float]:
    """Return the layers whose outputs a tensor is made of, with shares that add up to 1; "" is what stays whole."""
    sources = [source for source in node.all_input_nodes if source in producers]
    total = sum(values[source].numel() for source in sources)
    shares: dict[str, float] = {}
    for source in sources:
        for name, share in producers[source].items():
            shares[name] = shares.get(name, 0.0) + share * values[source].numel() / total
    return shares or {"": 1.0}


def _each(value: Any, rank: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    return values * rank if len(values) == 1 else values


def _padding(padding: Any, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[int, ...]:
    """Return padding at the starts, then at the ends."""
    if padding == "valid":
        return (0,) * (2 * len(kernel))
    if padding == "same":
        both = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return (*(total // 2 for total in both), *(total - total // 2 for total in both))
    return _each(padding, len(kernel)) * 2
