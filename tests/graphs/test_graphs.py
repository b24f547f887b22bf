"""Graphs saved and loaded: bit for bit the same, byte for byte again, and strangers' files that run nothing."""

from __future__ import annotations

import builtins
import contextlib
import hashlib
import json
import math
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from fairdeploy.errors import CompactionError, IntegrityError
from fairdeploy.graphs import file as graph_file
from fairdeploy.graphs import load_graph, save_graph
from fairdeploy.graphs.calls import (
    argument_from_json,
    argument_to_json,
    structure_from_json,
    structure_to_json,
)
from fairdeploy.records import canonical_json

from ..compaction.networks import NETWORKS, network, randomise


class Encoder(nn.Module):
    """A transformer layer: sizes computed from the free batch size."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).reshape(x.shape[0] * x.shape[1], 8)


class Nested(nn.Module):
    """Two inputs, outputs in every container, tied weights, infinity, every kind of tensor, odd names."""

    def __init__(self) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.rand(8))
        self.layers = nn.ModuleDict({"3x3": nn.Linear(8, 8), "a-b": nn.Linear(8, 8), "c": nn.Linear(8, 8)})
        self.layers["a-b"].weight = self.layers["3x3"].weight
        self.layers["c"].weight.requires_grad_(False)
        self.register_buffer("passing", torch.rand(8), persistent=False)
        self.register_buffer("unused", torch.tensor(3))
        self.constant = torch.rand(8)

    def forward(self, input: Tensor, list: Tensor) -> dict[str, Any]:
        x = self.layers["a-b"](self.layers["3x3"](input * self.input)) + self.passing * self.constant
        x = self.layers["c"](x.masked_fill(x > 0.5, -math.inf).softmax(-1))
        half = list.to(torch.bfloat16)
        return {
            "z": x,
            "a": [half, (None, x[:, -1:], 3)],
            "o": OrderedDict([("y", x.shape[0] * 2), ("b", x.amax(1) if x.ndim == 2 else x)]),
        }


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 4)
        self.lstm = nn.LSTM(4, 5, 2, batch_first=True, bidirectional=True)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        y, (hidden, _) = self.lstm(self.embedding(tokens))
        return y, hidden


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    **{name: (lambda name=name: network(name), (torch.rand(3, 3, 8, 8),)) for name in NETWORKS},
    "encoder": (lambda: randomise(Encoder(), 0), (torch.rand(3, 5, 8),)),
    "nested": (Nested, (torch.rand(3, 8), torch.rand(3, 4))),
    "recurrent": (Recurrent, (torch.randint(0, 20, (3, 7)),)),
}


@cache
def graph_of(name: str) -> tuple[fx.GraphModule, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    build, inputs = CASES[name]
    return graph(build(), *inputs), inputs


def graph(model: nn.Module, *inputs: Tensor) -> fx.GraphModule:
    """Export with a free batch size, without in-place operations and assertions."""
    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        shapes = tuple({0: batch} for _ in inputs)
        program = torch.export.export(model.eval(), inputs, dynamic_shapes=shapes, strict=False)
        module = program.run_decompositions({}).module(check_guards=False)
    for node in module.graph.nodes:
        if "assert" in str(node.target):
            module.graph.erase_node(node)
    module.recompile()
    return module


def files(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(directory.iterdir())}


def same_bits(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        assert (one.dtype, one.shape, one.stride()) == (other.dtype, other.shape, other.stride())
        return one.contiguous().view(-1).view(torch.uint8).equal(other.contiguous().view(-1).view(torch.uint8))
    return type(one) is type(other) and one == other


@pytest.mark.parametrize("name", CASES)
def test_a_loaded_graph_gives_the_same_bits_in_the_same_structure(name: str, tmp_path: Path) -> None:
    original, inputs = graph_of(name)
    save_graph(original, tmp_path)
    loaded = load_graph(tmp_path)
    for rows in (inputs, tuple(torch.cat([x, x.flip(0)]) for x in inputs)):
        expected, expected_structure = pytree.tree_flatten(original(*rows))
        found, structure = pytree.tree_flatten(loaded(*rows))
        assert structure == expected_structure
        assert all(same_bits(one, other) for one, other in zip(found, expected, strict=True))
    assert not loaded.training


def test_inputs_may_be_given_by_name(tmp_path: Path) -> None:
    original, (x, y) = graph_of("nested")
    save_graph(original, tmp_path)
    loaded = load_graph(tmp_path)
    assert loaded(input=x, list=y)["z"].equal(loaded(x, y)["z"])


@pytest.mark.parametrize("name", CASES)
def test_the_same_graph_gives_the_same_bytes_and_so_does_the_loaded_one(name: str, tmp_path: Path) -> None:
    save_graph(graph_of(name)[0], tmp_path / "one")
    save_graph(graph_of.__wrapped__(name)[0], tmp_path / "two")
    save_graph(load_graph(tmp_path / "one"), tmp_path / "again")
    assert list(files(tmp_path / "one")) == ["graph.json", "weights.safetensors"]
    assert files(tmp_path / "one") == files(tmp_path / "two") == files(tmp_path / "again")


def test_saving_over_another_graph_replaces_it(tmp_path: Path) -> None:
    (tmp_path / "neighbour").write_text("stays")
    save_graph(graph_of("mlp")[0], tmp_path)
    save_graph(graph_of("plain")[0], tmp_path)
    save_graph(graph_of("plain")[0], tmp_path / "alone")
    assert (
        files(tmp_path / "alone").items()
        <= {name: (tmp_path / name).read_bytes() for name in ("graph.json", "weights.safetensors", "neighbour")}.items()
    )
    assert (tmp_path / "neighbour").read_text() == "stays"


def test_the_file_holds_no_path_and_no_trace_of_where_it_was_made(tmp_path: Path) -> None:
    save_graph(graph_of("nested")[0], tmp_path)
    text = (tmp_path / "graph.json").read_text()
    assert ".py" not in text
    assert str(Path.cwd()) not in text
    assert "Nested" not in text


# ---------------------------------------------------------------------------------------------- stored tensors


class Stored(nn.Module):
    """Every kind of tensor that a graph may hold, none of which the forward pass needs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4).half()
        self.second = nn.Linear(4, 4)
        self.frozen = nn.Parameter(torch.rand(3, 4, dtype=torch.float64), requires_grad=False)
        self.last = nn.Parameter(torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last))
        for name, dtype in {"b": torch.bfloat16, "i": torch.int64, "t": torch.bool, "u": torch.uint8}.items():
            self.register_buffer(name, torch.tensor([0, 1, 1]).to(dtype), persistent=name != "i")
        self.register_buffer("special", torch.tensor([math.inf, -math.inf, math.nan, -0.0]))
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("scalar", torch.tensor(7))
        self.register_buffer("expanded", torch.rand(1, 4).expand(3, 4))
        self.constant = torch.rand(3)


