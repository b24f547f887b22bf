"""Carry out a plan on the graph: smaller tensors, new biases, and the arguments that hold sizes.

Everything is worked out and checked first; only then does the graph change.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from fairdeploy.compaction import ops
from fairdeploy.compaction.graph_labels import LabelledGraph
from fairdeploy.compaction.own_tables import join_tables
from fairdeploy.compaction.plan import Plan
from fairdeploy.compaction.rewrites import Arguments
from fairdeploy.compaction.selection import take
from fairdeploy.compaction.shuffles import PICKED, shuffle_picked
from fairdeploy.compaction.stored import find, free_name, put
from fairdeploy.compaction.wide_norm import Lost, widen


@dataclass(frozen=True)
class Surgery:
    """The changes to a graph, none of them made yet.

    Attributes
    ----------
    tensors : dict of str to Tensor
        New parameters and buffers by name, float64.
    new_biases : dict of str to Node
        Biases that did not exist before, and the layer that gets each.
    added : dict of Node to Tensor
        Constants that are added to a result, where no bias can take them.
    replaced : dict of Node to Tensor
        Results that are constants.
    bypassed : dict of Node to Node
        Additions of a constant zero, and what they are added to.
    widened : dict of Node to Lost
        Layer norms that lose channels.
    scaled : dict of Node to float
        Means that lose elements, with the share of them that stays.
    arguments : dict of Node to Arguments
        New arguments for operations that hold sizes.
    """

    tensors: dict[str, Tensor]
    new_biases: dict[str, fx.Node] = field(default_factory=dict)
    added: dict[fx.Node, Tensor] = field(default_factory=dict)
    replaced: dict[fx.Node, Tensor] = field(default_factory=dict)
    bypassed: dict[fx.Node, fx.Node] = field(default_factory=dict)
    widened: dict[fx.Node, Lost] = field(default_factory=dict)
    scaled: dict[fx.Node, float] = field(default_factory=dict)
    arguments: dict[fx.Node, Arguments] = field(default_factory=dict)

    @property
    def groups(self) -> dict[str, int]:
        """Numbers of groups that convolutions are left with, by the names of their weights."""
        convolutions = [
            (node, new)
            for node, new in self.arguments.items()
            if ops.is_convolution(node) and ops.argument(node, 1, "weight").op == "get_attr"
        ]
        return {
            str(ops.argument(node, 1, "weight").target): ops.groups_given(new.args, new.kwargs)
            for node, new in convolutions
        }


def prepare(labelled: LabelledGraph, plan: Plan) -> Surgery:
    """Work out every change."""
    tensors = {str(node.target): _smaller(labelled, plan, node) for node in plan.selections if node.op == "get_attr"}
    surgery = Surgery(
        tensors,
        replaced={node: take(value, plan.selections[node]) for node, value in plan.replaced.items()},
        bypassed=_nothing_added(labelled, plan),
        widened=plan.widened,
        scaled={node: share for node, share in plan.scaled.items() if node not in plan.replaced},
        arguments=plan.arguments,
    )
    for node, constant in plan.folds.added.items():
        if node in plan.replaced:
            continue
        kept = take(constant, plan.selections[node])
        if not _into_bias(labelled, surgery, node, kept):
            surgery.added[node] = kept
    return surgery


def _nothing_added(labelled: LabelledGraph, plan: Plan) -> dict[fx.Node, fx.Node]:
    """Return the additions of replaced zeros, each with its other operand."""
    found: dict[fx.Node, fx.Node] = {}
    for node in (node for node, value in plan.replaced.items() if not bool(value.any())):
        for user in node.users:
            others = [arg for arg in user.args if isinstance(arg, fx.Node) and arg is not node]
            alone = user.target is ops.aten.add.Tensor and not user.kwargs and len(others) == 1
            same = [node.meta["val"].dtype for node in (user, *others)]
            if alone and len(set(same)) == 1 and labelled.shapes[others[0]] == labelled.shapes[user]:
                found[user] = others[0]
    return found


def _smaller(labelled: LabelledGraph, plan: Plan, node: fx.Node) -> Tensor:
    """Return what stays of a stored tensor."""
    tensor = plan.folds.weights.get(node, labelled.trace.tensor(node)).detach()
    across = labelled.grouped.get(node)
    if across is None:
        return take(tensor, plan.selections[node]).clone()
    groups = len(across)
    first = labelled.blocks[node][0].ids.reshape(groups, -1)
    per_group = tensor.reshape(groups, -1, *tensor.shape[1:])
    kept, inside = plan.stays[first], plan.stays[across]
    if kept.all() and inside.all():
        return tensor.clone()
    parts = [
        per_group[group][torch.from_numpy(np.flatnonzero(kept[group]))][
            :, torch.from_numpy(np.flatnonzero(inside[group]))
        ]
        for group in np.flatnonzero(kept.any(1) & inside.any(1))
    ]
    return torch.cat(parts)


def _into_bias(labelled: LabelledGraph, surgery: Surgery, node: fx.Node, constant: Tensor) -> bool:
    """Add a constant to the bias of a layer, if it has one of its own or room for it."""
    operands = ops.weighted(node)
    if operands is None:
        return False
    _, weight, bias = operands
    channel = 1 if ops.is_convolution(node) else constant.ndim - 1
    if any(size > 1 for dim, size in enumerate(constant.shape) if dim != channel):
        return False
    if bias is not None:
        if not labelled.is_stored_once(bias):
            return False
        surgery.tensors[str(bias.target)] = surgery.tensors[str(bias.target)] + constant.flatten()
        return True
    name = f"{str(weight.target).rpartition('.')[0]}.bias".lstrip(".")
    if (
        name in surgery.tensors
        or not labelled.is_stored_once(weight)
        or weight.op != "get_attr"
        or find(labelled.trace.graph_module, name) is not None
    ):
        return False
    outputs = surgery.tensors[str(weight.target)].shape[0 if node.target not in ops.TRANSPOSED else 1]
    if node.target in ops.TRANSPOSED and ops.groups_of(node) > 1:
        return False
    surgery.new_biases[name] = node
    surgery.tensors[name] = constant.flatten().expand(outputs).clone()
    return True


def carry_out(graph_module: fx.GraphModule, surgery: Surgery) -> None:
    """Change a graph module in place."""
    graph = graph_module.graph
    for name, tensor in surgery.tensors.items():
        put(graph_module, name, tensor)
    for node, new in surgery.arguments.items():
        _set_arguments(graph_module, node, new)
    for name, node in surgery.new_biases.items():
        with graph.inserting_before(node):
            bias = graph.get_attr(name)
        node.args, node.kwargs = ops.with_argument(node, 2, "bias", bias)
        if len(node.args) == 2 and "bias" in node.kwargs:
            node.args, node.kwargs = (*node.args, bias), {k: v for k, v in node.kwargs.items() if k != "bias"}
    for node, constant in surgery.added.items():
        with graph.inserting_after(node):
            stored_constant = _store(graph_module, "_constant", constant)
        _follow(stored_constant, ops.aten.add.Tensor, node, stored_constant)
    for node, share in surgery.scaled.items():
        _follow(node, ops.aten.mul.Tensor, node, share)
    for node, lost in surgery.widened.items():
        widen(graph_module, node, lost)
    for user, other in surgery.bypassed.items():
        user.replace_all_uses_with(other)
    graph.eliminate_dead_code()
    for node, constant in surgery.replaced.items():
        if node.users:
            with graph.inserting_before(node):
                node.replace_all_uses_with(_store(graph_module, "_always", constant))
    shuffle_picked(graph_module)
    join_tables(graph_module)
    graph.eliminate_dead_code()
    graph.lint()
    _forget_unused(graph_module)
    graph_module.recompile()


def _store(graph_module: fx.GraphModule, name: str, value: Tensor) -> fx.Node:
    """Store a constant under a name of its own, and return a node that reads it, at the place of insertion."""
    name = free_name(graph_module, name)
    graph_module.register_buffer(name, value)
    return graph_module.graph.get_attr(name)


def _follow(place: fx.Node, operation: Any, node: fx.Node, other: Any) -> None:
    """Insert an operation on a result after some place; all its users take what comes out."""
    with place.graph.inserting_after(place):
        new = place.graph.call_function(operation, (node, other))
    node.replace_all_uses_with(new, lambda user: user is not new)


def _set_arguments(graph_module: fx.GraphModule, node: fx.Node, new: Arguments) -> None:
    """Give a node its new arguments, storing a tensor among them."""

    def kept(value: Any) -> Any:
        if isinstance(value, list):
            return [kept(part) for part in value]
        if not isinstance(value, Tensor):
            return value
        with graph_module.graph.inserting_before(node):
            return _store(graph_module, PICKED, value)

    node.args, node.kwargs = tuple(kept(value) for value in new.args), new.kwargs


def _forget_unused(graph_module: fx.GraphModule) -> None:
    """Drop parameters and buffers that no operation reads."""
    used = {str(node.target) for node in graph_module.graph.nodes if node.op == "get_attr"}
    for owner_name, owner in list(graph_module.named_modules()):
        for tensors in (owner._parameters, owner._buffers):
            for leaf in [leaf for leaf in tensors if f"{owner_name}.{leaf}".lstrip(".") not in used]:
                del tensors[leaf]
    graph_module.delete_all_unused_submodules()
