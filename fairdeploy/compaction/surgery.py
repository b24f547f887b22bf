"""Carry out a plan on the graph: smaller tensors, new biases, and the integers that hold sizes.

Everything is worked out and checked first; only then does the graph change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from fairdeploy.compaction import ops
from fairdeploy.compaction.labels import LabelledGraph
from fairdeploy.compaction.plan import Plan
from fairdeploy.compaction.trace import stored
from fairdeploy.errors import CompactionError

Keep = tuple[NDArray[np.bool_], ...]


@dataclass(frozen=True)
class Surgery:
    """The changes to a graph, none of them made yet.

    Attributes
    ----------
    tensors : dict of str to Tensor
        New parameters and buffers by name, float64.
    new_biases : dict of str to Node
        Biases that did not exist before, and the layer that gets each.
    arguments : dict of Node to tuple
        New arguments for operations that hold sizes.
    """

    tensors: dict[str, Tensor]
    new_biases: dict[str, fx.Node]
    arguments: dict[fx.Node, tuple[Any, ...]]


def prepare(labelled: LabelledGraph, plan: Plan) -> Surgery:
    """Work out and check every change.

    Raises
    ------
    CompactionError
        If a layer would be empty, or an operation holds a size that cannot be rewritten.
    """
    tensors: dict[str, Tensor] = {}
    for node in labelled.stored_nodes():
        keep = plan.keep[node]
        if any(len(kept) and not kept.any() for kept in keep):
            raise CompactionError(f"'{node.target}' would lose its last channel")
        tensors[str(node.target)] = select(labelled.trace.tensor(node), keep)
    new_biases: dict[str, fx.Node] = {}
    for node, fold in plan.folds.items():
        operands = ops.contraction(node)
        assert operands is not None
        _, weight, bias = operands
        name = str(bias.target) if bias is not None else str(weight.target).rpartition(".")[0] + ".bias"
        name = name.lstrip(".")
        kept_fold = fold[torch.from_numpy(plan.keep[weight][0])]
        if bias is None:
            if _exists(labelled.trace.graph_module, name):
                raise CompactionError(f"no room for a bias of '{weight.target}': '{name}' is taken")
            new_biases[name] = node
            tensors[name] = kept_fold
        else:
            tensors[name] = tensors[name] + kept_fold
    arguments: dict[fx.Node, tuple[Any, ...]] = {}
    for node in labelled.dims:
        rewrite = _REWRITES.get(node.target)
        if rewrite is not None:
            new = rewrite(labelled, plan, node)
            if new != node.args:
                arguments[node] = new
    return Surgery(tensors, new_biases, arguments)


def carry_out(graph_module: fx.GraphModule, surgery: Surgery) -> None:
    """Change a graph module in place."""
    for name, tensor in surgery.tensors.items():
        put(graph_module, name, tensor)
    for node, arguments in surgery.arguments.items():
        node.args = arguments
    for name, node in surgery.new_biases.items():
        weight = ops.convolution(node)[1]
        with graph_module.graph.inserting_after(weight):
            bias = graph_module.graph.get_attr(name)
        node.args = (*node.args[:2], bias, *node.args[3:])
    graph_module.graph.lint()
    graph_module.recompile()


def select(tensor: Tensor, keep: Keep) -> Tensor:
    """Return a tensor without the indices that go, along every dimension."""
    for dim, kept in enumerate(keep):
        if not kept.all():
            tensor = tensor.index_select(dim, torch.from_numpy(np.flatnonzero(kept)))
    return tensor.detach().clone()


def put(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Replace or add a module's parameter or buffer by its dotted name."""
    owner_name, _, leaf = name.rpartition(".")
    owner = module.get_submodule(owner_name)
    if leaf in owner._buffers:
        owner._buffers[leaf] = tensor
        return
    old = owner._parameters.get(leaf)
    if old is None and hasattr(owner, leaf) and leaf not in owner._parameters:
        setattr(owner, leaf, tensor)
        return
    owner.register_parameter(leaf, nn.Parameter(tensor, requires_grad=old is None or old.requires_grad))


def _exists(module: nn.Module, name: str) -> bool:
    try:
        stored(module, name)
    except (AttributeError, CompactionError):
        return False
    return True


def _resized(labelled: LabelledGraph, plan: Plan, node: fx.Node) -> tuple[Any, ...]:
    """View, reshape, expand: each size becomes the number of indices kept; -1 and the batch size stay."""
    sizes = list(node.args[1])  # type: ignore[arg-type]
    keep = plan.keep[node]
    for dim, size in enumerate(sizes):
        if isinstance(size, int) and size >= 0:
            sizes[dim] = int(keep[dim].sum())
        elif not keep[dim].all() and not isinstance(size, int):
            raise CompactionError(f"{ops.title(node)} '{node.name}' computes the size of a dimension that shrinks")
    return (node.args[0], sizes, *node.args[2:])


def _resliced(labelled: LabelledGraph, plan: Plan, node: fx.Node) -> tuple[Any, ...]:
    """Slice: bounds become ranks among the kept indices."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    dim = int(ops.argument(node, 1, "dim", 0)) % len(plan.keep[source])
    kept = plan.keep[source][dim]
    if kept.all():
        return node.args
    start, end = ops.argument(node, 2, "start"), ops.argument(node, 3, "end")
    bounds = slice(start, end).indices(len(kept))[:2]
    return (source, dim, int(kept[: bounds[0]].sum()), int(kept[: bounds[1]].sum()))


def _regrouped(labelled: LabelledGraph, plan: Plan, node: fx.Node) -> tuple[Any, ...]:
    """Depthwise convolution: as many groups as inputs."""
    source, _, _, groups = ops.convolution(node)
    if groups == 1 or plan.keep[source][1].all():
        return node.args
    defaults = (None, None, None, 1, 0, 1)
    given = tuple(node.args[:6]) + defaults[len(node.args[:6]) :]
    return (*given, int(plan.keep[source][1].sum()))


_REWRITES: dict[Any, Callable[[LabelledGraph, Plan, fx.Node], tuple[Any, ...]]] = {
    **dict.fromkeys(ops.RESHAPE, _resized),
    **dict.fromkeys(ops.SLICE, _resliced),
    **dict.fromkeys(ops.CONVOLUTION, _regrouped),
}
