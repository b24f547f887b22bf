"""From the user's module to a functional graph in float64, and the value of every node of it."""

from __future__ import annotations

import copy
import operator
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from fairdeploy.compaction.ops import argument, aten
from fairdeploy.errors import CompactionError

BATCH = 2


@dataclass(frozen=True)
class Trace:
    """A network as a graph of aten operations without in-place ones, in evaluation mode and float64.

    Attributes
    ----------
    graph_module : GraphModule
        Private to its owner, who may rewrite it; parameters and buffers keep their names.
    inputs : tuple of Tensor
        `BATCH` rows of input for a run.
    dtypes : dict of str to dtype
        What the parameters and buffers were before they became float64.
    """

    graph_module: fx.GraphModule
    inputs: tuple[Tensor, ...]
    dtypes: dict[str, torch.dtype]

    def run(self) -> dict[fx.Node, Any]:
        """Return the value of every node for `inputs`."""
        return _Recorder(self.graph_module).record(self.inputs)

    def tensor(self, node: fx.Node) -> Tensor:
        """Return the stored tensor that a ``get_attr`` node reads."""
        return stored(self.graph_module, str(node.target))


def trace(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> Trace:
    """Export a copy of a model with a free batch size.

    Raises
    ------
    CompactionError
        If ``torch.export`` cannot follow the forward pass, or the batch size is written into it.
    """
    check_example_inputs(example_inputs)
    inputs = tuple(rows_of(example, BATCH) for example in example_inputs)
    batch = torch.export.Dim("batch", min=1)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(
                copy.deepcopy(model).eval(), inputs, dynamic_shapes=tuple({0: batch} for _ in inputs), strict=False
            ).run_decompositions({})
            graph_module = program.module(check_guards=False)
    except Exception as error:
        raise CompactionError(
            f"torch.export cannot follow {type(model).__name__}.forward with a free batch size: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}; "
            "mend the forward pass, or leave the network whole with prune: {method: none}"
        ) from error
    dtypes = {name: tensor.dtype for name, tensor in graph_module.state_dict().items()}
    _canonicalise(graph_module)
    double(graph_module)
    return Trace(graph_module, tuple(to_double(value) for value in inputs), dtypes)


def check_example_inputs(example_inputs: tuple[Tensor, ...]) -> None:
    """Refuse example inputs that are not a tuple of tensors with a batch dimension of one size."""
    if not isinstance(example_inputs, tuple) or not all(isinstance(value, Tensor) for value in example_inputs):
        raise CompactionError("example inputs: give a tuple of tensors, one for each argument of forward")
    sizes = {value.shape[0] if value.ndim else 0 for value in example_inputs}
    if len(sizes) != 1 or 0 in sizes:
        raise CompactionError("example inputs: each needs the same number of rows (at least one) in dimension 0")


def rows_of(values: Tensor, count: int) -> Tensor:
    """Return `count` rows, taken in order and from the start again when there are fewer."""
    return values[torch.arange(count) % values.shape[0]]


def to_double(value: Tensor) -> Tensor:
    """Return floating values as float64, others as they are."""
    return value.double() if value.is_floating_point() else value


def double(module: nn.Module) -> nn.Module:
    """Make parameters, buffers and constants of a module float64, in place."""
    module.double()
    for part in module.modules():
        for name, value in list(vars(part).items()):
            if isinstance(value, Tensor) and value.is_floating_point():
                setattr(part, name, value.double())
    return module


def stored(module: nn.Module, target: str) -> Tensor:
    """Return a module's tensor by its dotted name."""
    owner, _, name = target.rpartition(".")
    value = getattr(module.get_submodule(owner), name)
    if not isinstance(value, Tensor):
        raise CompactionError(f"'{target}' is not a tensor")
    return value


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps what every node gave."""

    def record(self, inputs: tuple[Tensor, ...]) -> dict[fx.Node, Any]:
        self.values: dict[fx.Node, Any] = {}
        self.garbage_collect_values = False
        with torch.no_grad():
            self.run(*inputs)
        return self.values

    def run_node(self, n: fx.Node) -> Any:
        self.values[n] = super().run_node(n)
        return self.values[n]


def _canonicalise(graph_module: fx.GraphModule) -> None:
    """Rewrite nodes that return several tensors into ones that return one, so that the analyses see one kind."""
    graph = graph_module.graph
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target is not operator.getitem:
            continue
        source, index = node.args
        with graph.inserting_before(node):
            if source.target is aten._native_batch_norm_legit_no_training.default and index == 0:
                x, weight, bias, mean, variance, momentum, epsilon = source.args
                arguments: tuple[Any, ...] = (x, weight, bias, mean, variance, False, momentum, epsilon, False)
                new = graph.call_function(aten.batch_norm.default, arguments)
            elif source.target in (aten.split.Tensor, aten.split_with_sizes.default) and isinstance(index, int):
                sizes, dim = source.args[1], argument(source, 2, "dim", 0)
                start = sum(sizes[:index]) if isinstance(sizes, list | tuple) else sizes * index
                step = sizes[index] if isinstance(sizes, list | tuple) else sizes
                if not (isinstance(start, int) and isinstance(step, int)):
                    continue
                new = graph.call_function(aten.slice.Tensor, (source.args[0], dim, start, start + step))
            elif source.target is aten.adaptive_max_pool2d.default and index == 0 and set(source.args[1]) == {1}:
                new = graph.call_function(aten.amax.default, (source.args[0], [-2, -1], True))
            else:
                continue
        node.replace_all_uses_with(new)
        graph.erase_node(node)
    graph.eliminate_dead_code()
    for node in list(graph.nodes):
        if node.op == "call_function" and "assert" in str(node.target):
            graph.erase_node(node)
    graph.eliminate_dead_code()
    graph_module.recompile()
