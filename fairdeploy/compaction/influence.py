"""For every operation a linear map >= 0 that is positive where an output element may depend on an input element.

``|W| > 0`` for a convolution, ``t_a * nz(b) + nz(a) * t_b`` for a product, sums for what mixes, the operation itself
for what moves; whatever has no rule lets every output depend on every input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from fairdeploy.compaction import ops, recurrent
from fairdeploy.compaction.cells import Cell
from fairdeploy.compaction.label_rules import run_on

Of = Callable[[fx.Node], Tensor]


class Influences:
    """The map of every operation, for a graph that ran with `values`.

    Parameters
    ----------
    values : dict of Node to Any
    taint : dict of Node to Tensor
        Of all nodes before the one that is asked for: what is tainted is never taken for zero.
    """

    def __init__(self, values: dict[fx.Node, Any], taint: dict[fx.Node, Tensor]) -> None:
        self.values = values
        self.taint = taint

    def influence(self, node: fx.Node, of: Of) -> Tensor:
        """Return what reaches a node's result from the influence `of` its operands."""
        target, sources = node.target, node.all_input_nodes
        if target in ops.ELEMENTWISE and any(isinstance(self.values[s], int | float) for s in sources):
            return _everything(self, node, of) + 1.0  # a number that comes from the batch size or from the data
        if target in _BY_VECTORS and any(bool(self.taint[s].any()) for s in sources[1:] if s in self.taint):
            return _everything(self, node, of)
        rule = next((rule for family, rule in _RULES if target in family), _everything)
        return rule(self, node, of)

    def operands(self, node: fx.Node) -> list[fx.Node]:
        """Return the tensors that an operation takes."""
        return [source for source in node.all_input_nodes if source in self.taint]

    def nonzero(self, node: fx.Node) -> Tensor:
        """Return 1 where an element may be other than zero."""
        value: Tensor = self.values[node]
        return ((value != 0) | (self.taint[node] > 0)).float()

    def varying(self, node: fx.Node, dim: int) -> Tensor:
        """Return 1 where an element is not the same constant all along a dimension."""
        value: Tensor = self.values[node]
        varies = (value != value.narrow(dim, 0, 1)) | (self.taint[node] > 0)
        return varies.any(dim, keepdim=True).float()

    def shape(self, node: fx.Node) -> torch.Size:
        """Return the shape of a node's value."""
        shape: torch.Size = self.values[node].shape
        return shape

    def product(self, function: Callable[[Tensor, Tensor], Tensor], a: Any, b: Any, of: Of) -> Tensor:
        """Return the influence of a product of two tensors."""
        total: Tensor | None = None
        if self.depends(a, of):
            total = function(of(a), self.nonzero(b))
        if self.depends(b, of):
            other = function(self.nonzero(a), of(b))
            total = other if total is None else total + other
        return function(torch.zeros(self.shape(a)), torch.zeros(self.shape(b))) if total is None else total

    @staticmethod
    def depends(node: fx.Node, of: Of) -> bool:
        """Return whether an operand's influence has to be followed: it is asked for, or not zero."""
        value = of(node)
        return value.requires_grad or bool(value.any())


Rule = Callable[[Influences, fx.Node, Of], Tensor]


def _sum(parts: Iterable[Tensor], shape: torch.Size) -> Tensor:
    result = torch.zeros(())
    for part in parts:
        result = result + part
    return result.expand(shape)


def _spread(source: Tensor, dims: Iterable[int]) -> Tensor:
    """Let every element along `dims` depend on all of them."""
    dims = tuple(dims)
    return source.sum(dims, keepdim=True).expand(source.shape) if dims else source


def _elementwise(at: Influences, node: fx.Node, of: Of) -> Tensor:
    return _sum((of(source) for source in at.operands(node)), at.shape(node))


def _uniform(at: Influences, node: fx.Node, of: Of) -> Tensor:
    """Tensors made of one value, which may be a tensor itself; what they are shaped like does not matter."""
    values = [arg for arg in (*node.args[1:], *node.kwargs.values()) if isinstance(arg, fx.Node)]
    total = _sum((of(value) for value in values if value in at.taint), at.shape(node))
    return total + 1.0 if any(value not in at.taint for value in values) else total


def _numbered(at: Influences, node: fx.Node, of: Of) -> Tensor:
    """Numbers in a row (arange): constant unless their bounds are computed."""
    return torch.full((), float(bool(node.all_input_nodes))).expand(at.shape(node))


def _copy(at: Influences, node: fx.Node, of: Of) -> Tensor:
    return of(node.args[1]).expand(at.shape(node))  # type: ignore[arg-type]


def _multiply(at: Influences, node: fx.Node, of: Of) -> Tensor:
    first, second = node.args[:2]
    if isinstance(first, fx.Node) and isinstance(second, fx.Node) and first in at.taint and second in at.taint:
        return at.product(torch.mul, first, second, of).expand(at.shape(node))
    return _elementwise(at, node, of)