def holding(tensors: nn.Module) -> fx.GraphModule:
    """A graph that gives its input back, around a module's tensors."""
    module = graph(nn.Identity(), torch.rand(2, 4))
    module.held = tensors
    return module


def test_tensors_keep_kind_dtype_shape_strides_gradient_and_values(tmp_path: Path) -> None:
    stored = Stored()
    save_graph(holding(stored), tmp_path)
    loaded = load_graph(tmp_path).held
    assert list(loaded.state_dict()) == list(stored.state_dict())
    assert [name for name, _ in loaded.named_parameters()] == [name for name, _ in stored.named_parameters()]
    assert [name for name, _ in loaded.named_buffers()] == [name for name, _ in stored.named_buffers()]
    assert loaded._non_persistent_buffers_set == {"i"}
    assert "constant" in vars(loaded)
    for name in ("first.weight", "second.bias", "frozen", "last", "b", "i", "t", "u", "special", "empty", "scalar"):
        was, now = held_as(stored, name), held_as(loaded, name)
        assert type(now) is type(was)
        assert now.requires_grad == was.requires_grad
        assert same_bits(now.detach(), was.detach())
    assert loaded.expanded.equal(stored.expanded)
    assert loaded.constant.equal(stored.constant)


def held_as(module: nn.Module, name: str) -> Tensor:
    owner, _, leaf = name.rpartition(".")
    return getattr(module.get_submodule(owner), leaf)


def test_tied_tensors_stay_one_object_and_are_written_once(tmp_path: Path) -> None:
    tied = Stored()
    tied.second.weight = tied.last
    tied.second.register_buffer("again", tied.t)
    save_graph(holding(tied), tmp_path)
    loaded = load_graph(tmp_path).held
    assert loaded.second.weight is loaded.last
    assert loaded.second.again is loaded.t
    assert loaded.second.bias is not loaded.frozen
    names = safetensors.torch.load_file(tmp_path / "weights.safetensors").keys()
    assert len({"held.second.weight", "held.last"} & names) == 1
    assert len({"held.second.again", "held.t"} & names) == 1


