"""The pieces of a graph as plain JSON values: functions by name, arguments, and nested inputs and outputs.

An argument is ``null``, ``true``, ``3``, ``"same"`` or an array of arguments as such; everything else is an object
with one key that says what it is: ``{"float": "1e-05"}``, ``{"dtype": "torch.float32"}``, ``{"call": 12}``. Whatever
does not fit raises `ValueError`, which the caller completes to a sentence.
"""

from __future__ import annotations

import math
import operator
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from pydantic import JsonValue
from torch import fx
from torch._ops import OperatorBase, OpOverloadPacket
from torch.utils import _pytree as pytree

_ON_SIZES = (
    *(operator.add, operator.sub, operator.mul, operator.floordiv, operator.truediv, operator.mod, operator.pow),
    *(operator.neg, operator.pos, operator.and_, operator.or_, operator.getitem),
    *(operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge),
    *(math.ceil, math.floor, math.trunc),
    *(torch.sym_float, torch.sym_int, torch.sym_ite, torch.sym_max, torch.sym_min, torch.sym_not, torch.sym_sum),
)
FUNCTIONS: dict[str, Callable[..., Any]] = {
    f"{function.__module__.lstrip('_')}.{function.__name__}": function for function in _ON_SIZES
}
# fmt: off
_PRIVATE_OPS = frozenset((
    "__and__", "__or__", "__xor__", "__lshift__", "__rshift__", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d",
    "_cdist_forward", "_conj", "_convolution", "_convolution_mode", "_euclidean_dist", "_fft_c2c", "_fft_c2r",
    "_fft_r2c", "_log_softmax", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "_pdist_forward",
    "_prelu_kernel", "_safe_softmax", "_shape_as_tensor", "_softmax", "_to_copy", "_trilinear", "_unsafe_index",
    "_unsafe_view", "_upsample_bicubic2d_aa", "_upsample_bilinear2d_aa", "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "_weight_norm", "_weight_norm_interface",
))
# fmt: on
_OTHER_HARDWARE = ("cudnn_", "fbgemm_", "miopen_", "mkldnn_", "mps_", "quantized_", "sparse_")
_NAMED: dict[str, tuple[type, dict[str, Any]]] = {
    kind: (cls, {str(value): value for value in vars(torch).values() if isinstance(value, cls)})
    for kind, cls in {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}.items()
} | {"device": (torch.device, {"cpu": torch.device("cpu")})}
_SAFE_INTEGER = 2**53 - 1
_LONG_INTEGER = re.compile(r"-?[1-9][0-9]{15,18}")
_FLOAT = re.compile(r"-?(inf|[0-9]+(\.[0-9]+)?(e[+-][0-9]+)?)|nan")
_DEPTH = 8  # of lists; Python compiles no code that nests some 200
_LEAF = "*"


def function_named(name: str) -> Callable[..., Any]:
    """Return the function of a name: a pure aten operation, or one of Python's and torch's on sizes.

    Pure is read from the schema: something is returned and no argument is written to. Left out are operations that
    only TorchScript has (``aten::save``), ``from_file``, backward passes, other hardware's, and private ones that
    exported graphs do not hold, some of which trust indices without looking.

    Raises
    ------
    ValueError
        If there is none, or it may not stand in a file.
    """
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    namespace, _, rest = name.partition(".")
    packet_name, _, overload = rest.partition(".")
    packet = getattr(torch.ops.aten, packet_name, None) if namespace == "aten" and packet_name.isidentifier() else None
    if not isinstance(packet, OpOverloadPacket) or overload not in packet.overloads():  # type: ignore[no-untyped-call]
        raise ValueError(f"calls {name}, which is no function that a saved graph may hold")
    op = getattr(packet, overload)
    schema = op._schema
    if (
        schema.is_mutable
        or not schema.returns
        or not torch._C._dispatch_has_kernel(op.name())
        or packet_name == "from_file"
        or packet_name.endswith("_backward")
        or packet_name.startswith(_OTHER_HARDWARE)
        or (packet_name.startswith("_") and packet_name not in _PRIVATE_OPS)
    ):
        raise ValueError(f"calls {name}, which is not a pure operation on tensors")
    return op  # type: ignore[no-any-return]


