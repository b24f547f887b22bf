"""A compacted graph that can be fine-tuned, for networks whose own class cannot hold the smaller tensors.

A network is exported as it trains, and *quieted*: batch norms normalise by their running statistics, dropout lets
everything pass, and each such node notes what it does in training. What is left is an evaluation graph like any
other, and is compacted and proven like one. Then the nodes *awake*: what they noted comes back, switched by a flag
that follows ``train()`` and ``eval()``.
"""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from fairdeploy.compaction.bake import baked
from fairdeploy.compaction.canonical import canonicalise
from fairdeploy.compaction.constants import evaluate_constants
from fairdeploy.compaction.graph_labels import label_graph
from fairdeploy.compaction.own_tables import part_tables
from fairdeploy.compaction.plan import plan
from fairdeploy.compaction.precision import double, named_dtypes, to_double
from fairdeploy.compaction.proof import Expected
from fairdeploy.compaction.quiet import INSTEAD, WHETHER, IfTraining, quieten
from fairdeploy.compaction.stored import stored
from fairdeploy.compaction.surgery import carry_out, prepare
from fairdeploy.compaction.trace import BATCH, Trace, exported, rows_of
from fairdeploy.errors import CompactionError

_FLAG = "_training_flag"


class TrainingFlag(nn.Module):
    """Says whether it is in training mode."""

    def forward(self) -> bool:
        """Return the mode, which ``train()`` and ``eval()`` of the whole network set."""
        return self.training


def is_trainable(module: nn.Module) -> bool:
    """Return whether a module follows ``train()``: any but a graph of operations alone, as exports are."""
    return not isinstance(module, fx.GraphModule) or any(node.op == "call_module" for node in module.graph.nodes)


def training_graph(
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    rows: tuple[Tensor, ...],
    *,
    wide_layer_norm: bool = False,
) -> tuple[fx.GraphModule, dict[str, torch.dtype]]:
    """Compact a network as a graph that trains: with batch statistics, and dropout where the network has it.

    In evaluation mode it gives the network's outputs. Constants that removed channels left stay constants, in
    biases (which train) and maps (which do not). ``num_batches_tracked`` is not counted.

    Parameters
    ----------
    model : Module
        With its masks applied; left as it is.
    example_inputs : tuple of Tensor [n, ...]
    rows : tuple of Tensor [n, ...]
        Float64 inputs for the proof.
    wide_layer_norm : bool
        Whether channels under a layer norm may go; see `compact`.

    Returns
    -------
    GraphModule
        In float64 and evaluation mode.
    dict of str to dtype
        What its parameters and buffers were.

    Raises
    ------
    CompactionError
        If the network cannot be exported in training mode, does more in it than a graph can follow, computes
        weights from parameters in every pass, or the float64 check in evaluation mode fails.
    """
    with torch.no_grad():
        expected = Expected.of(double(baked(model).eval()), rows)
        trace = replace(_trace(model, example_inputs), wide_layer_norm=wide_layer_norm)
        labelled = label_graph(trace)
        carry_out(trace.graph_module, prepare(labelled, plan(labelled)))
        graph_module = _awakened(trace.graph_module)
        try:
            expected.prove(graph_module)
        except CompactionError as error:
            raise CompactionError(
                f"{type(model).__name__} does other things in training: {error}; {INSTEAD}"
            ) from error
    return graph_module, trace.dtypes


def _trace(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> Trace:
    """Export a network in training mode and quiet it; see `trace` for what follows."""
    name = type(model).__name__
    for where, part in model.named_modules():
        if isinstance(part, nn.modules.batchnorm._NormBase) and part.track_running_stats and part.momentum is None:
            raise CompactionError(
                f"{name}: '{where}' averages all batches (momentum=None), which no graph can do; give it a momentum"
            )
    inputs = tuple(rows_of(example, BATCH) for example in example_inputs)
    graph_module = exported(model, inputs, training=True)
    quieten(graph_module, name)
    dtypes = named_dtypes(graph_module)
    double(graph_module)
    canonicalise(graph_module)
    parameters = {node: len(node.users) for node in graph_module.graph.nodes if _is_parameter(graph_module, node)}
    evaluated = evaluate_constants(graph_module)
    dtypes |= evaluated.dtypes
    dtypes |= {copy: dtypes[table] for copy, table in part_tables(graph_module, evaluated.following).items()}
    for node, users in parameters.items():
        if len(node.users) < users:
            raise CompactionError(
                f"{name} computes from '{node.target}' anew in every pass what the graph holds as a fixed tensor, so "
                f"the graph cannot be trained; {INSTEAD}"
            )
    return Trace(graph_module, tuple(to_double(value) for value in inputs), dtypes, evaluated)


def _is_parameter(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    return node.op == "get_attr" and isinstance(stored(graph_module, str(node.target)), nn.Parameter)


def _awakened(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Return a graph module that follows ``train()`` and ``eval()``; in evaluation mode."""
    graph = graph_module.graph
    graph_module.add_module(_FLAG, TrainingFlag())
    first = next(node for node in graph.nodes if node.op != "placeholder")
    with graph.inserting_before(first):
        flag = graph.call_module(_FLAG)
    for node in list(graph.nodes):
        noted = node.meta.pop("in_training", None)
        if noted is not None:
            with graph.inserting_before(node):
                awake = pytree.tree_map(lambda value: _switched(graph, flag, value), noted.arguments)
            after = node.args[noted.position + len(awake) :]
            node.target, node.args = noted.target, (*node.args[: noted.position], *awake, *after)
    return fx.GraphModule(graph_module, graph).eval()


def _switched(graph: fx.Graph, flag: fx.Node, value: Any) -> Any:
    if isinstance(value, IfTraining):
        return graph.call_function(operator.mul, (flag, value.rate))
    return flag if value is WHETHER else value