def test_weights_are_plain_safetensors(tmp_path: Path) -> None:
    stored = Stored()
    save_graph(holding(stored), tmp_path)
    values = safetensors.torch.load_file(tmp_path / "weights.safetensors")
    assert values["held.last"].equal(stored.last)


# --------------------------------------------------------------------------------- what a loaded graph is good for


def test_a_loaded_graph_trains_like_the_original(tmp_path: Path) -> None:
    original, inputs = graph_of.__wrapped__("encoder")
    save_graph(original, tmp_path)
    losses = []
    for module in (original, load_graph(tmp_path)):
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
        for _ in range(4):
            optimizer.zero_grad()
            loss = (module(*inputs) - 1).square().mean()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert losses[0] == losses[1] < (load_graph(tmp_path)(*inputs) - 1).square().mean().item()


def test_a_trained_graph_is_saved_with_its_new_weights(tmp_path: Path) -> None:
    original, inputs = graph_of.__wrapped__("mlp")
    with torch.no_grad():
        next(original.parameters()).mul_(2)
    save_graph(original, tmp_path)
    assert load_graph(tmp_path)(*inputs).equal(original(*inputs))


@pytest.mark.parametrize("name", ["squeeze", "encoder", "nested"])
def test_a_loaded_graph_can_be_exported_again(name: str, tmp_path: Path) -> None:
    original, inputs = graph_of(name)
    save_graph(original, tmp_path / "one")
    save_graph(graph(load_graph(tmp_path / "one"), *inputs), tmp_path / "two")
    twice = load_graph(tmp_path / "two")
    expected, found = pytree.tree_leaves(original(*inputs)), pytree.tree_leaves(twice(*inputs))
    assert all(same_bits(one, other) for one, other in zip(found, expected, strict=True))


def test_a_loaded_graph_goes_to_onnx_with_a_free_batch_size(tmp_path: Path) -> None:
    original, (rows,) = graph_of.__wrapped__("encoder")
    save_graph(original, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            load_graph(tmp_path),
            (rows,),
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            dynamo=True,
            opset_version=18,
            verbose=False,
        )
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        x = torch.rand(batch, 5, 8)
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        np.testing.assert_allclose(found, original(x).detach().numpy(), atol=1e-5)


# ------------------------------------------------------------------------------------ the values in graph.json


def no_node(*_: object) -> Any:
    raise AssertionError("there is no node here")


ARGUMENTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.sampled_from([torch.float32, torch.bool, torch.strided, torch.channels_last, torch.device("cpu")]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


@given(ARGUMENTS)
def test_an_argument_survives_the_file(value: Any) -> None:
    content = canonical_json(argument_to_json(value, no_node))
    found = argument_from_json(json.loads(content), no_node)
    assert repr(found) == repr(value)
    assert canonical_json(argument_to_json(found, no_node)) == content


STRUCTURES = st.recursive(
    st.just(0),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3).map(OrderedDict)
    ),
    max_leaves=8,
)


@given(STRUCTURES)
def test_a_structure_survives_the_file_with_the_order_of_its_keys(value: Any) -> None:
    spec = pytree.tree_structure(value)
    text = json.dumps(structure_to_json(spec))
    assert pytree.tree_structure(structure_from_json(json.loads(text))) == spec


# --------------------------------------------------------------------------------------- what cannot be saved


class Point(NamedTuple):
    x: Tensor
    y: Tensor


class ReturnsPoint(nn.Module):
    def forward(self, x: Tensor) -> Point:
        return Point(x + 1, x)


class InPlace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.clone().add(1)


def with_target(target: Any, *args: Any) -> fx.GraphModule:
    module = graph(InPlace(), torch.rand(2, 3))
    (node,) = module.graph.find_nodes(op="call_function", target=torch.ops.aten.add.Tensor)
    node.target, node.args = target, (node.args[0], *args)
    return module


