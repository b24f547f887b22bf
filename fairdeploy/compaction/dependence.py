"""Which elements depend on the input (taint), and on which the output depends (liveness).

Each operation has a linear map with coefficients >= 0 that is positive exactly where an output element may depend
on an input element: |W| > 0 for a convolution, ``t_a * nz(b) + nz(a) * t_b`` for a product, sums for what mixes,
the operation itself for what moves. Taint runs it forward (inputs 1, parameters 0), liveness its transpose
backward from the outputs. An element that is untainted is a constant; one that is not live is never used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from fairdeploy.compaction import ops
from fairdeploy.compaction.label_rules import reduced_dims, run_on

Influence = Callable[[fx.Node], Tensor]


@dataclass(frozen=True)
class Dependence:
    """Zeros and ones (float32, shaped like the node's value) for every floating tensor of a graph."""

    taint: dict[fx.Node, Tensor]
    live: dict[fx.Node, Tensor]


def dependence(graph: fx.Graph, values: dict[fx.Node, Any]) -> Dependence:
    """Find taint and liveness for a graph that ran with `values`.

    Parameters
    ----------
    graph : Graph
        Functional, as `trace` makes it.
    values : dict of Node to Any
        What every node gave in a run; decides which parameters and constants are zero.
    """
    taint: dict[fx.Node, Tensor] = {}
    rules = _Rules(values, taint)
    for node in graph.nodes:
        if isinstance(values.get(node), Tensor) and node.op != "output":
            if node.op in ("placeholder", "get_attr"):
                taint[node] = torch.full(values[node].shape, float(node.op == "placeholder"))
            else:
                with torch.no_grad():
                    taint[node] = (rules.influence(node, taint.__getitem__) > 0).float()
    return Dependence(taint, _liveness(graph, rules))


def _liveness(graph: fx.Graph, rules: _Rules) -> dict[fx.Node, Tensor]:
    live = {node: torch.zeros_like(taint) for node, taint in rules.taint.items()}
    for node in reversed(graph.nodes):
        sources = [source for source in node.all_input_nodes if source in live]
        if node.op == "output" or (node not in live and _is_used_opaquely(node, rules.values)):
            for source in sources:
                live[source] = torch.ones_like(live[source])
        elif node in live and sources and bool(live[node].any()):
            leaves = {source: torch.zeros_like(live[source], requires_grad=True) for source in sources}
            result = rules.influence(node, leaves.__getitem__)
            if not result.requires_grad:
                continue
            gradients = torch.autograd.grad(result, list(leaves.values()), live[node], allow_unused=True)
            for source, gradient in zip(sources, gradients, strict=True):
                if gradient is not None:
                    live[source] = torch.maximum(live[source], (gradient > 0).float())
    return live


def _is_used_opaquely(node: fx.Node, values: dict[fx.Node, Any]) -> bool:
    """Return whether a node gives several tensors, which no rule follows."""
    return isinstance(values.get(node), tuple | list)


class _Rules:
    """The positive linear map of every operation."""

    def __init__(self, values: dict[fx.Node, Any], taint: dict[fx.Node, Tensor]) -> None:
        self.values = values
        self.taint = taint

    def influence(self, node: fx.Node, of: Influence) -> Tensor:
        """Return what reaches a node's result from the influence of its operands."""
        shape = self.values[node].shape
        if node.target in ops.CONVOLUTION and ops.contraction(node):
            return self._convolution(node, of)
        if node.target in ops.LINEAR and ops.contraction(node):
            return functional.linear(of(node.args[0]), self._nonzero(node.args[1]))  # type: ignore[arg-type]
        if node.target in ops.BATCH_NORM:
            return self._batch_norm(node, of)
        if node.target in ops.PRELU:
            return of(node.all_input_nodes[0])
        if node.target in ops.MULTIPLY | ops.DIVIDE:
            return self._product(node, of)
        if node.target in ops.ELEMENTWISE:
            return self._sum([of(source) for source in self._operands(node)], shape)
        if node.target in ops.MOVE:
            source = node.all_input_nodes[0]
            return run_on(self.values, node, source, of(source)).contiguous()
        if node.target in ops.CONCATENATE:
            return torch.cat([of(part) for part in ops.parts(node)], int(ops.argument(node, 1, "dim", 0)))
        if node.target in ops.POOL:
            return _spread(of(node.all_input_nodes[0]), range(2, len(shape)), shape)
        if node.target in ops.REDUCE:
            return self._reduction(node, of)
        if node.target in ops.SOFTMAX:
            spread = of(node.all_input_nodes[0])
            return _spread(spread, reduced_dims(node, spread.ndim), shape)
        return self._everything(node, of)

    def _operands(self, node: fx.Node) -> list[fx.Node]:
        return [source for source in node.all_input_nodes if source in self.taint]

    def _nonzero(self, node: fx.Node) -> Tensor:
        """Return 1 where an element may be other than zero."""
        value: Tensor = self.values[node]
        return ((value != 0) | (self.taint[node] > 0)).float()

    def _convolution(self, node: fx.Node, of: Influence) -> Tensor:
        source, weight, _, _ = ops.convolution(node)
        result: Tensor = ops.CONVOLUTION[node.target](of(source), self._nonzero(weight), None, *node.args[3:])
        return result

    def _batch_norm(self, node: fx.Node, of: Influence) -> Tensor:
        source, gamma = of(node.args[0]), node.args[1]  # type: ignore[arg-type]
        if not isinstance(gamma, fx.Node):
            return source
        return source * self._nonzero(gamma).reshape([-1 if d == 1 else 1 for d in range(source.ndim)])

    def _product(self, node: fx.Node, of: Influence) -> Tensor:
        shape = self.values[node].shape
        factors = [factor for factor in node.args[:2] if isinstance(factor, fx.Node) and factor in self.taint]
        if len(factors) == 1:
            return of(factors[0]).expand(shape)
        first, second = factors
        if node.target in ops.DIVIDE:
            return self._sum([of(first), self._nonzero(first) * of(second)], shape)
        return self._sum([of(first) * self._nonzero(second), self._nonzero(first) * of(second)], shape)

    @staticmethod
    def _sum(parts: list[Tensor], shape: torch.Size) -> Tensor:
        result = torch.zeros(shape)
        for part in parts:
            result = result + part
        return result

    def _reduction(self, node: fx.Node, of: Influence) -> Tensor:
        source = of(node.all_input_nodes[0])
        dims = sorted(reduced_dims(node, source.ndim))
        return source.sum(dims).reshape(self.values[node].shape)

    def _everything(self, node: fx.Node, of: Influence) -> Tensor:
        """An unknown operation: each output element may depend on every input element."""
        total = torch.zeros(())
        for source in node.all_input_nodes:
            if source in self.taint:
                total = total + of(source).sum()
            elif isinstance(self.values[source], tuple | list):
                total = total + 1.0
        return total.expand(self.values[node].shape)


def _spread(source: Tensor, dims: Any, shape: torch.Size) -> Tensor:
    """Let every element along `dims` depend on all of them."""
    return source.sum(tuple(dims), keepdim=True).expand(shape)
