"""Which channels can go, and what becomes of the constants they leave behind.

A channel may go iff, in every tensor that carries it, its slice is untainted (a constant) or not live (never
used). Any part of what may go can be kept; what surgery cannot carry out is given back, with the reason.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from fairdeploy.compaction import ops
from fairdeploy.compaction.closure import Closure, Kept
from fairdeploy.compaction.dependence import Dependence, dependence
from fairdeploy.compaction.folds import Folds
from fairdeploy.compaction.graph_labels import LabelledGraph
from fairdeploy.compaction.labels import Ids
from fairdeploy.compaction.rewrites import Arguments, NotRewritten, rewritten
from fairdeploy.compaction.selection import Ragged, Selection, select, shape_after
from fairdeploy.compaction.wide_norm import Lost
from fairdeploy.errors import CompactionError

Selections = dict[fx.Node, tuple[Selection, ...]]


@dataclass(frozen=True)
class Plan:
    """What surgery does.

    Attributes
    ----------
    stays : array of bool [labels]
        For each label whether its channel stays.
    kept_because : dict of int to str
        Channels (root labels) that carry no information and are kept all the same, with the reason.
    selections : dict of Node to tuple of Selection
        What stays of every tensor that is still computed.
    arguments : dict of Node to Arguments
        New arguments of operations that hold sizes.
    replaced : dict of Node to Tensor
        Tensors that do not depend on the input, with their value (size 1 along dimensions where it is the same).
    widened : dict of Node to Lost
        Layer norms that lose channels.
    scaled : dict of Node to float
        Means that lose elements, with the share of them that stays.
    folds : Folds
    """

    stays: Kept
    kept_because: dict[int, str]
    selections: Selections
    arguments: dict[fx.Node, Arguments]
    replaced: dict[fx.Node, Tensor]
    widened: dict[fx.Node, Lost]
    scaled: dict[fx.Node, float]
    folds: Folds


def plan(labelled: LabelledGraph) -> Plan:
    """Find the removable channels of a labelled graph from the zeros in its parameters."""
    values = labelled.trace.run()
    graph = labelled.trace.graph_module.graph
    known = dependence(graph, values)
    _check_connected(labelled, known)
    replaced = _replaceable(labelled, known, values)
    surviving = _surviving(graph, replaced)
    computed = [node for node in surviving if node not in replaced]
    channels = labelled.channels
    blocks = [block for node in surviving for block in labelled.blocks.get(node, ())]
    kept = busy(labelled, known, surviving) | (channels.reason >= 0)
    closure = Closure.of(channels, labelled.labels.grids, [block.ids for block in blocks])
    because: dict[int, str] = {}
    while True:
        closure.close(kept, because)
        folds = Folds.of(labelled, known, values, computed, kept[channels.root])
        returned = folds.unfoldable | folds.carriers
        if returned:
            because.update({int(channels.root[label]): why for label, why in returned.items()})
            kept[channels.root[list(returned)]] = True
            continue
        stays = kept[channels.root]
        try:
            selections = {
                node: select(labelled.blocks.get(node, ()), stays) for node in surviving if node in labelled.shapes
            }
            arguments = _arguments(labelled, values, selections, replaced)
        except Ragged as error:
            raise CompactionError("a joint block of channels did not close to full rows") from error
        except NotRewritten as failure:
            _give_back(labelled, failure.node, closure, kept, because)
            continue
        widened, scaled = _widened(values, selections), _scaled(labelled, selections)
        return Plan(stays, because, selections, arguments, replaced, widened, scaled, folds)


def _check_connected(labelled: LabelledGraph, known: Dependence) -> None:
    """Refuse a network in which nothing of the input reaches an output, naming the layers that cut it through."""
    graph = labelled.trace.graph_module.graph
    outputs = [source for node in graph.nodes if node.op == "output" for source in node.all_input_nodes]
    if not outputs or any(source not in known.taint or not known.constant(source) for source in outputs):
        return
    cut = [
        str(weight.target)
        for node in graph.nodes
        if ops.weighted(node) and known.constant(node) and not known.constant(node.all_input_nodes[0])
        for weight in [ops.weighted(node)[1]]  # type: ignore[index]
    ]
    where = f" ({', '.join(repr(name) for name in cut[:3])} lets nothing through)" if cut else ""
    raise CompactionError(
        f"the masks cut the network through: no output depends on the input any more{where}, so equal outputs would "
        "prove nothing; keep at least one channel on every path"
    )


def busy(labelled: LabelledGraph, known: Dependence, surviving: list[fx.Node]) -> Kept:
    """Return, at the root of each channel, whether a slice of it depends on the input and is used."""
    root = labelled.channels.root
    busy = np.zeros(len(root), bool)
    for node in surviving:
        if node.op == "get_attr" or not labelled.blocks.get(node):
            continue
        at_work = known.taint[node] * known.live[node]
        for block in labelled.blocks[node]:
            others = [dim for dim in range(at_work.ndim) if dim not in block.dims]
            peak = at_work.amax(others, keepdim=True) if others else at_work
            order = [*block.dims, *others]
            inside = peak.permute(order).reshape(block.ids.shape).numpy() > 0
            busy[root[block.ids[inside]]] = True
    return busy


def _replaceable(labelled: LabelledGraph, known: Dependence, values: dict[fx.Node, Any]) -> dict[fx.Node, Tensor]:
    """Return tensors that are computed from the input and do not depend on it, where they meet what does."""
    replaced: dict[fx.Node, Tensor] = {}
    for node, taint in known.taint.items():
        if node.op != "call_function" or labelled.is_constant(node) or bool(taint.any()):
            continue
        value: Tensor = values[node]
        users = [
            user
            for user in node.users
            if user.op == "output" or user not in known.taint or bool(known.taint[user].any())
        ]
        if not users or not value.is_floating_point():
            continue
        if all(_has_full_partner(labelled, known, user, node) for user in users):
            for dim in range(value.ndim):
                if bool((value == value.narrow(dim, 0, 1)).all()):
                    value = value.narrow(dim, 0, 1)
            if value.ndim and value.shape[0] == 1:
                replaced[node] = value
    return replaced


def _has_full_partner(labelled: LabelledGraph, known: Dependence, user: fx.Node, node: fx.Node) -> bool:
    """Return whether a node meets, element by element, what has the result's shape, so that it may be broadcast."""
    others = [other for other in user.all_input_nodes if other in known.taint and not known.constant(other)]
    return user.target in ops.ELEMENTWISE and any(
        labelled.shapes.get(other) == labelled.shapes.get(user) == labelled.shapes[node] for other in others
    )