@torch.library.custom_op("graph_file_tests::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return x * 2


def untraceable() -> fx.GraphModule:
    return fx.symbolic_trace(nn.Linear(2, 2))


def on_meta() -> fx.GraphModule:
    return holding(nn.Linear(2, 2, device="meta"))


def sparse() -> fx.GraphModule:
    module = holding(nn.Identity())
    module.held.register_buffer("s", torch.eye(3).to_sparse())
    return module


def oddly_named() -> fx.GraphModule:
    return holding(nn.ModuleDict({'a"b': nn.Linear(2, 2)}))


def reads_a_module() -> fx.GraphModule:
    module = with_target(torch.ops.aten.add.Tensor, 1)
    module.part = nn.Linear(3, 3)
    (node,) = module.graph.find_nodes(op="call_function", target=torch.ops.aten.add.Tensor)
    with module.graph.inserting_before(node):
        node.args = (node.args[0], module.graph.get_attr("part"))
    return module


CANNOT_BE_SAVED: dict[str, tuple[Callable[[], fx.GraphModule], str]] = {
    "namedtuple": (lambda: graph(ReturnsPoint(), torch.rand(2, 3)), "Point among the inputs or outputs"),
    "in place": (lambda: with_target(torch.ops.aten.add_.Tensor, 1), "calls aten.add_.Tensor, which is not"),
    "higher order": (lambda: with_target(torch.ops.higher_order.cond, 1), "calls cond, which is no func"),
    "user's operation": (lambda: with_target(torch.ops.graph_file_tests.twice.default), "graph_file_tests.twice"),
    "Python function": (lambda: with_target(print), "calls print"),
    "reads a file": (lambda: with_target(torch.ops.aten.from_file.default), "calls aten.from_file.default"),
    "complex number": (lambda: with_target(torch.ops.aten.add.Scalar, 1j), "has the argument 1j (complex)"),
    "other device": (
        lambda: with_target(torch.ops.aten.add.Scalar, torch.device("cuda")),
        "has the argument device(type='cuda')",
    ),
    "not from torch.export": (untraceable, "take one from torch.export"),
    "meta tensor": (on_meta, "tensor 'held.weight' is not a dense tensor on the CPU"),
    "sparse tensor": (sparse, "tensor 'held.s' is not a dense tensor on the CPU"),
    "module as argument": (reads_a_module, "refers to tensor 'part', which is not there"),
    "quotes in a name": (oddly_named, "cannot be the name of a tensor"),
}


@pytest.mark.parametrize("what", CANNOT_BE_SAVED)
def test_what_the_files_cannot_hold_is_named_and_nothing_is_written(what: str, tmp_path: Path) -> None:
    build, sentence = CANNOT_BE_SAVED[what]
    with pytest.raises(CompactionError, match="^the graph cannot be saved: ") as refusal:
        save_graph(build(), tmp_path / "there")
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "there").exists()


def test_an_interrupted_save_leaves_the_graph_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_graph(graph_of("mlp")[0], tmp_path)
    before = files(tmp_path)
    write = graph_file.write_atomic

    def disk_full(path: Path, content: bytes) -> None:
        if path.name == "graph.json":
            raise OSError("no space left on device")
        write(path, content)

    monkeypatch.setattr(graph_file, "write_atomic", disk_full)
    with pytest.raises(OSError, match="no space"):
        save_graph(graph_of("plain")[0], tmp_path)
    assert files(tmp_path) == before


# ------------------------------------------------------------------------------------------- strangers' files

Content = dict[str, Any]


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("honest")
    save_graph(graph_of("nested")[0], folder)
    return files(folder)


def write(folder: Path, content: Content, weights: bytes, *, redigest: bool = True) -> None:
    if redigest:
        content["weights_digest"] = hashlib.sha256(weights).hexdigest()
    (folder / "graph.json").write_bytes(canonical_json(content))
    (folder / "weights.safetensors").write_bytes(weights)


def call(function: str, *args: Any, **kwargs: Any) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        content["calls"][2] = {"function": function, "args": list(args), "kwargs": kwargs}

    return change


def at(*path: str | int, to: Any) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        place: Any = content
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = to

    return change


def twice_over(key: str) -> Callable[[Content], None]:
    return lambda content: content[key].append(content[key][0])


