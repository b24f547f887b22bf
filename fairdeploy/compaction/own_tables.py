"""Constant tables that several layers read: each reader has its own while channels are removed.

A table of sines that twelve attention layers share would have to lose the same features for all of them. Copies that
are equal at the end become one again.
"""

from __future__ import annotations

import torch
from torch import fx, nn

from fairdeploy.compaction.stored import stored

_TABLE = "_table_"


def part_tables(graph_module: fx.GraphModule, computed: set[str]) -> None:
    """Give every reader of a floating constant a copy of its own, in place.

    Parameters
    ----------
    graph_module : GraphModule
    computed : set of str
        Names of tensors that are computed from parameters: no constants.
    """
    graph, count = graph_module.graph, 0
    for node in [node for node in graph.nodes if node.op == "get_attr"]:
        tensor = stored(graph_module, str(node.target))
        if isinstance(tensor, nn.Parameter) or node.target in computed or not tensor.is_floating_point():
            continue
        for user in list(node.users)[1:]:
            name, count = f"{_TABLE}{count}", count + 1
            graph_module.register_buffer(name, tensor.detach().clone())
            with graph.inserting_before(user):
                own = graph.get_attr(name)
            own.meta = dict(node.meta)
            user.replace_input_with(node, own)


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
