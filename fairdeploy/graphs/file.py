"""A graph on disk: `graph.json` and `weights.safetensors`, read without unpickling and without the user's code.

::

    graph.json            GraphRecord, canonical JSON: inputs, calls, outputs, tensors, digest of the weights
    weights.safetensors   each tensor once, under the first of its names

A call refers to inputs and earlier calls by position. So nothing in the file becomes part of the Python code that fx
generates from a graph, save the names of inputs and tensors, which are plain words. What a stranger's file can do is
call pure tensor operations (`calls.function_named`) when the graph is run; loading runs none.
"""

from __future__ import annotations

import hashlib
import inspect
import keyword
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Self

from pydantic import JsonValue, ValidationError, model_validator
from safetensors import SafetensorError
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.utils import _pytree as pytree

from fairdeploy.errors import CompactionError, IntegrityError
from fairdeploy.graphs.calls import (
    argument_from_json,
    argument_to_json,
    function_named,
    name_of_function,
    structure_from_json,
    structure_to_json,
)
from fairdeploy.graphs.tensors import StoredTensor, describe, place, read_values
from fairdeploy.records import Record, canonical_json, write_atomic

GRAPH, WEIGHTS = "graph.json", "weights.safetensors"
_INPUT_NAME = re.compile(r"(?!__)[A-Za-z_][A-Za-z0-9_]*")
_GLOBALS_OF_GENERATED_CODE = {"self", "torch", "device", "inf", "nan", "fx_pytree", "pytree", "NoneType"}


class Input(Record):
    """One argument of the graph: its name, how its tensors nest, and whether it is passed by keyword alone."""

    name: str
    structure: JsonValue
    keyword_only: bool

    @model_validator(mode="after")
    def _check(self) -> Self:
        taken = keyword.iskeyword(self.name) or self.name in _GLOBALS_OF_GENERATED_CODE
        if taken or not _INPUT_NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r:.60} cannot be the name of an input")
        return self


class Call(Record):
    """One call of a function; `calls` says how its arguments are written."""

    function: str
    args: tuple[JsonValue, ...]
    kwargs: dict[str, JsonValue]


class GraphRecord(Record):
    """What `graph.json` holds.

    Attributes
    ----------
    outputs : tuple
        The leaves of `output_structure`.
    weights_digest : str
        SHA-256 of `weights.safetensors`.
    """

    version: Literal[1]
    inputs: tuple[Input, ...]
    calls: tuple[Call, ...]
    outputs: tuple[JsonValue, ...]
    output_structure: JsonValue
    tensors: tuple[StoredTensor, ...]
    weights_digest: str


def save_graph(graph_module: fx.GraphModule, directory: Path) -> None:
    """Write a graph as `graph.json` and `weights.safetensors`; the same graph gives the same bytes.

    Parameters
    ----------
    graph_module : GraphModule
        From ``torch.export``, without in-place operations. Every parameter, buffer and constant is kept.
    directory : Path
        Made where it is missing. The files in it are replaced, one after the other, once both new ones are on disk;
        a graph beside another's weights does not load.

    Raises
    ------
    CompactionError
        If it calls something impure or of higher order, or holds what the files cannot; nothing is written then.
    """
    try:
        rows, weights = describe(graph_module)
        record = _record(graph_module, rows, hashlib.sha256(weights).hexdigest())
        graph = canonical_json(record.model_dump(mode="json"))
        _graph_module(graph, weights)
    except (ValueError, SafetensorError) as error:
        raise CompactionError(f"the graph cannot be saved: {_sentence(error)}") from error
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".saving-") as work:
        write_atomic(Path(work) / WEIGHTS, weights)
        write_atomic(Path(work) / GRAPH, graph)
        for name in (WEIGHTS, GRAPH):
            (Path(work) / name).replace(directory / name)


def load_graph(directory: str | Path) -> fx.GraphModule:
    """Return the graph that `save_graph` wrote, on the CPU and in evaluation mode.

    Raises
    ------
    IntegrityError
        If a file is missing, damaged, or anything other than what `save_graph` writes.
    """
    directory = Path(directory)
    try:
        return _graph_module((directory / GRAPH).read_bytes(), (directory / WEIGHTS).read_bytes())
    except (OSError, ValueError, SafetensorError) as error:
        raise IntegrityError(
            f"{directory} holds no graph that can be loaded: {_sentence(error)}; save it again from its network"
        ) from error