X = {"input": 0}
ATTACKS: dict[str, tuple[Callable[[Content], None], str]] = {
    "unknown version": (at("version", to=2), "graph.json: version: Input should be 1"),
    "unknown key": (at("note", to="hello"), "graph.json: note: Extra inputs are not permitted"),
    "unknown key of a call": (at("calls", 0, "code", to="x"), "graph.json: calls.0.code: Extra inputs"),
    "missing key": (lambda content: content.pop("outputs"), "graph.json: outputs: Field required"),
    "number as text": (at("tensors", 0, "shape", to=["8"]), "is not canonical JSON"),
    "itself": (call("aten.relu.default", {"call": 2}), "call 2 refers to call 2, which is not there before it"),
    "later call": (call("aten.relu.default", {"call": 3}), "call 2 refers to call 3, which is not"),
    "negative call": (call("aten.relu.default", {"call": -1}), "call 2 refers to call -1, which is not"),
    "true as position": (call("aten.relu.default", {"call": True}), "call 2 refers to call True"),
    "missing input": (call("aten.relu.default", {"input": 9}), "call 2 refers to input 9"),
    "missing tensor": (call("aten.relu.default", {"tensor": "gone"}), "call 2 refers to tensor 'gone'"),
    "module": (call("aten.relu.default", {"tensor": "layers"}), "call 2 refers to tensor 'layers'"),
    "missing output": (at("outputs", 0, to={"call": 10**6}), "the output refers to call 1000000"),
    "too few outputs": (lambda content: content["outputs"].pop(), "there are 6 outputs, but 7 in their structure"),
    "unknown reference": (call("aten.relu.default", {"pickle": "gASV"}), "means nothing"),
    "two kinds at once": (call("aten.relu.default", {"input": 0, "call": 0}), "means nothing"),
    "untagged float": (call("aten.relu.default", 0.5), "means nothing"),
    "words for a float": (call("aten.relu.default", {"float": "1_0"}), "means nothing"),
    "short long integer": (call("aten.relu.default", {"int": "7"}), "means nothing"),
    "endless integer": (call("aten.relu.default", {"int": "1" * 5000}), "means nothing"),
    "unknown dtype": (call("aten.relu.default", {"dtype": "os.system"}), "means nothing"),
    "other device": (call("aten.relu.default", {"device": "cuda"}), "means nothing"),
    "huge nesting of arguments": (call("aten.relu.default", json.loads("[" * 90 + "]" * 90)), "nest too deep"),
    "reads a file": (call("aten.from_file.default", "/etc/passwd", False, 8), "aten.from_file.default, which is not"),
    "writes a file": (call("aten.save.default", X, "/tmp/x"), "calls aten.save"),
    "writes in place": (call("aten.relu_.default", X), "call 2 calls aten.relu_.default, which is not a pure"),
    "writes to out": (call("aten.add.out", X, X, out=X), "call 2 calls aten.add.out, which is not a pure"),
    "changes the seed": (call("aten.manual_seed.default", 1), "calls aten.manual_seed"),
    "only TorchScript has it": (call("aten.initial_seed.default"), "calls aten.initial_seed.default, which is not a"),
    "turns gradients off": (call("aten.set_grad_enabled.default", False), "calls aten.set_grad_enabled"),
    "trusts its indices": (call("aten._sparse_csr_tensor_unsafe.default", X), "which is not a pure"),
    "backward pass": (call("aten.max_pool2d_with_indices_backward.default", X), "which is not a pure"),
    "Python's eval": (call("builtins.eval", "1"), "call 2 calls builtins.eval, which is no function"),
    "system": (call("os.system", "true"), "call 2 calls os.system, which is no function"),
    "other namespace": (call("prim.device.default", X), "calls prim.device.default"),
    "attribute": (call("aten.__class__.mro", X), "calls aten.__class__.mro"),
    "no overload": (call("aten.relu", X), "calls aten.relu, which is no function"),
    "unknown overload": (call("aten.relu.__call__", X), "calls aten.relu.__call__"),
    "keyword it has not": (call("aten.relu.default", X, other=1), "gives aten.relu.default the argument 'other'"),
    "keyword for Python": (call("operator.mul", 1, b=1), "gives operator.mul other arguments than it takes"),
    "too few for Python": (call("operator.mul", 1), "gives operator.mul other arguments than it takes"),
    "tensor described twice": (twice_over("tensors"), "is described twice"),
    "two inputs of one name": (at("inputs", 1, "name", to="input"), "two inputs have the same name"),
    "keyword before positional": (at("inputs", 0, "keyword_only", to=True), "stands before one that is not"),
    "input named self": (at("inputs", 0, "name", to="self"), "'self' cannot be the name of an input"),
    "input named torch": (at("inputs", 0, "name", to="torch"), "'torch' cannot be the name of an input"),
    "input named lambda": (at("inputs", 0, "name", to="lambda"), "cannot be the name of an input"),
    "input with two underscores": (at("inputs", 0, "name", to="__debug__"), "cannot be the name of an input"),
    "input that is no word": (at("inputs", 0, "name", to="x\n"), "cannot be the name of an input"),
    "name upwards": (at("tensors", 0, "name", to="../../x"), "cannot be the name of a tensor"),
    "empty part of a name": (at("tensors", 0, "name", to="a..b"), "cannot be the name of a tensor"),
    "renamed tensor": (at("tensors", 0, "name", to="other"), "tensors are missing or left over: input, other"),
    "wrong shape": (at("tensors", 0, "shape", to=[4]), "tensor 'input' is torch.float32 [8], not torch.float32 [4]"),
    "wrong dtype": (at("tensors", 0, "dtype", to="torch.float64"), "[8], not torch.float64 [8]"),
    "wrong order": (at("tensors", 0, "order", to=[1]), "tensor 'input' has an order that does not fit"),
    "unknown kind": (at("tensors", 0, "kind", to="hook"), "graph.json: tensors.0.kind: Input should be 'parameter'"),
    "tied to itself": (at("tensors", 0, "same_as", to="input"), "missing or left over: input"),
    "unknown structure": (at("output_structure", to={"set": []}), "the structure {'set': []} means nothing"),
    "key twice": (at("output_structure", to={"dict": [["a", "*"], ["a", "*"]]}), "for the second time"),
    "number as key": (at("output_structure", to={"dict": [[1, "*"]]}), "means nothing"),
}