def _surviving(graph: fx.Graph, replaced: dict[fx.Node, Tensor]) -> list[fx.Node]:
    """Return the nodes that are still needed, in order, the replaced ones among them."""
    needed: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "output" or any(user in needed and user not in replaced for user in node.users):
            needed.add(node)
    return [node for node in graph.nodes if node in needed and node.op != "output"]


def _widened(values: dict[fx.Node, Any], selections: Selections) -> dict[fx.Node, Lost]:
    """Return the layer norms whose channels are fewer, with what they lose."""
    widened: dict[fx.Node, Lost] = {}
    for node in (node for node in selections if node.target in ops.LAYER_NORM):
        source: fx.Node = node.all_input_nodes[0]
        last = values[source].ndim - 1
        channels = next((chosen for chosen in selections[source] if last in chosen.dims), None)
        if channels is not None and not channels.along(last).all():
            widened[node] = Lost.of(values[source], torch.from_numpy(~channels.along(last)))
    return widened


def _scaled(labelled: LabelledGraph, selections: Selections) -> dict[fx.Node, float]:
    """Return the means over fewer elements, with the share that stays."""
    scaled: dict[fx.Node, float] = {}
    for node in (node for node in selections if node.target in ops.MEAN):
        source = node.all_input_nodes[0]
        before, after = labelled.shapes[source], shape_after(labelled.shapes[source], selections[source])
        share = math.prod(after[dim] / before[dim] for dim in ops.dims_of(node, len(before)))
        if share != 1:
            scaled[node] = share
    return scaled


def _arguments(
    labelled: LabelledGraph, values: dict[fx.Node, Any], selections: Selections, replaced: dict[fx.Node, Tensor]
) -> dict[fx.Node, Arguments]:
    """Work out new arguments for operations that hold sizes."""
    arguments: dict[fx.Node, Arguments] = {}
    for node in selections:
        touched = [node, *(source for source in node.all_input_nodes if source in selections)]
        if node.op != "call_function" or node in replaced:
            continue
        if all(selection.whole for other in touched for selection in selections[other]):
            continue
        new = rewritten(labelled, values, selections, node)
        if new is not None:
            arguments[node] = new
    return arguments


def _give_back(labelled: LabelledGraph, node: fx.Node, closure: Closure, kept: Kept, because: dict[int, str]) -> None:
    """Ask for the same columns in every row that a node sees, or keep all it sees if they are."""
    root = labelled.channels.root
    ids = [root[b.ids] for other in (node, *node.all_input_nodes) for b in labelled.blocks.get(other, ())]
    touched: Ids = np.unique(np.concatenate([i.ravel() for i in ids]))
    loose = [grid for grid in closure.grids if not grid.product and bool(np.isin(grid.ids, touched).any())]
    if loose:
        for grid in loose:
            grid.product = True
        return
    if kept[touched].all():
        raise CompactionError(f"{ops.title(node)} '{node.name}' cannot be rewritten for fewer channels")
    for channel in touched[~kept[touched]].tolist():
        because.setdefault(channel, f"{ops.title(node)} cannot be rewritten for fewer")
    kept[touched] = True
