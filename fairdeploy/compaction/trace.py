"""From the user's module to a functional graph in float64, and the value of every node of it."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from fairdeploy.compaction.bake import baked
from fairdeploy.compaction.canonical import canonicalise
from fairdeploy.compaction.constants import Evaluated, evaluate_constants
from fairdeploy.compaction.own_tables import part_tables
from fairdeploy.compaction.precision import double, named_dtypes, to_double
from fairdeploy.compaction.quiet import INSTEAD
from fairdeploy.compaction.shapes import shapes_of
from fairdeploy.compaction.stored import stored
from fairdeploy.errors import CompactionError

BATCH = 2
_MEND = (
    "mend the forward pass (no Python branch on tensor values, no size taken from the data); in a project, "
    "prune: {method: none} leaves the network whole"
)


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
    evaluated : Evaluated
        Tensors that are computed from parameters alone, and how.
    wide_layer_norm : bool
        Whether layer norms may lose channels (`fairdeploy.compaction.wide_norm`).
    """

    graph_module: fx.GraphModule
    inputs: tuple[Tensor, ...]
    dtypes: dict[str, torch.dtype]
    evaluated: Evaluated
    wide_layer_norm: bool = False

    def run(self) -> dict[fx.Node, Any]:
        """Return the value of every node for `inputs`."""
        return _Recorder(self.graph_module).record(self.inputs)

    def constants(self) -> dict[fx.Node, Any]:
        """Return the values of what depends on no input, and the sizes of what does."""
        shapes = shapes_of(self.graph_module.graph)
        values: dict[fx.Node, Any] = {}
        for node in self.graph_module.graph.nodes:
            if node.op == "get_attr":
                values[node] = self.tensor(node)
            elif node.target is torch.ops.aten.sym_size.int:
                values[node] = shapes[node.args[0]][node.args[1]]
            elif node.op == "call_function" and all(source in values for source in node.all_input_nodes):
                values[node] = node.target(*fx.map_arg(node.args, values.get), **fx.map_arg(node.kwargs, values.get))
        return values

    def tensor(self, node: fx.Node) -> Tensor:
        """Return the stored tensor that a ``get_attr`` node reads."""
        return stored(self.graph_module, str(node.target))


def trace(
    model: nn.Module | ExportedProgram, example_inputs: tuple[Tensor, ...], *, wide_layer_norm: bool = False
) -> Trace:
    """Export a copy of a model with a free batch size.

    Raises
    ------
    CompactionError
        If ``torch.export`` cannot follow the forward pass, or the batch size is written into it.
    """
    check_example_inputs(example_inputs)
    inputs = tuple(rows_of(example, BATCH) for example in example_inputs)
    graph_module = exported(model, inputs)
    dtypes = named_dtypes(graph_module)
    double(graph_module)
    inputs = tuple(to_double(value) for value in inputs)
    canonicalise(graph_module)
    evaluated = evaluate_constants(graph_module)
    dtypes |= evaluated.dtypes
    dtypes |= {copy: dtypes[table] for copy, table in part_tables(graph_module, evaluated.following).items()}
    return Trace(graph_module, inputs, dtypes, evaluated, wide_layer_norm)


def exported(
    model: nn.Module | ExportedProgram, inputs: tuple[Tensor, ...], *, training: bool = False
) -> fx.GraphModule:
    """Export a copy of a model with a free batch size, as it evaluates or as it trains.

    In evaluation mode it is functional and without assertions.

    Raises
    ------
    CompactionError
        If ``torch.export`` cannot follow the forward pass, or it is not pure in evaluation mode.
    """
    name = type(model).__name__
    # Batch norms refuse to train on a single row.
    batch = torch.export.Dim("batch", min=BATCH if training else 1)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            if isinstance(model, ExportedProgram):
                model = model.module(check_guards=False)
            program = torch.export.export(
                baked(model).train(training), inputs, dynamic_shapes=tuple({0: batch} for _ in inputs), strict=False
            )
            graph_module: fx.GraphModule = program.run_decompositions({}).module(check_guards=False)
    except Exception as error:  # the user's forward runs: any exception may come
        mode, advice = (" in training mode", INSTEAD) if training else ("", _MEND)
        raise CompactionError(
            f"torch.export cannot follow {name}.forward{mode} with a free batch size: {_sentence(error)}"
            f"{_user_line(error)}; {advice}"
        ) from error
    for method in ("train", "eval"):
        del vars(graph_module)[method]  # torch's refuse; without them a graph is a module like any other
    if not training:
        for node in list(graph_module.graph.nodes):
            if node.op == "call_function" and "assert" in str(node.target):
                graph_module.graph.erase_node(node)
        graph_module.graph.eliminate_dead_code()
        _check_pure(graph_module, name)
    return graph_module


def _check_pure(program: fx.GraphModule, name: str) -> None:
    """Refuse a network that remembers: what it computes depends on how often it ran."""
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if node.op == "call_function" and schema is not None and schema.is_mutable:
            raise CompactionError(
                f"{name}.forward writes to '{node.args[0].target}' in every pass, so its outputs are not a function of "
                "its inputs; compact a network that does not"
            )


def _sentence(error: BaseException) -> str:
    """Return what torch said, on one line, without its advice on logging."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "TORCH_LOGS" not in line]
    return " ".join(lines[:3])[:300].partition(" If you suspect")[0] or type(error).__name__


def _user_line(error: BaseException) -> str:
    """Return the last line of code outside torch that an error passed through."""
    frames: Iterable[traceback.FrameSummary] = reversed(traceback.extract_tb(error.__traceback__))
    for frame in frames:
        if frame.filename.startswith("<"):  # code that a graph generated
            continue
        if "/torch/" not in frame.filename.replace("\\", "/") and "fairdeploy/compaction" not in frame.filename:
            return f" (at {frame.filename}:{frame.lineno}: {frame.line})"
    return ""


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