@pytest.mark.parametrize("what", ATTACKS)
def test_a_strangers_graph_is_refused_in_one_sentence(what: str, honest: dict[str, bytes], tmp_path: Path) -> None:
    change, sentence = ATTACKS[what]
    content = json.loads(honest["graph.json"])
    change(content)
    write(tmp_path, content, honest["weights.safetensors"])
    with pytest.raises(IntegrityError) as refusal:
        load_graph(tmp_path)
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 500 + len(str(tmp_path))


@pytest.mark.parametrize(
    "name", ["forward", "training", "_parameters.x", "graph", "code.x", "__class__", "layers.forward.x", "input.x"]
)
def test_a_tensor_takes_no_name_that_the_module_uses(name: str, tmp_path: Path, honest: dict[str, bytes]) -> None:
    content = json.loads(honest["graph.json"])
    row = next(row for row in content["tensors"] if row["name"] == "unused")
    row["name"] = name
    values = safetensors.torch.load(honest["weights.safetensors"])
    write(tmp_path, content, safetensors.torch.save({name if k == "unused" else k: v for k, v in values.items()}))
    with pytest.raises(IntegrityError, match=f"tensor '{name}' would hide what a module has"):
        load_graph(tmp_path)


def test_a_tie_between_unlike_tensors_is_refused(tmp_path: Path, honest: dict[str, bytes]) -> None:
    for change in ({"shape": [4, 4]}, {"requires_grad": False}, {"kind": "buffer"}, {"same_as": "layers.c.weight"}):
        content = json.loads(honest["graph.json"])
        next(row for row in content["tensors"] if row["same_as"]).update(change)
        write(tmp_path, content, honest["weights.safetensors"])
        with pytest.raises(IntegrityError, match="which is no earlier one like it"):
            load_graph(tmp_path)


def test_an_integer_tensor_that_requires_a_gradient_is_refused(tmp_path: Path, honest: dict[str, bytes]) -> None:
    content = json.loads(honest["graph.json"])
    next(row for row in content["tensors"] if row["name"] == "unused")["requires_grad"] = True
    write(tmp_path, content, honest["weights.safetensors"])
    with pytest.raises(IntegrityError, match=r"'unused' of torch.int64 cannot require a gradient"):
        load_graph(tmp_path)


