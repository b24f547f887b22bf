"""Constant tables that several layers read: each reader has its own while channels are removed.

A table of sines that twelve attention layers share would have to lose the same features for all of them. Copies that
are equal at the end become one again.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, fx, nn

from fairdeploy.compaction import ops
from fairdeploy.compaction.stored import stored

_TABLE = "_table_"


def part_tables(graph_module: fx.GraphModule, computed: set[str]) -> None:
    """Give every reader of a floating constant, or of a part of it, a copy of its own, in place.

    Parameters
    ----------
    graph_module : GraphModule
    computed : set of str
        Names of tensors that are computed from parameters: no constants.
    """
    graph, values, table = graph_module.graph, dict[fx.Node, Tensor](), dict[fx.Node, str]()
    for node in graph.nodes:
        if node.op == "get_attr":
            tensor = stored(graph_module, str(node.target))
            changes = isinstance(tensor, nn.Parameter) or node.target in computed or _is_statistic(node)
            if not changes and tensor.is_floating_point():
                values[node], table[node] = tensor, str(node.target)
        elif node.target in ops.MOVE and len(node.all_input_nodes) == 1 and node.args[0] in values:
            moved = node.target(values[node.args[0]], *node.args[1:], **node.kwargs)
            if moved.numel() <= values[node.args[0]].numel():
                values[node], table[node] = moved, table[node.args[0]]
    readings = [(node, user) for node in values for user in node.users if user not in values]
    often = Counter(name for name, _ in {(table[node], user) for node, user in readings})
    for count, (node, user) in enumerate(reading for reading in readings if often[table[reading[0]]] > 1):
        name = f"{_TABLE}{count}"
        graph_module.register_buffer(name, values[node].detach().clone())
        with graph.inserting_before(user):
            own = graph.get_attr(name)
        own.meta = dict(node.meta)
        user.replace_input_with(node, own)
    graph.eliminate_dead_code()


def _is_statistic(node: fx.Node) -> bool:
    """Return whether a norm may write to what a node reads, in training."""
    return any(user.target in ops.BATCH_NORM | ops.INSTANCE_NORM for user in node.users)


def join_tables(graph_module: fx.GraphModule) -> None:
    """Let readers share those copies that are equal, in place."""
    nodes = [node for node in graph_module.graph.nodes if node.op == "get_attr"]
    copies = [node for node in nodes if str(node.target).startswith(_TABLE)]
    first = [node for node in nodes if not str(node.target).startswith(_TABLE)]
    for node in copies:
        table = stored(graph_module, str(node.target))
        for other in first:
            shared = stored(graph_module, str(other.target))
            same = not isinstance(shared, nn.Parameter) and table.dtype == shared.dtype and table.shape == shared.shape
            if same and torch.equal(table, shared):
                node.target = other.target
                break
        else:
            first.append(node)
