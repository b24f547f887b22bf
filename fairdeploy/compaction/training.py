"""A compacted graph that can be fine-tuned, for networks whose own class cannot hold the smaller tensors.

A network is exported as it trains, and *quieted*: batch norms normalise by their running statistics, dropout lets
everything pass, and each such node notes what it does in training. What is left is an evaluation graph like any
other, and is compacted and proven like one. Then the nodes *awake*: what they noted comes back, switched by a flag
that follows ``train()`` and ``eval()``.
"""

from __future__ import annotations

import operator
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from fairdeploy.compaction import ops
from fairdeploy.compaction.bake import baked
from fairdeploy.compaction.canonical import canonicalise
from fairdeploy.compaction.cells import split_layers
from fairdeploy.compaction.constants import evaluate_constants
from fairdeploy.compaction.graph_labels import label_graph
from fairdeploy.compaction.ops import argument, aten
from fairdeploy.compaction.plan import plan
from fairdeploy.compaction.precision import double, restore_casts, to_double
from fairdeploy.compaction.proof import Expected
from fairdeploy.compaction.surgery import carry_out, prepare
from fairdeploy.compaction.trace import BATCH, Trace, rows_of
from fairdeploy.errors import CompactionError

_INSTEAD = "fine-tune the network before its channels are removed, or not at all (prune.recover.epochs: 0)"
_NORM = aten._native_batch_norm_legit_functional.default
_FLAG = "_training_flag"


class TrainingFlag(nn.Module):
    """Says whether it is in training mode."""

    def forward(self) -> bool:
        """Return the mode, which ``train()`` and ``eval()`` of the whole network set."""
        return self.training


@dataclass(frozen=True)
class _InTraining:
    """What a quiet node does in training: its target, and arguments from a position on as functions of the flag."""

    target: Any
    position: int
    arguments: tuple[Any, ...]


_WHETHER = object()


@dataclass(frozen=True)
class _IfTraining:
    """A number in training, 0 in evaluation."""

    rate: float


def is_trainable(module: nn.Module) -> bool:
    """Return whether a module follows ``train()``: any but a graph of operations alone, as exports are."""
    return not isinstance(module, fx.GraphModule) or any(node.op == "call_module" for node in module.graph.nodes)


def training_graph(
    model: nn.Module, example_inputs: tuple[Tensor, ...], rows: tuple[Tensor, ...]
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
        trace = _trace(model, example_inputs)
        labelled = label_graph(trace)
        carry_out(trace.graph_module, prepare(labelled, plan(labelled)))
        graph_module = _awakened(trace.graph_module)
        try:
            expected.prove(graph_module)
        except CompactionError as error:
            raise CompactionError(
                f"{type(model).__name__} does other things in training: {error}; {_INSTEAD}"
            ) from error
        restore_casts(graph_module)
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
    batch = torch.export.Dim("batch", min=BATCH)  # batch norms refuse to train on a single row
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(
                baked(model).train(), inputs, dynamic_shapes=tuple({0: batch} for _ in inputs), strict=False
            )
            graph_module: fx.GraphModule = program.run_decompositions({}).module(check_guards=False)
    except Exception as error:  # the user's forward runs: any exception may come
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CompactionError(
            f"torch.export cannot follow {name}.forward in training mode: {said}; {_INSTEAD}"
        ) from error
    _quiet(graph_module, name)
    dtypes = {name: tensor.dtype for name, tensor in graph_module.state_dict().items()}
    double(graph_module)
    canonicalise(graph_module)
    parameters = {node: len(node.users) for node in graph_module.graph.nodes if _is_parameter(graph_module, node)}
    evaluated = evaluate_constants(graph_module)
    for node, users in parameters.items():
        if len(node.users) < users:
            raise CompactionError(
                f"{name} computes from '{node.target}' anew in every pass what the graph holds as a fixed tensor, so "
                f"the graph cannot be trained; {_INSTEAD}"
            )
    return Trace(graph_module, tuple(to_double(value) for value in inputs), dtypes, evaluated)


def _is_parameter(graph_module: fx.GraphModule, node: fx.Node) -> bool:
    return node.op == "get_attr" and isinstance(operator.attrgetter(str(node.target))(graph_module), nn.Parameter)


def _quiet(graph_module: fx.GraphModule, name: str) -> None:
    """Turn a graph exported in training mode into one for evaluation, in place; nodes note what they did."""
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
            _note(node, node.target, 4, _IfTraining(rate))
        elif node.target in ops.INSTANCE_NORM and node.args[3] is not None and node.args[5]:
            node.args = (*node.args[:5], False, *node.args[6:])
            _note(node, node.target, 5, _WHETHER)
        elif node.target in ops.RECURRENT and not (node.args[-4] and node.args[-5] > 1):
            node.args = (*node.args[:-3], False, *node.args[-2:])
    for node in norms:
        _quiet_norm(graph, node)
    for node in reversed(graph.nodes):
        if node.op == "call_function" and not node.users and "assert" not in str(node.target):
            graph.erase_node(node)
    for node in graph.nodes:
        tags = getattr(node.target, "tags", ())
        if torch.Tag.nondeterministic_seeded in tags and not _is_quiet(node):
            raise CompactionError(
                f"{name} draws random numbers in training by {ops.title(node)} ('{node.name}'), in a way that its "
                f"graph cannot follow; {_INSTEAD}"
            )
    graph_module.recompile()


def _is_quiet(node: fx.Node) -> bool:
    """Return whether a node that may draw random numbers draws none."""
    if node.target in ops.RECURRENT:
        return not node.args[-3]
    return node.target in ops.ATTENTION and argument(node, 4, "dropout_p", 0.0) == 0


def _note(node: fx.Node, target: Any, position: int, *arguments: Any) -> None:
    node.meta["in_training"] = _InTraining(target, position, arguments)


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
                f"{_INSTEAD}"
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
            _replace(graph, item, aten.batch_norm.default, arguments, aten.batch_norm.default, 5, _WHETHER)


def _quiet_dropout(graph: fx.Graph, node: fx.Node) -> None:
    """Replace dropout, of elements or of whole channels or rows, by nothing."""
    if node.target is aten.dropout.default or (
        node.args[0].target is aten.native_dropout.default and node.args[1] == 0  # type: ignore[union-attr]
    ):
        x, rate, _ = node.args if node.target is aten.dropout.default else node.args[0].args  # type: ignore[union-attr]
        _replace(graph, node, aten.alias.default, (x,), aten.dropout.default, 1, rate, _WHETHER)
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
            _replace(graph, node, aten.alias.default, (x,), drop_slices, 1, keep, scale, dims, _WHETHER)
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
    if isinstance(value, _IfTraining):
        return graph.call_function(operator.mul, (flag, value.rate))
    return flag if value is _WHETHER else value