def strings_in(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of every string in JSON, and of every key as the path with None at its end."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from strings_in(item, (*path, index))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield (*path, key, None)
            yield from strings_in(item, (*path, key))


RUN = "__import__('builtins').injected.append(1)"
PAYLOADS = [RUN, f"x={RUN}", f"x\n    {RUN}\n    #", f'x"), {RUN}, ("', f"x'), {RUN}, ('", f"x: {RUN}", f"x, y={RUN}"]


class Small(nn.Module):
    """A graph with a string among its arguments, a keyword, a dict output and nested names."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.Conv1d(2, 2, 3, padding="same"))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"key": torch.zeros_like(self.part(x), dtype=torch.float32)}


def test_no_string_in_the_file_becomes_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    injected: list[int] = []
    monkeypatch.setattr(builtins, "injected", injected, raising=False)
    x = torch.rand(2, 2, 4)
    save_graph(graph(Small(), x), tmp_path)
    honest = files(tmp_path)
    paths = list(strings_in(json.loads(honest["graph.json"])))
    assert len(paths) > 50
    for path in paths:
        for payload in PAYLOADS:
            content = json.loads(honest["graph.json"])
            place: Any = content
            key_itself = path[-1] is None
            *way, last = path[:-1] if key_itself else path
            for part in way:
                place = place[part]
            if key_itself:
                place[payload] = place.pop(last)
            else:
                place[last] = payload
            write(tmp_path, content, honest["weights.safetensors"], redigest=path != ("weights_digest",))
            with contextlib.suppress(IntegrityError, RuntimeError):
                load_graph(tmp_path)(x)
            assert not injected, f"{path} ran {payload!r}"


def test_weights_must_be_the_ones_that_the_graph_names(tmp_path: Path, honest: dict[str, bytes]) -> None:
    weights = bytearray(honest["weights.safetensors"])
    weights[-1] ^= 1
    write(tmp_path, json.loads(honest["graph.json"]), bytes(weights), redigest=False)
    with pytest.raises(IntegrityError, match=r"weights\.safetensors is damaged or another graph's"):
        load_graph(tmp_path)


def test_extra_and_missing_tensors_are_named(tmp_path: Path, honest: dict[str, bytes]) -> None:
    values = safetensors.torch.load(honest["weights.safetensors"])
    for changed, name in (
        (values | {"more": torch.ones(2)}, "more"),
        ({key: value for key, value in values.items() if key != "unused"}, "unused"),
    ):
        write(tmp_path, json.loads(honest["graph.json"]), safetensors.torch.save(changed))
        with pytest.raises(IntegrityError, match=f"missing or left over: {name}"):
            load_graph(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"null",
        b"[1]",
        b"{",
        b"\xff\xfe",
        b"\x80\x04K\x01.",
        b"[" * 10**5,
        b'{"version":%d}' % 10**4000,
    ],
)
def test_what_is_no_graph_at_all_is_refused(content: bytes, tmp_path: Path, honest: dict[str, bytes]) -> None:
    (tmp_path / "weights.safetensors").write_bytes(honest["weights.safetensors"])
    (tmp_path / "graph.json").write_bytes(content)
    with pytest.raises(IntegrityError, match="holds no graph that can be loaded: graph.json"):
        load_graph(tmp_path)


def test_weights_that_are_a_pickle_are_refused(tmp_path: Path, honest: dict[str, bytes]) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "pickle")
    write(tmp_path, json.loads(honest["graph.json"]), (tmp_path / "pickle").read_bytes())
    with pytest.raises(IntegrityError, match="holds no graph that can be loaded"):
        load_graph(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path, honest: dict[str, bytes]) -> None:
    with pytest.raises(IntegrityError, match=r"graph\.json"):
        load_graph(tmp_path)
    (tmp_path / "graph.json").write_bytes(honest["graph.json"])
    with pytest.raises(IntegrityError, match=r"weights\.safetensors"):
        load_graph(tmp_path)


def test_indented_or_repeated_keys_are_refused(tmp_path: Path, honest: dict[str, bytes]) -> None:
    (tmp_path / "weights.safetensors").write_bytes(honest["weights.safetensors"])
    for content in (
        json.dumps(json.loads(honest["graph.json"]), indent=1).encode(),
        honest["graph.json"].replace(b'"version":1', b'"version":2,"version":1'),
    ):
        (tmp_path / "graph.json").write_bytes(content)
        with pytest.raises(IntegrityError, match="is not canonical JSON"):
            load_graph(tmp_path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_graph_is_refused_or_loads_but_never_crashes(
    data: st.DataObject, tmp_path: Path, honest: dict[str, bytes]
) -> None:
    content = bytearray(honest["graph.json"])
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] = data.draw(st.sampled_from(b'0123456789-.,:[]{}"aetx_'))
    (tmp_path / "graph.json").write_bytes(content)
    (tmp_path / "weights.safetensors").write_bytes(honest["weights.safetensors"])
    with contextlib.suppress(IntegrityError):
        assert isinstance(load_graph(tmp_path), fx.GraphModule)
