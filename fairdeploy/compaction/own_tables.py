"""Constant tables that several layers read: each reader has its own while channels are removed.

A table of sines that twelve attention layers share would have to lose the same features for all of them. Copies that
are equal at the end become one again.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from fairdeploy.compaction import ops
from fairdeploy.compaction.stored import free_name, stored

_TABLE = "_table"


def part_tables(graph_module: fx.GraphModule, computed: set[str]) -> dict[str, str]:
    """Give every reader of a floating constant, or of a part of it, a copy of its own, in place.

    A table whose parts overlap stays: apart, they would take more room.

    Parameters
    ----------
    graph_module : GraphModule
    computed : set of str
        Names of tensors that are computed from parameters: no constants.

    Returns
    -------
    dict of str to str
        The copies' names, each with that of its table.
    """
    graph, values, table = graph_module.graph, dict[fx.Node, Tensor](), dict[fx.Node, str]()
    for node in graph.nodes:
        if node.op == "get_attr":
            tensor = stored(graph_module, str(node.target))
            changes = isinstance(tensor, nn.Parameter) or node.target in computed or _is_statistic(node)
            if not changes and tensor.is_floating_point():
                values[node], table[node] = tensor, str(node.target)
        elif node.target in ops.MOVE and len(node.all_input_nodes) == 1 and node.args[0] in values:
            values[node] = node.target(values[node.args[0]], *node.args[1:], **node.kwargs)
            table[node] = table[node.args[0]]
    readings = [(node, user) for node in values for user in node.users if user not in values]
    copies: dict[str, str] = {}
    for name in dict.fromkeys(table.values()):
        own = [(node, user) for node, user in readings if table[node] == name]
        parts = {(p.storage_offset(), p.shape, p.stride()): p.numel() for p in (values[node] for node, _ in own)}
        if len({user for _, user in own}) > 1 and sum(parts.values()) <= stored(graph_module, name).numel():
            for node, user in own:
                copy = free_name(graph_module, _TABLE)
                copies[copy] = name
                graph_module.register_buffer(copy, values[node].detach().clone())
                with graph.inserting_before(user):
                    reader = graph.get_attr(copy)
                reader.meta = {**node.meta, "table": name}
                user.replace_input_with(node, reader)
    graph.eliminate_dead_code()
    return copies


def _is_statistic(node: fx.Node) -> bool:
    """Return whether a norm may write to what a node reads, in training."""
    return any(user.target in ops.BATCH_NORM | ops.INSTANCE_NORM for user in node.users)


def join_tables(graph_module: fx.GraphModule) -> None:
    """Let readers of one table share those copies that are still equal, in place."""
    first: dict[str, list[fx.Node]] = {}
    for node in graph_module.graph.nodes:
        if "table" in node.meta and node.op == "get_attr":
            others = first.setdefault(node.meta["table"], [])
            mine = stored(graph_module, str(node.target))
            equal = (other for other in others if torch.equal(stored(graph_module, str(other.target)), mine))
            other = next(equal, None)
            if other is None:
                others.append(node)
            else:
                node.target = other.target