def _sentence(error: Exception) -> str:
    """Return what is wrong in one line; of a record's errors the first."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{GRAPH}{': ' if where else ''}{where:.100}: {first['msg'].removeprefix('Value error, ')}"


def _record(graph_module: fx.GraphModule, rows: tuple[StoredTensor, ...], weights_digest: str) -> GraphRecord:
    """Return what goes into `graph.json`."""
    graph = graph_module.graph
    codegen = graph._codegen
    if not isinstance(codegen, _PyTreeCodeGen) or codegen.pytree_info.out_spec is None:
        raise ValueError("it does not say how its inputs and outputs nest; take one from torch.export")
    references: dict[fx.Node, JsonValue] = {
        node: {"input": position} for position, node in enumerate(graph.find_nodes(op="placeholder"))
    }
    calls: list[Call] = []
    outputs: tuple[JsonValue, ...] = ()
    for node in graph.nodes:
        try:
            args = tuple(argument_to_json(value, references.__getitem__) for value in node.args)
            kwargs = {key: argument_to_json(value, references.__getitem__) for key, value in node.kwargs.items()}
            if node.op == "get_attr":
                references[node] = {"tensor": str(node.target)}
            elif node.op == "call_function":
                calls.append(Call(function=name_of_function(node.target), args=args, kwargs=kwargs))
                references[node] = {"call": len(calls) - 1}
            elif node.op == "output" and isinstance(args[0], list):
                outputs = tuple(args[0])
            elif node.op != "placeholder":
                raise ValueError(f"is a {node.op}, which the file cannot hold")
        except ValueError as error:
            raise ValueError(f"node '{node.name}' {error}") from error
    return GraphRecord(
        version=1,
        inputs=_inputs(codegen.pytree_info),
        calls=tuple(calls),
        outputs=outputs,
        output_structure=structure_to_json(codegen.pytree_info.out_spec),
        tensors=rows,
        weights_digest=weights_digest,
    )


def _inputs(info: _PyTreeInfo) -> tuple[Input, ...]:
    """Return the arguments of a graph from torch.export, whose inputs nest as (positional, keywords)."""
    positional, keywords = info.in_spec.children()
    named = [
        *((name, spec, False) for name, spec in zip(info.orig_args, positional.children(), strict=False)),
        *((name, spec, True) for name, spec in zip(keywords.context, keywords.children(), strict=True)),
    ]
    return tuple(Input(name=name, structure=structure_to_json(spec), keyword_only=only) for name, spec, only in named)


def _graph_module(content: bytes, weights: bytes) -> fx.GraphModule:
    """Return the graph of the content of both files."""
    record = GraphRecord.model_validate_json(content)
    if canonical_json(record.model_dump(mode="json")) != content:
        raise ValueError(f"{GRAPH} is not canonical JSON")
    if hashlib.sha256(weights).hexdigest() != record.weights_digest:
        raise ValueError(f"{WEIGHTS} is damaged or another graph's: {GRAPH} has another digest of it")
    tensors = read_values(weights, record.tensors)
    module = fx.GraphModule(nn.Module(), fx.Graph())
    for row in record.tensors:
        place(module, row, tensors[row.name])
    module.graph = _graph(record, tensors)
    return module.eval()


def _graph(record: GraphRecord, tensors: dict[str, Tensor]) -> fx.Graph:
    """Return the fx graph; its nodes get their names from its own functions and tensors."""
    info = _pytree_info(record)
    graph = fx.Graph()
    inputs = [graph.placeholder(f"input_{position}") for position in range(info.in_spec.num_leaves)]
    calls: list[fx.Node] = []
    stored: dict[str, fx.Node] = {}

    def referred(kind: str, key: JsonValue) -> fx.Node:
        if kind == "tensor" and isinstance(key, str) and key in tensors:
            if key not in stored:
                stored[key] = graph.create_node("get_attr", key, name=f"stored_{key}")
            return stored[key]
        before = {"input": inputs, "call": calls}.get(kind, [])
        if type(key) is int and 0 <= key < len(before):
            return before[key]
        raise ValueError(f"refers to {kind:.60} {key!r:.60}, which is not there before it")

    for position, call in enumerate(record.calls):
        try:
            calls.append(_add_call(graph, call, referred))
        except ValueError as error:
            raise ValueError(f"call {position} {error}") from error
    try:
        graph.output(tuple(argument_from_json(value, referred) for value in record.outputs))
    except ValueError as error:
        raise ValueError(f"the output {error}") from error
    graph.set_codegen(_PyTreeCodeGen(info))
    return graph


def _pytree_info(record: GraphRecord) -> _PyTreeInfo:
    names = [given.name for given in record.inputs]
    if len(set(names)) != len(names):
        raise ValueError("two inputs have the same name")
    if sorted(record.inputs, key=lambda given: given.keyword_only) != list(record.inputs):
        raise ValueError("an input that is passed by keyword alone stands before one that is not")
    positional = tuple(structure_from_json(given.structure) for given in record.inputs if not given.keyword_only)
    keywords = {given.name: structure_from_json(given.structure) for given in record.inputs if given.keyword_only}
    out_spec = pytree.tree_structure(structure_from_json(record.output_structure))
    if out_spec.num_leaves != len(record.outputs):
        raise ValueError(f"there are {len(record.outputs)} outputs, but {out_spec.num_leaves} in their structure")
    return _PyTreeInfo(names, pytree.tree_structure((positional, keywords)), out_spec)


def _add_call(graph: fx.Graph, call: Call, referred: Callable[[str, JsonValue], fx.Node]) -> fx.Node:
    function = function_named(call.function)
    if isinstance(function, OpOverload):
        if unknown := call.kwargs.keys() - {argument.name for argument in function._schema.arguments}:
            raise ValueError(f"gives {call.function} the argument {min(unknown)!r:.60}, which it does not have")
    else:
        try:
            inspect.signature(function).bind(*call.args, **call.kwargs)
        except TypeError as error:
            raise ValueError(f"gives {call.function} other arguments than it takes") from error
    args = tuple(argument_from_json(value, referred) for value in call.args)
    kwargs = {key: argument_from_json(value, referred) for key, value in call.kwargs.items()}
    return graph.create_node("call_function", function, args, kwargs, name=call.function.split(".")[1])