def name_of_function(function: object) -> str:
    """Return the name under which `function_named` gives this function.

    Raises
    ------
    ValueError
        If there is none, as for higher-order operations.
    """
    if isinstance(function, OperatorBase):
        name = str(function)
    else:
        name = next(
            (known for known, value in FUNCTIONS.items() if value is function), getattr(function, "__name__", "?")
        )
    function_named(name)
    return name


def argument_to_json(value: object, reference: Callable[[fx.Node], JsonValue]) -> JsonValue:
    """Return a node's argument as JSON; `reference` says how another node is referred to.

    Raises
    ------
    ValueError
        If it is of a type that the file does not hold.
    """
    if isinstance(value, fx.Node):
        return reference(value)
    if isinstance(value, list | tuple):
        return [argument_to_json(item, reference) for item in value]
    if value is None or isinstance(value, bool | str):
        return value
    if type(value) is int:
        return value if abs(value) <= _SAFE_INTEGER else {"int": str(value)}
    if type(value) is float:
        return {"float": repr(value)}
    for kind, (cls, known) in _NAMED.items():
        if isinstance(value, cls) and str(value) in known:
            return {kind: str(value)}
    raise ValueError(f"has the argument {value!r} ({type(value).__name__}), which the file cannot hold")


def argument_from_json(value: JsonValue, referred: Callable[[str, JsonValue], fx.Node], depth: int = 0) -> Any:
    """Return the argument of a node; `referred` gives the node for a kind and key of reference.

    Raises
    ------
    ValueError
        If it is nothing that `argument_to_json` writes.
    """
    if isinstance(value, list):
        if depth == _DEPTH:
            raise ValueError(f"has arguments that nest too deep: lists in lists end at {_DEPTH}")
        return [argument_from_json(item, referred, depth + 1) for item in value]
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, dict) and len(value) == 1:
        ((kind, text),) = value.items()
        if not isinstance(text, str) or kind == "tensor":
            return referred(kind, text)
        if kind == "int" and _LONG_INTEGER.fullmatch(text):
            return int(text)
        if kind == "float" and _FLOAT.fullmatch(text):
            return float(text)
        if kind in _NAMED and text in _NAMED[kind][1]:
            return _NAMED[kind][1][text]
    raise ValueError(f"has the argument {value!r:.60}, which means nothing")


def structure_to_json(spec: pytree.TreeSpec) -> JsonValue:
    """Return the nesting of inputs or outputs as JSON, ``"*"`` for each leaf.

    Raises
    ------
    ValueError
        If it holds anything other than tuples, lists, and dicts with strings as keys.
    """

    def write(part: Any) -> JsonValue:
        name = type(part).__name__
        if isinstance(part, str):
            return _LEAF
        if type(part) in (tuple, list):
            return {name: [write(item) for item in part]}
        if type(part) in (dict, OrderedDict) and all(isinstance(key, str) for key in part):
            return {name: [[key, write(item)] for key, item in part.items()]}
        raise ValueError(f"a {name} among the inputs or outputs; use tuples, lists, and dicts with strings as keys")

    return write(pytree.tree_unflatten([_LEAF] * spec.num_leaves, spec))


def structure_from_json(value: JsonValue) -> Any:
    """Return nested containers with ``"*"`` for each leaf, for `torch.utils._pytree.tree_structure`.

    Raises
    ------
    ValueError
        If it is nothing that `structure_to_json` writes.
    """
    if value == _LEAF:
        return _LEAF
    if isinstance(value, dict) and len(value) == 1:
        match value:
            case {"tuple": list(items)}:
                return tuple(structure_from_json(item) for item in items)
            case {"list": list(items)}:
                return [structure_from_json(item) for item in items]
            case {"dict": list(items)}:
                return dict(_pairs(items))
            case {"OrderedDict": list(items)}:
                return OrderedDict(_pairs(items))
    raise ValueError(f"the structure {value!r:.60} means nothing")


def _pairs(items: list[JsonValue]) -> list[tuple[str, Any]]:
    pairs: dict[str, Any] = {}
    for item in items:
        match item:
            case [str(key), value] if key not in pairs:
                pairs[key] = structure_from_json(value)
            case _:
                raise ValueError(f"the structure {item!r:.60} means nothing, or has its key for the second time")
    return list(pairs.items())
