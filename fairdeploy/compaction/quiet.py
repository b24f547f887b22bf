"""A graph exported in training mode, turned into one for evaluation that can be turned back.

Batch norms normalise by their running statistics and dropout lets everything pass; each such node notes, as its
``meta["in_training"]``, what it does in training. What cannot be noted so is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from fairdeploy.compaction import ops
from fairdeploy.compaction.cells import split_layers
from fairdeploy.compaction.ops import argument, aten
from fairdeploy.errors import CompactionError

INSTEAD = "fine-tune the network before its channels are removed, or not at all (prune.recover.epochs: 0)"
_NORM = aten._native_batch_norm_legit_functional.default


@dataclass(frozen=True)
class InTraining:
    """What a quiet node does in training: its target, and its arguments from a position on.

    `WHETHER` stands for whether the network is in training, `IfTraining` for a number that depends on it.
    """

    target: Any
    position: int
    arguments: tuple[Any, ...]


WHETHER = object()


@dataclass(frozen=True)
class IfTraining:
    """A number in training, 0 in evaluation."""

    rate: float


def quieten(graph_module: fx.GraphModule, name: str) -> None:
    """Turn a graph exported in training mode into one for evaluation, in place.

    Raises
    ------
    CompactionError
        Saying what the network of that name does in training that a graph cannot follow.
    """
    graph = graph_module.graph
    norms = [node for node in graph.nodes if node.target is _NORM]
    _forget_updates(graph, norms, name)
    split_layers(graph)
    for node in list(graph.nodes):
        if node.target in (ops.getitem, aten.mul.Tensor, aten.dropout.default):
            _quiet_dropout(graph, node)
        elif node.target in ops.ATTENTION and argument(node, 4, "dropout_p", 0.0) > 0:
            rate = argument(node, 4, "dropout_p")
            node.args = (*node.args[:4], *[None] * (4 - len(node.args)), 0.0, *node.args[5:])
            node.kwargs = {key: value for key, value in node.kwargs.items() if key != "dropout_p"}
            _note(node, node.target, 4, IfTraining(rate))
        elif node.target in ops.INSTANCE_NORM and node.args[3] is not None and node.args[5]:
            node.args = (*node.args[:5], False, *node.args[6:])
            _note(node, node.target, 5, WHETHER)
        elif node.target in ops.RECURRENT and not (node.args[-4] and node.args[-5] > 1):
            node.args = (*node.args[:-3], False, *node.args[-2:])
    for node in norms:
        _quiet_norm(graph, node)
    for node in reversed(graph.nodes):
        if node.op == "call_function" and not node.users and "assert" not in str(node.target):
            graph.erase_node(node)
    for node in graph.nodes:
        tags = getattr(node.target, "tags", ())
        if torch.Tag.nondeterministic_seeded in tags and not _isquieten(node):
            raise CompactionError(
                f"{name} draws random numbers in training by {ops.title(node)} ('{node.name}'), in a way that its "
                f"graph cannot follow; {INSTEAD}"
            )
    graph_module.recompile()


def _isquieten(node: fx.Node) -> bool:
    """Return whether a node that may draw random numbers draws none."""
    if node.target in ops.RECURRENT:
        return not node.args[-3]
    return node.target in ops.ATTENTION and argument(node, 4, "dropout_p", 0.0) == 0


def _note(node: fx.Node, target: Any, position: int, *arguments: Any) -> None:
    node.meta["in_training"] = InTraining(target, position, arguments)


def _forget_updates(graph: fx.Graph, norms: list[fx.Node], name: str) -> None:
    """Remove what writes the running statistics of batch norms, which update them by themselves."""
    statistics = {_stored(norm.args[place]) for norm in norms for place in (3, 4)}
    for node in reversed(graph.nodes):
        if not getattr(getattr(node.target, "_schema", None), "is_mutable", False):
            continue
        buffer = node.args[0]
        if buffer not in statistics and not str(buffer.target).endswith("num_batches_tracked"):
            raise CompactionError(
                f"{name} writes to '{getattr(buffer, 'target', buffer)}' in training, which its graph cannot follow; "
                f"{INSTEAD}"
            )
        graph.erase_node(node)


def _stored(node: Any) -> Any:
    """Return the buffer that a batch norm's statistics come from, through earlier calls of the same layer."""
    while node.target is ops.getitem:
        node = node.args[0].args[node.args[1]]
    return node


