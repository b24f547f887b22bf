"""Which channels can go, and the constants they leave behind.

A channel may go iff, in every tensor that carries it, its slice is untainted (a constant) or not live (never
used). The constants are folded into the bias of the convolution or linear layer that reads them. With zero
padding a constant other than zero is no constant sum at the border, so such a channel is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from fairdeploy.compaction import ops
from fairdeploy.compaction.dependence import Dependence, dependence
from fairdeploy.compaction.labels import Dims, LabelledGraph

LAST_CHANNEL = "the last channel of a layer is never removed"


@dataclass(frozen=True)
class Plan:
    """What surgery does.

    Attributes
    ----------
    removed : frozenset of int
        The channels (root labels) that go.
    kept_because : dict of int to str
        Channels that carry no information and are kept all the same, with the reason.
    keep : dict of Node to tuple of bool array
        For every tensor and dimension which indices stay.
    folds : dict of Node to Tensor
        For a convolution or linear layer what is added to its bias [out], before its own outputs are removed.
    """

    removed: frozenset[int]
    kept_because: dict[int, str]
    keep: dict[fx.Node, tuple[NDArray[np.bool_], ...]]
    folds: dict[fx.Node, Tensor]


def plan(labelled: LabelledGraph) -> Plan:
    """Find the removable channels of a labelled graph from the zeros in its parameters."""
    values = labelled.trace.run()
    graph = labelled.trace.graph_module.graph
    roots = {node: tuple(labelled.roots(ids) for ids in dims) for node, dims in labelled.dims.items()}
    known = dependence(graph, values)
    removable = _idle(roots, known)
    kept_because: dict[int, str] = {}
    layers = [node for node in graph.nodes if ops.contraction(node)]
    for node in layers:
        kept_because.update(_unfoldable(node, roots, removable, known, values))
    removable -= kept_because.keys()
    last = _last_ones(roots, removable)
    kept_because.update(dict.fromkeys(last, LAST_CHANNEL))
    removable -= last
    gone = np.array(sorted(removable), dtype=np.int64)
    keep = {node: tuple(~np.isin(ids, gone) for ids in dims) for node, dims in roots.items()}
    folds = {node: _constant_sum(node, keep, known, values) for node in layers}
    return Plan(frozenset(removable), kept_because, keep, {n: fold for n, fold in folds.items() if fold.any()})


def _idle(roots: dict[fx.Node, Dims], known: Dependence) -> set[int]:
    """Return the channels whose slices are all constant or unused."""
    channels: set[int] = set()
    busy: set[int] = set()
    for node, dims in roots.items():
        at_work = known.taint[node] * known.live[node] if node in known.taint and node.op != "get_attr" else None
        for dim, ids in enumerate(dims):
            channels.update(ids[ids >= 0].tolist())
            if at_work is not None and (ids >= 0).any():
                busy.update(ids[(at_work.movedim(dim, 0).flatten(1) > 0).any(1).numpy()].tolist())
    return channels - busy


def _read_dim(node: fx.Node) -> int:
    """Return the dimension of its input that a convolution or linear layer contracts."""
    return -1 if node.target in ops.LINEAR else 1


def _contracts(node: fx.Node) -> bool:
    """Return whether a layer adds up channels; a depthwise convolution does not."""
    return node.target in ops.LINEAR or ops.convolution(node)[3] == 1


def _constants(node: fx.Node, known: Dependence, values: dict[fx.Node, Any]) -> tuple[Tensor, Tensor]:
    """Return, for each channel that a layer reads, the constant [c] it holds and whether it is one [c].

    A channel that nobody uses counts as the constant zero.
    """
    source = node.all_input_nodes[0]
    dim = _read_dim(node)
    value = values[source].movedim(dim, 0).flatten(1)
    used = (known.live[source].movedim(dim, 0).flatten(1) > 0).any(1)
    untainted = (known.taint[source].movedim(dim, 0).flatten(1) == 0).all(1)
    constant = torch.where(used & untainted, value[:, 0], torch.zeros_like(value[:, 0]))
    return constant, ~used | (untainted & (value == value[:, :1]).all(1))


def _unfoldable(
    node: fx.Node, roots: dict[fx.Node, Dims], removable: set[int], known: Dependence, values: dict[fx.Node, Any]
) -> dict[int, str]:
    """Return the channels whose constant cannot go into this layer's bias, with the reason."""
    operands = ops.contraction(node)
    assert operands is not None
    source, weight, bias = operands
    if not _contracts(node):
        return {}
    constant, uniform = _constants(node, known, values)
    shared = len(weight.users) > 1 or (bias is not None and len(bias.users) > 1)
    border = node.target in ops.CONVOLUTION and _pads(node)
    reasons: dict[int, str] = {}
    for index, root in enumerate(roots[source][_read_dim(node)].tolist()):
        if root not in removable:
            continue
        if not uniform[index]:
            reasons[root] = f"its constant differs from place to place where '{weight.target}' reads it"
        elif constant[index] != 0 and border:
            reasons[root] = f"its constant is not zero and '{weight.target}' pads with zeros"
        elif constant[index] != 0 and shared:
            reasons[root] = f"'{weight.target}' is used more than once, so its bias cannot take the constant"
    return reasons


def _pads(node: fx.Node) -> bool:
    padding = ops.argument(node, 4, "padding", 0)
    if isinstance(padding, str):
        return padding != "valid"
    return any(padding) if isinstance(padding, list | tuple) else bool(padding)


def _last_ones(roots: dict[fx.Node, Dims], removable: set[int]) -> set[int]:
    """Return, for each dimension that would lose all its channels, the first of them."""
    rescued: set[int] = set()
    for dims in roots.values():
        for ids in dims:
            staying = [root for root in ids.tolist() if root not in removable or root in rescued]
            if len(ids) and not staying:
                rescued.add(int(ids[0]))
    return rescued


def _constant_sum(
    node: fx.Node, keep: dict[fx.Node, tuple[NDArray[np.bool_], ...]], known: Dependence, values: dict[fx.Node, Any]
) -> Tensor:
    """Return what the removed inputs add to each output [out] of a layer."""
    operands = ops.contraction(node)
    assert operands is not None
    source, weight, _ = operands
    matrix: Tensor = values[weight]
    total = matrix.flatten(2).sum(2) if matrix.ndim > 2 else matrix
    if not _contracts(node):
        return torch.zeros(len(total), dtype=total.dtype)
    gone = torch.from_numpy(~keep[source][_read_dim(node)])
    constant, _ = _constants(node, known, values)
    return total @ torch.where(gone, constant, torch.zeros_like(constant))
