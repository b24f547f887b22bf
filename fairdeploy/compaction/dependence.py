"""Which elements depend on the input (taint), and on which the output depends (liveness).

Each operation has a linear map with coefficients >= 0 that is positive exactly where an output element may depend
on an input element (`influence`). Taint runs it forward (inputs 1, parameters 0), liveness its transpose backward
from the outputs. An element that is untainted is a constant; one that is not live is never used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from fairdeploy.compaction.cells import Cell
from fairdeploy.compaction.influence import Influences


@dataclass(frozen=True)
class Dependence:
    """Zeros and ones (float32, shaped like the node's value) for every tensor of a graph."""

    taint: dict[fx.Node, Tensor]
    live: dict[fx.Node, Tensor]

    def constant(self, node: fx.Node) -> bool:
        """Return whether nothing of a tensor depends on the input."""
        return not bool(self.taint[node].any())


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
    rules = Influences(values, taint)
    for node in graph.nodes:
        if node.op != "output" and (isinstance(values.get(node), Tensor) or Cell.of(node)):
            if node.op in ("placeholder", "get_attr"):
                taint[node] = torch.tensor(float(node.op == "placeholder")).expand(values[node].shape)
            else:
                with torch.no_grad():
                    taint[node] = (rules.influence(node, taint.__getitem__) > 0).float()
    return Dependence(taint, _liveness(graph, rules))


def _liveness(graph: fx.Graph, rules: Influences) -> dict[fx.Node, Tensor]:
    live: dict[fx.Node, Tensor] = {node: torch.zeros(()).expand(t.shape) for node, t in rules.taint.items()}
    for node in reversed(graph.nodes):
        sources = [source for source in node.all_input_nodes if source in live]
        if node.op == "output" or (node not in live and isinstance(rules.values.get(node), tuple | list)):
            for source in sources:
                live[source] = torch.ones(()).expand(live[source].shape)
        elif node in live and sources and bool(live[node].any()):
            leaves = {source: torch.zeros(live[source].shape, requires_grad=True) for source in sources}
            with torch.enable_grad():
                result = rules.influence(node, leaves.__getitem__)
            if not result.requires_grad:
                continue
            gradients = torch.autograd.grad(result, list(leaves.values()), live[node], allow_unused=True)
            for source, gradient in zip(sources, gradients, strict=True):
                if gradient is not None:
                    live[source] = torch.maximum(live[source], (gradient > 0).float())
    return live