def _divide(at: Influences, node: fx.Node, of: Of) -> Tensor:
    parts = [of(node.args[0])] if node.args[0] in at.taint else []  # type: ignore[arg-type]
    if node.args[1] in at.taint:
        numerator = at.nonzero(node.args[0]) if parts else torch.ones(())  # type: ignore[arg-type]
        parts.append(numerator * of(node.args[1]))  # type: ignore[arg-type]
    return _sum(parts, at.shape(node))


def _weighted(at: Influences, node: fx.Node, of: Of) -> Tensor:
    source, weight, bias = ops.weighted(node)  # type: ignore[misc]
    if ops.is_convolution(node):
        rest = {name: value for name, value in node.kwargs.items() if name not in ("input", "weight", "bias")}

        def function(x: Tensor, w: Tensor) -> Tensor:
            return ops.convolve(node)(x, w, None, *node.args[3:], **rest)

    else:

        def function(x: Tensor, w: Tensor) -> Tensor:
            return functional.linear(x, w)

    result = at.product(function, source, weight, of)
    if bias is not None and at.depends(bias, of):
        places = at.values[weight].ndim - 2 if ops.is_convolution(node) else 0
        result = result + of(bias).reshape([-1, *[1] * places])
    return result


def _matmul(at: Influences, node: fx.Node, of: Of) -> Tensor:
    """Like any product; weights that add up to one give back a constant that is the same at every place."""
    first, second = ops.factors(node)
    if min(at.values[first].ndim, at.values[second].ndim) > 1 and _adds_up_to_one(at, first, -1):
        same = at.nonzero(second) * at.varying(second, -2)
        result = torch.matmul(of(first), same) + torch.matmul(at.nonzero(first), of(second))
    elif min(at.values[first].ndim, at.values[second].ndim) > 1 and _adds_up_to_one(at, second, -2):
        same = at.nonzero(first) * at.varying(first, -1)
        result = torch.matmul(of(first), at.nonzero(second)) + torch.matmul(same, of(second))
    else:
        result = at.product(torch.matmul, first, second, of)
    return result + of(node.args[0]) if node.target in ops.ADD_MATMUL else result  # type: ignore[arg-type]


def _adds_up_to_one(at: Influences, node: Any, dim: int) -> bool:
    """Return whether a tensor is a softmax along a dimension (counted from the last), perhaps transposed."""
    while True:
        rank = at.values[node].ndim
        if node.target in ops.SAME and at.values[node].is_floating_point():
            node = node.args[0]
        elif node.target is ops.aten.transpose.int:
            ends = [int(end) % rank - rank for end in node.args[1:]]
            dim = ends[1 - ends.index(dim)] if dim in ends else dim
            node = node.args[0]
        else:
            return node.target in ops.SOFTMAX and ops.dims_of(node, rank) == {rank + dim}


def _einsum(at: Influences, node: fx.Node, of: Of) -> Tensor:
    equation, operands = str(node.args[0]), list(node.args[1])  # type: ignore[arg-type]
    parts = []
    for source in dict.fromkeys(operands):
        for place, operand in enumerate(operands):
            if operand is source:
                factors = [of(o) if p == place else at.nonzero(o) for p, o in enumerate(operands)]
                parts.append(torch.einsum(equation, factors))
    return _sum(parts, at.shape(node))


def _attention(at: Influences, node: fx.Node, of: Of) -> Tensor:
    """Weights depend on queries and keys; a value that is the same constant at every place is what comes out.

    Not so where a mask depends on the input: a row that is masked altogether gives zeros.
    """
    query, key, value = node.args[:3]
    scores = at.product(lambda q, k: q @ k.transpose(-1, -2), query, key, of)
    mask = ops.argument(node, 3, "attn_mask")
    if isinstance(mask, fx.Node):
        scores = scores + of(mask)
    if isinstance(mask, fx.Node) and bool(at.taint[mask].any()):
        somewhere = at.nonzero(value).amax(-2, keepdim=True)  # type: ignore[arg-type]
        return scores.sum(-1, keepdim=True) * somewhere + of(value).sum(-2, keepdim=True)  # type: ignore[arg-type]
    weights = scores.sum(-1, keepdim=True)
    return weights * at.varying(value, -2) + _spread(of(value), [of(value).ndim - 2])[..., :1, :]  # type: ignore[arg-type]


def _batch_norm(at: Influences, node: fx.Node, of: Of) -> Tensor:
    source, gamma = of(node.args[0]), node.args[1]  # type: ignore[arg-type]
    if node.target in ops.INSTANCE_NORM:
        source = _spread(source, range(2, source.ndim))
    elif node.args[5]:
        source = _spread(source, (d for d in range(source.ndim) if d != 1))
    return _by_channel(at, source, gamma)


