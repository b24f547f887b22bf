"""How labels pass through each family of operations."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from fairdeploy.compaction import ops
from fairdeploy.compaction.labels import WHOLE, Dims, Ids, LabelledGraph, tensors_among

Rule = Callable[[LabelledGraph, fx.Node], Dims]


def follow(labelled: LabelledGraph, node: fx.Node) -> None:
    """Set the labels of a node's result and unite what the operation needs together."""
    if node not in labelled.shapes:
        if isinstance(labelled.values[node], tuple | list):
            _unknown(labelled, node)
        return
    labelled.dims[node] = _RULES.get(node.target, _unknown)(labelled, node)


def _unknown(labelled: LabelledGraph, node: fx.Node) -> Dims:
    """Pin everything that an operation without a rule touches, and say its name."""
    culprit = node.args[0] if node.target is operator.getitem else node
    assert isinstance(culprit, fx.Node)
    return _pin_operands(labelled, node, f"{ops.title(culprit)} has no rule")


def _pin_operands(labelled: LabelledGraph, node: fx.Node, reason: str) -> Dims:
    for source in tensors_among(labelled, node.all_input_nodes):
        for ids in labelled.dims[source]:
            labelled.labels.pin(ids, reason)
    return tuple(labelled.labels.fixed(size, reason) for size in labelled.shapes.get(node, ()))


def _elementwise(labelled: LabelledGraph, node: fx.Node) -> Dims:
    """Unite aligned dimensions; a single element that is broadcast stays."""
    shape = labelled.shapes[node]
    result: list[Ids | None] = [None] * len(shape)
    for source in tensors_among(labelled, node.all_input_nodes):
        dims = labelled.dims[source]
        for place, ids in enumerate(dims, start=len(shape) - len(dims)):
            known = result[place]
            if len(ids) != shape[place]:
                labelled.labels.pin(ids, WHOLE)
            elif known is None:
                result[place] = ids
            else:
                labelled.labels.unite(known, ids)
    return tuple(labelled.labels.fixed(n, WHOLE) if r is None else r for r, n in zip(result, shape, strict=True))


def _channelwise(labelled: LabelledGraph, node: fx.Node) -> Dims:
    """Batch norm, PReLU: every vector goes with dimension 1 of the input."""
    source, *vectors = (arg for arg in node.args if isinstance(arg, fx.Node))
    dims = labelled.dims[source]
    for vector in vectors:
        (ids,) = labelled.dims[vector]
        if len(ids) == len(dims[1]):
            labelled.labels.unite(dims[1], ids)
        else:
            labelled.labels.pin(ids, WHOLE)
    return dims


def _linear(labelled: LabelledGraph, node: fx.Node) -> Dims:
    operands = ops.contraction(node)
    if operands is None:
        return _pin_operands(labelled, node, f"{ops.title(node)} with a computed weight has no rule")
    source, weight, bias = (None if one is None else labelled.dims[one] for one in operands)
    assert source is not None
    assert weight is not None
    labelled.labels.unite(weight[1], source[-1])
    if bias is not None:
        labelled.labels.unite(weight[0], bias[0])
    return (*source[:-1], weight[0])


