"""Mutations of an ONNX file, by a seed: bytes, fields of the protobuf, graphs that do not end, files from outside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HUGE = 2**40
Random = np.random.Generator
Graph = Any


def flip_bits(data: bytearray, random: Random) -> None:
    for at in random.integers(0, len(data), int(random.choice([1, 2, 8, 64]))):
        data[at] ^= 1 << int(random.integers(8))


def flip_bits_of_the_head(data: bytearray, random: Random) -> None:
    for at in random.integers(0, 400, int(random.choice([1, 2, 4]))):
        data[at] ^= 1 << int(random.integers(8))


def flip_bits_of_the_end(data: bytearray, random: Random) -> None:
    for at in len(data) - random.integers(1, 400, int(random.choice([1, 2, 4]))):
        data[at] ^= 1 << int(random.integers(8))


def cut(data: bytearray, random: Random) -> None:
    del data[int(random.integers(0, len(data))) :]


def cut_a_hole(data: bytearray, random: Random) -> None:
    at = int(random.integers(0, len(data)))
    del data[at : at + int(random.integers(1, 200))]


def insert_noise(data: bytearray, random: Random) -> None:
    at = int(random.integers(0, len(data)))
    data[at:at] = random.bytes(int(random.integers(1, 200)))


def repeat_a_piece(data: bytearray, random: Random) -> None:
    at = int(random.integers(0, len(data)))
    data[at:at] = data[at : at + int(random.integers(1, 2000))] * 3


def only_noise(data: bytearray, random: Random) -> None:
    data[:] = random.bytes(int(random.integers(0, 3000)))


def initializer(graph: Graph, random: Random) -> Any:
    return graph.initializer[int(random.integers(len(graph.initializer)))]


def node(graph: Graph, random: Random) -> Any:
    return graph.node[int(random.integers(len(graph.node)))]


def change_dims(model: Any, random: Random) -> None:
    dims = initializer(model.graph, random).dims
    dims[int(random.integers(len(dims)))] = int(random.choice([-1, 0, 1, 7, HUGE, 2**62]))


def change_rank(model: Any, random: Random) -> None:
    tensor = initializer(model.graph, random)
    tensor.dims.extend([1] * int(random.choice([1, 8, 1000])))


def change_dtype(model: Any, random: Random) -> None:
    initializer(model.graph, random).data_type = int(random.choice([0, 2, 6, 7, 8, 10, 11, 16, 23, 99]))


def shorten_weights(model: Any, random: Random) -> None:
    tensor = initializer(model.graph, random)
    tensor.raw_data = tensor.raw_data[: int(random.integers(len(tensor.raw_data)))]


def poison_weights(model: Any, random: Random) -> None:
    tensor = initializer(model.graph, random)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[int(random.integers(values.size))] = random.choice([np.nan, np.inf, -np.inf, 3e38])
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def lose_an_initializer(model: Any, random: Random) -> None:
    del model.graph.initializer[int(random.integers(len(model.graph.initializer)))]


def lose_a_node(model: Any, random: Random) -> None:
    del model.graph.node[int(random.integers(len(model.graph.node)))]


def unknown_op(model: Any, random: Random) -> None:
    one = node(model.graph, random)
    one.op_type = str(random.choice(["Conw", "", "Loop", "x" * 10_000, "ATen", "Relu\0"]))


def unknown_domain(model: Any, random: Random) -> None:
    node(model.graph, random).domain = str(random.choice(["com.microsoft", "ai.onnx.ml", "nowhere", "\n"]))


def wrong_opset(model: Any, random: Random) -> None:
    model.opset_import[0].version = int(random.choice([-1, 0, 1, 5, 99, 2**31, 2**62]))


def no_opset(model: Any, random: Random) -> None:
    del model.opset_import[:]


def wrong_ir_version(model: Any, random: Random) -> None:
    model.ir_version = int(random.choice([0, 1, 99, 2**40]))


def cycle(model: Any, random: Random) -> None:
    first = int(random.integers(len(model.graph.node) - 1))
    model.graph.node[first].input[0] = model.graph.node[-1].output[0]


def itself(model: Any, random: Random) -> None:
    one = node(model.graph, random)
    one.input[0] = one.output[0]


def same_output_twice(model: Any, random: Random) -> None:
    node(model.graph, random).output[0] = node(model.graph, random).output[0]


def change_the_input(model: Any, random: Random) -> None:
    kind = model.graph.input[0].type.tensor_type
    if random.random() < 0.5:
        kind.elem_type = int(random.choice([0, 2, 7, 8, 10, 99]))
    else:
        kind.shape.dim[int(random.integers(4))].dim_value = int(random.choice([-3, 0, 5, HUGE]))


def rename_the_input(model: Any, random: Random) -> None:
    model.graph.input[0].name = str(random.choice(["", "other", "x" * 100_000]))


def change_outputs(model: Any, random: Random) -> None:
    if random.random() < 0.5:
        del model.graph.output[:]
    else:
        model.graph.output[0].name = str(random.choice(["", "nothing", "image"]))


def change_attributes(model: Any, random: Random) -> None:
    ints = [one for part in model.graph.node for one in part.attribute if len(one.ints)]
    one = ints[int(random.integers(len(ints)))]
    one.ints[int(random.integers(len(one.ints)))] = int(random.choice([-1, 0, 3, 1000, HUGE, 2**62]))


def odd_attribute(model: Any, random: Random) -> None:
    names = ("group", "kernel_shape", "dilations", "axis", "transB", "alpha", "auto_pad")
    value = [0, -1, HUGE, [0, 0], [HUGE, HUGE], 1.5, "SAME"][int(random.integers(7))]
    node(model.graph, random).attribute.append(helper.make_attribute(str(random.choice(names)), value))


def _before_all(model: Any, *parts: Any) -> None:
    nodes = [*parts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _through(model: Any, name: str) -> None:
    model.graph.node[-1].input[0], before = name, model.graph.node[-1].input[0]
    model.graph.node[-2].output[0] = before


def endless_loop(model: Any, random: Random) -> None:
    names = {"trips": np.array(2**62, np.int64), "go": np.array(True), "start": np.zeros(1, np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in names.items())
    step = helper.make_node("Cos", ["state"], ["state_after"])
    keep = helper.make_node("Identity", ["condition"], ["condition_after"])
    info = helper.make_tensor_value_info
    inside = [("turn", TensorProto.INT64, []), ("condition", TensorProto.BOOL, []), ("state", TensorProto.FLOAT, [1])]
    after = [info("condition_after", TensorProto.BOOL, []), info("state_after", TensorProto.FLOAT, [1])]
    body = helper.make_graph([step, keep], "body", [info(*one) for one in inside], after)
    loop = helper.make_node("Loop", ["trips", "go", "start"], ["ended"], body=body)
    add = helper.make_node("Add", ["image", "ended"], ["image_after"])
    model.graph.node[0].input[0] = "image_after"
    _before_all(model, loop, add)


def eat_memory(model: Any, random: Random) -> None:
    shape = np.array([int(random.choice([2**29, 2**33, 2**40, 2**62]))], np.int64)
    model.graph.initializer.append(numpy_helper.from_array(shape, "huge_shape"))
    fill = helper.make_node("ConstantOfShape", ["huge_shape"], ["huge"])
    mean = helper.make_node("ReduceMean", ["huge"], ["mean"])
    scalar = helper.make_node("Add", ["image", "mean"], ["image_after"])
    model.graph.node[0].input[0] = "image_after"
    _before_all(model, fill, mean, scalar)


def nest_deeply(model: Any, random: Random) -> None:
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["image"], ["deep"])], "leaf", [], [info("deep", TensorProto.FLOAT, None)]
    )
    for depth in range(int(random.choice([5, 15, 28]))):
        name = f"deep{depth}"
        both = {"then_branch": graph, "else_branch": graph} if depth < 3 else {"then_branch": graph}
        one = helper.make_node("If", ["go"], [name], **both)
        graph = helper.make_graph([one], name, [], [info(name, TensorProto.FLOAT, None)])
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "go"))
    model.graph.node[0].input[0] = name
    _before_all(model, graph.node[0])


def function_that_calls_itself(model: Any, random: Random) -> None:
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    again = helper.make_node(str(random.choice(["F", "G"])), ["x"], ["y"], domain="own")
    other = helper.make_node("F", ["x"], ["y"], domain="own")
    model.functions.append(helper.make_function("own", "F", ["x"], ["y"], [again], opsets))
    model.functions.append(helper.make_function("own", "G", ["x"], ["y"], [other], opsets))
    model.opset_import.append(opsets[1])
    model.graph.node[0].input[0] = "called"
    _before_all(model, helper.make_node("F", ["image"], ["called"], domain="own"))


def many_nodes(model: Any, random: Random) -> None:
    names = ["image", *(f"step{at}" for at in range(int(random.choice([1000, 20_000]))))]
    relus = [helper.make_node("Relu", [a], [b]) for a, b in zip(names, names[1:], strict=False)]
    model.graph.node[0].input[0] = names[-1]
    _before_all(model, *relus)


def _outside(tensor: Any, random: Random, size: int) -> None:
    place = str(random.choice(["../secret.bin", "../../secret.bin", "{secret}", "link.bin", "./../secret.bin"]))
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", place), ("offset", "0"), ("length", str(size))):
        tensor.external_data.add(key=key, value=value)


def weights_from_outside(model: Any, random: Random) -> None:
    tensor = initializer(model.graph, random)
    _outside(tensor, random, len(tensor.raw_data))


def constant_from_outside(model: Any, random: Random) -> None:
    """Keep a weight in a Constant node, whose tensor no list of initializers names, and that in another file."""
    at = int(random.integers(len(model.graph.initializer)))
    tensor = TensorProto()
    tensor.CopyFrom(model.graph.initializer[at])
    del model.graph.initializer[at]
    _outside(tensor, random, len(tensor.raw_data))
    _before_all(model, helper.make_node("Constant", [], [tensor.name], value=tensor))


BYTES: tuple[Callable[[bytearray, Random], None], ...] = (
    flip_bits, flip_bits_of_the_head, flip_bits_of_the_end, cut, cut_a_hole, insert_noise, repeat_a_piece, only_noise,
)  # fmt: skip
FIELDS: tuple[Callable[[Any, Random], None], ...] = (
    change_dims, change_rank, change_dtype, shorten_weights, poison_weights, lose_an_initializer, lose_a_node,
    unknown_op, unknown_domain, wrong_opset, no_opset, wrong_ir_version, cycle, itself, same_output_twice,
    change_the_input, rename_the_input, change_outputs, change_attributes, odd_attribute, endless_loop, eat_memory,
    nest_deeply, function_that_calls_itself, many_nodes, weights_from_outside, constant_from_outside,
)  # fmt: skip
KINDS = (*BYTES, *FIELDS)
OUTSIDE = ("weights_from_outside", "constant_from_outside")


def mutate(original: bytes, number: int, seed: int, secret: Path) -> tuple[str, bytes]:
    """Return the kind and the bytes of one mutant; so many follow one after the other, all kinds in turn."""
    random, at = np.random.default_rng([seed, number]), number % len(KINDS)
    if at < len(BYTES):
        data = bytearray(original)
        BYTES[at](data, random)
        return BYTES[at].__name__, bytes(data)
    change, model = FIELDS[at - len(BYTES)], onnx.load_from_string(original)
    change(model, random)
    return change.__name__, model.SerializeToString().replace(b"{secret}", str(secret).encode())