def _layer_norm(at: Influences, node: fx.Node, of: Of) -> Tensor:
    source, gamma = of(node.args[0]), ops.argument(node, 2, "weight")  # type: ignore[arg-type]
    rank = len(node.args[1])  # type: ignore[arg-type]
    spread = _spread(source, range(source.ndim - rank, source.ndim))
    return spread * at.nonzero(gamma) if isinstance(gamma, fx.Node) else spread


def _group_norm(at: Influences, node: fx.Node, of: Of) -> Tensor:
    source, gamma = of(node.args[0]), ops.argument(node, 2, "weight")  # type: ignore[arg-type]
    grouped = source.reshape(source.shape[0], int(node.args[1]), -1)  # type: ignore[arg-type]
    return _by_channel(at, _spread(grouped, [2]).reshape(source.shape), gamma)


def _by_channel(at: Influences, source: Tensor, gamma: Any) -> Tensor:
    """Let nothing through where a norm's scale, if it has one, is zero."""
    if not isinstance(gamma, fx.Node):
        return source
    return source * at.nonzero(gamma).reshape([-1 if d == 1 else 1 for d in range(source.ndim)])


def _prelu(at: Influences, node: fx.Node, of: Of) -> Tensor:
    return of(node.all_input_nodes[0])


def _move(at: Influences, node: fx.Node, of: Of) -> Tensor:
    source, *indices = node.all_input_nodes
    if any(index in at.taint and bool(at.taint[index].any()) for index in indices):
        return _everything(at, node, of)
    return run_on(at.values, node, source, of(source)).contiguous()


def _concatenate(at: Influences, node: fx.Node, of: Of) -> Tensor:
    return torch.cat([of(part) for part in ops.parts(node)], int(ops.argument(node, 1, "dim", 0)))


def _pool(at: Influences, node: fx.Node, of: Of) -> Tensor:
    source = of(node.all_input_nodes[0])
    return source.sum(tuple(range(-ops.places(node), 0)), keepdim=True).expand(at.shape(node))


def _reduce(at: Influences, node: fx.Node, of: Of) -> Tensor:
    source = of(node.all_input_nodes[0])
    return source.sum(sorted(ops.dims_of(node, source.ndim))).reshape(at.shape(node))


def _along(at: Influences, node: fx.Node, of: Of) -> Tensor:
    source = of(node.all_input_nodes[0])
    return _spread(source, ops.dims_of(node, source.ndim))


def _embedding(at: Influences, node: fx.Node, of: Of) -> Tensor:
    """A column that is the same for every word does not depend on the word."""
    weight, index = node.args[:2]
    varying = at.varying(weight, 0)[0]  # type: ignore[arg-type]
    return of(index)[..., None] * varying + of(weight).sum(0)  # type: ignore[arg-type]


def _item(at: Influences, node: fx.Node, of: Of) -> Tensor:
    read = recurrent.influence_on_item if Cell.of(node.args[0]) else _everything
    return read(at, node, of)


def _everything(at: Influences, node: fx.Node, of: Of) -> Tensor:
    total = torch.zeros(())
    for source in node.all_input_nodes:
        if source in at.taint:
            total = total + of(source).sum()
        elif isinstance(at.values[source], tuple | list):
            total = total + 1.0
    return total.expand(at.shape(node))


_BY_VECTORS = ops.BATCH_NORM | ops.INSTANCE_NORM | ops.LAYER_NORM | ops.GROUP_NORM | ops.PRELU
_RULES: tuple[tuple[Any, Rule], ...] = (
    (ops.UNIFORM | ops.FILLED, _uniform),
    (ops.CREATE, _numbered),
    ({ops.aten.copy.default}, _copy),
    (ops.MULTIPLY, _multiply),
    (ops.DIVIDE, _divide),
    (ops.ELEMENTWISE, _elementwise),
    ({*ops.CONVOLUTION, *ops.TRANSPOSED, *ops.LINEAR}, _weighted),
    (ops.MATMUL | ops.ADD_MATMUL, _matmul),
    (ops.EINSUM, _einsum),
    (ops.ATTENTION, _attention),
    (ops.BATCH_NORM | ops.INSTANCE_NORM, _batch_norm),
    (ops.LAYER_NORM, _layer_norm),
    (ops.GROUP_NORM, _group_norm),
    (ops.PRELU, _prelu),
    (ops.CONCATENATE, _concatenate),
    (ops.MOVE | ops.INDEX | ops.COL2IM, _move),
    (ops.POOL, _pool),
    (ops.REDUCE, _reduce),
    (ops.ALONG, _along),
    (ops.EMBEDDING, _embedding),
    (ops.RECURRENT, recurrent.influence_on_state),
    ({ops.getitem}, _item),
)