def _convolution(labelled: LabelledGraph, node: fx.Node) -> Dims:
    """Contract input channels; in a depthwise convolution output i * m + j goes with input i."""
    operands = ops.contraction(node)
    if operands is None or len(labelled.shapes[operands[0]]) != len(labelled.shapes[operands[1]]):
        return _pin_operands(labelled, node, f"{ops.title(node)} with a computed weight has no rule")
    labels, (source, weight, bias) = labelled.labels, operands
    groups = ops.convolution(node)[3]
    inputs, outputs = labelled.dims[source][1], labelled.dims[weight][0]
    if groups not in (1, len(inputs)):
        return _pin_operands(labelled, node, f"{ops.title(node)} with {groups} groups has no rule")
    for kernel in labelled.dims[weight][2:]:
        labels.pin(kernel, WHOLE)
    if groups == 1:
        labels.unite(labelled.dims[weight][1], inputs)
    else:
        labels.unite(np.repeat(inputs, len(outputs) // groups), outputs)
        labels.pin(labelled.dims[weight][1], WHOLE)
    if bias is not None:
        labels.unite(outputs, labelled.dims[bias][0])
    return (labelled.dims[source][0], outputs, *_spatial(labelled, node))


def _spatial(labelled: LabelledGraph, node: fx.Node) -> Dims:
    """Pin the input's dimensions behind the channels and return fixed ones of the result."""
    source = node.all_input_nodes[0]
    reason = f"{ops.title(node)} mixes it"
    for ids in labelled.dims[source][2:]:
        labelled.labels.pin(ids, reason)
    return tuple(labelled.labels.fixed(size, reason) for size in labelled.shapes[node][2:])


def _pool(labelled: LabelledGraph, node: fx.Node) -> Dims:
    source = node.all_input_nodes[0]
    if len(labelled.shapes[source]) < 3 or len(labelled.shapes[source]) != len(labelled.shapes[node]):
        return _unknown(labelled, node)
    return (*labelled.dims[source][:2], *_spatial(labelled, node))


def _reduce(labelled: LabelledGraph, node: fx.Node) -> Dims:
    """Pin what is reduced (a mean divides by the old width), keep the rest."""
    source = node.all_input_nodes[0]
    dims = labelled.dims[source]
    reduced = reduced_dims(node, len(dims))
    reason = f"{ops.title(node)} mixes it"
    for dim in reduced:
        labelled.labels.pin(dims[dim], reason)
    rest = [ids for dim, ids in enumerate(dims) if dim not in reduced]
    if len(rest) == len(labelled.shapes[node]):
        return tuple(rest)
    return tuple(labelled.labels.fixed(1, reason) if dim in reduced else ids for dim, ids in enumerate(dims))


def reduced_dims(node: fx.Node, rank: int) -> frozenset[int]:
    """Return the dimensions that a reduction takes together; none named means all."""
    named = ops.argument(node, 1, "dim")
    if named is None or named == []:
        return frozenset(range(rank))
    return frozenset(int(dim) % rank for dim in (named if isinstance(named, list | tuple) else [named]))


def _softmax(labelled: LabelledGraph, node: fx.Node) -> Dims:
    dims = labelled.dims[node.all_input_nodes[0]]
    for dim in reduced_dims(node, len(dims)):
        labelled.labels.pin(dims[dim], f"{ops.title(node)} mixes it")
    return dims


def _concatenate(labelled: LabelledGraph, node: fx.Node) -> Dims:
    parts = [labelled.dims[part] for part in ops.parts(node)]
    along = int(ops.argument(node, 1, "dim", 0)) % len(labelled.shapes[node])
    result = list(parts[0])
    for part in parts[1:]:
        for dim, ids in enumerate(part):
            if dim == along:
                result[dim] = np.concatenate([result[dim], ids])
            else:
                labelled.labels.unite(result[dim], ids)
    return tuple(result)


def _move(labelled: LabelledGraph, node: fx.Node) -> Dims:
    """Ask the operation itself: run it on each dimension's index numbers and see where they come out.

    A dimension that comes out along one dimension labels that one; along none or several it is pinned, as is
    whatever was padded or belongs to several labelled dimensions at once.
    """
    if (strange := _unreadable(node)) is not None:
        return _pin_operands(labelled, node, f"{ops.title(node)} with {strange} has no rule")
    dims, shape, labels = labelled.dims[node.all_input_nodes[0]], labelled.shapes[node], labelled.labels
    if all((ids < 0).all() for ids in dims):
        return tuple(labels.fixed(size, labels.reason(dims[0])) for size in shape)
    reason = f"{ops.title(node)} rearranges it"
    result = [labels.fixed(size, reason) for size in shape]
    for dim, ids in enumerate(dims):
        if (ids < 0).all():
            continue
        moved = _come_out(labelled, node, dim)
        along = _varies(moved)
        if len(along) == 1 and node.target not in ops.SELECT and (result[along[0]] < 0).all():
            index = moved.movedim(along[0], 0).flatten(1).amax(1).long().numpy()
            result[along[0]] = np.where(index > 0, ids[np.maximum(index, 1) - 1], result[along[0]])
            continue
        labels.pin(ids, WHOLE if len(ids) == 1 else reason)
        for d in along:
            labels.pin(result[d], reason)
    return tuple(result)


def _varies(numbers: Tensor) -> list[int]:
    """Return the dimensions along which a tensor's numbers (zero is padding) change."""
    lowest = numbers.where(numbers > 0, torch.inf)
    return [d for d in range(numbers.ndim) if bool((lowest.amin(d) < numbers.amax(d)).any())]


def _come_out(labelled: LabelledGraph, node: fx.Node, dim: int) -> Tensor:
    """Run a shape operation on the index numbers 1, 2, ... of one dimension of its input."""
    source = node.all_input_nodes[0]
    shape = labelled.shapes[source]
    numbers = torch.arange(1.0, shape[dim] + 1).reshape([-1 if d == dim else 1 for d in range(len(shape))])
    return run_on(labelled.values, node, source, numbers.expand(shape).contiguous())


def run_on(values: dict[fx.Node, Any], node: fx.Node, source: fx.Node, replacement: Tensor) -> Tensor:
    """Run a node's operation on another tensor in the place of `source`."""

    def value(other: fx.Node) -> Any:
        return replacement if other is source else values[other]

    result: Tensor = node.target(*fx.map_arg(node.args, value), **fx.map_arg(node.kwargs, value))  # type: ignore[operator]
    return result


def _unreadable(node: fx.Node) -> str | None:
    """Return what makes a shape operation one that index numbers do not explain."""
    if node.target in ops.SLICE and ops.argument(node, 4, "step", 1) != 1:
        return "a step"
    if node.target in ops.PAD:
        default_mode = node.target is ops.aten.constant_pad_nd.default
        mode = "constant" if default_mode else ops.argument(node, 2, "mode", "constant")
        value = ops.argument(node, 2 if default_mode else 3, "value", 0)
        if mode != "constant" or value not in (None, 0, 0.0):
            return f"mode {mode} and value {value}"
    return None


_RULES: dict[Any, Rule] = {
    **dict.fromkeys(ops.ELEMENTWISE, _elementwise),
    **dict.fromkeys(ops.BATCH_NORM | ops.PRELU, _channelwise),
    **dict.fromkeys(ops.LINEAR, _linear),
    **dict.fromkeys(ops.CONVOLUTION, _convolution),
    **dict.fromkeys(ops.POOL, _pool),
    **dict.fromkeys(ops.REDUCE, _reduce),
    **dict.fromkeys(ops.SOFTMAX, _softmax),
    **dict.fromkeys(ops.CONCATENATE, _concatenate),
    **dict.fromkeys(ops.MOVE, _move),
}