def _quiet_norm(graph: fx.Graph, node: fx.Node) -> None:
    x, weight, bias, mean, variance, _, momentum, epsilon = node.args
    statistics = _stored(mean), _stored(variance)
    for item in list(node.users):
        if item.args[1] == 0:
            arguments = (x, weight, bias, *statistics, False, momentum, epsilon, False)
            _replace(graph, item, aten.batch_norm.default, arguments, aten.batch_norm.default, 5, WHETHER)


def _quiet_dropout(graph: fx.Graph, node: fx.Node) -> None:
    """Replace dropout, of elements or of whole channels or rows, by nothing."""
    if node.target is aten.dropout.default or (
        node.args[0].target is aten.native_dropout.default and node.args[1] == 0  # type: ignore[union-attr]
    ):
        x, rate, _ = node.args if node.target is aten.dropout.default else node.args[0].args  # type: ignore[union-attr]
        _replace(graph, node, aten.alias.default, (x,), aten.dropout.default, 1, rate, WHETHER)
        return
    if node.target is not aten.mul.Tensor:
        return
    for x, factor in (node.args, node.args[::-1]):
        found = _noise(factor)
        if found is None or not isinstance(x, fx.Node) or x.meta["val"].shape != node.meta["val"].shape:
            continue
        sizes, keep, scale = found
        if len(sizes) == x.meta["val"].ndim:
            dims = tuple(dim for dim, size in enumerate(sizes) if not (isinstance(size, int) and size == 1))
            _replace(graph, node, aten.alias.default, (x,), drop_slices, 1, keep, scale, dims, WHETHER)
            return


def _noise(factor: Any) -> tuple[tuple[Any, ...], float, float] | None:
    """Return sizes, probability of a one, and divisor, where a factor is drawn as ``bernoulli(empty(..)) / ..``."""
    scale = 1.0
    if isinstance(factor, fx.Node) and factor.target in ops.DIVIDE and isinstance(factor.args[1], int | float):
        factor, scale = factor.args[0], float(factor.args[1])
    if not isinstance(factor, fx.Node) or factor.target is not aten.bernoulli.p:
        return None
    empty, keep = factor.args
    if not isinstance(empty, fx.Node) or empty.target not in (aten.new_empty.default, aten.empty.memory_format):
        return None
    return tuple(empty.args[1 if empty.target is aten.new_empty.default else 0]), keep, scale  # type: ignore[arg-type, return-value]


def _replace(graph: fx.Graph, node: fx.Node, quiet: Any, args: tuple[Any, ...], *in_training: Any) -> None:
    with graph.inserting_before(node):
        new = graph.call_function(quiet, args)
    new.meta = dict(node.meta)
    _note(new, *in_training)
    node.replace_all_uses_with(new)
    graph.erase_node(node)


def drop_slices(x: Tensor, keep: float, scale: float, dims: tuple[int, ...], training: bool) -> Tensor:
    """Return x with slices along `dims` zeroed at random, as feature dropout and stochastic depth do.

    Parameters
    ----------
    x : Tensor
    keep : float
        Probability that a slice stays.
    scale : float
        What stays is divided by it.
    dims : tuple of int
        One draw for each combination of indices of these dimensions.
    training : bool
        x itself comes back where this is false.
    """
    if not training:
        return x
    noise = x.new_empty([size if dim in dims else 1 for dim, size in enumerate(x.shape)])
    return x * (noise.bernoulli_(keep) / scale)
