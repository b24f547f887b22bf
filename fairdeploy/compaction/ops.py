"""Which operation of the exported graph belongs to which family; what no family holds is unknown.

An unknown operation is never guessed at: the labels pass pins all it touches and names it as the reason, the
dependence pass lets every output depend on every input.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node

aten = torch.ops.aten
getitem = operator.getitem


def _overloads(*names: str) -> frozenset[Any]:
    """Return every overload of the named aten operations."""
    packets = [getattr(aten, name) for name in names]
    return frozenset(getattr(packet, overload) for packet in packets for overload in packet.overloads())


CONVOLUTION: dict[Any, Callable[..., torch.Tensor]] = {
    aten.conv1d.default: torch.conv1d,
    aten.conv2d.default: torch.conv2d,
    aten.conv3d.default: torch.conv3d,
    aten.conv1d.padding: torch.conv1d,
    aten.conv2d.padding: torch.conv2d,
    aten.conv3d.padding: torch.conv3d,
}
TRANSPOSED: dict[Any, Callable[..., torch.Tensor]] = {
    aten.conv_transpose1d.default: torch.conv_transpose1d,
    aten.conv_transpose2d.input: torch.conv_transpose2d,
    aten.conv_transpose3d.input: torch.conv_transpose3d,
}
LINEAR = frozenset({aten.linear.default})
MATMUL = frozenset({aten.matmul.default, aten.bmm.default, aten.mm.default})
ADD_MATMUL = frozenset({aten.addmm.default, aten.baddbmm.default})
EINSUM = frozenset({aten.einsum.default})
ATTENTION = frozenset({aten.scaled_dot_product_attention.default})
RECURRENT = {aten.lstm.input: 4, aten.gru.input: 3, aten.rnn_tanh.input: 1, aten.rnn_relu.input: 1}  # and their gates
BATCH_NORM = frozenset({aten.batch_norm.default})
RMS_NORM = frozenset({aten.rms_norm.default})
LAYER_NORM = RMS_NORM | frozenset({aten.layer_norm.default})
GROUP_NORM = frozenset({aten.group_norm.default})
INSTANCE_NORM = frozenset({aten.instance_norm.default})
PRELU = frozenset({aten.prelu.default})
MULTIPLY = _overloads("mul")
DIVIDE = frozenset({aten.div.Tensor, aten.div.Scalar, aten.div.Tensor_mode})
SAME = _overloads("type_as", "clone", "contiguous", "_to_copy", "to", "alias", "detach", "lift_fresh_copy")
UNIFORM = _overloads("zeros_like", "ones_like", "full_like", "fill", "zero")
ELEMENTWISE = UNIFORM | MULTIPLY | DIVIDE | SAME | _overloads(
    "add", "sub", "rsub", "pow", "maximum", "minimum", "addcmul", "addcdiv", "where", "masked_fill", "lerp",
    "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_not", "bitwise_not", "bitwise_and",
    "relu", "relu6", "hardtanh", "leaky_relu", "elu", "celu", "selu", "silu", "mish", "gelu", "softplus", "sigmoid",
    "log_sigmoid", "hardsigmoid", "hardswish", "tanh", "clamp", "clamp_min", "clamp_max", "neg", "exp", "expm1", "abs",
    "sqrt", "rsqrt", "square", "reciprocal", "hardshrink", "softshrink", "log", "log1p", "log2", "sin", "cos", "erf",
    "floor", "ceil", "round", "sign", "fmod", "remainder", "atan2", "floor_divide", "threshold", "tan",
    "nan_to_num", "copy", "isnan", "special_logit", "logit",
)  # fmt: skip
VIEW = frozenset({aten.view.default, aten.reshape.default, aten._unsafe_view.default})
RESHAPE = VIEW | frozenset({aten.flatten.using_ints, aten.unflatten.int})
EXPAND = frozenset({aten.expand.default})
SLICE = frozenset({aten.slice.Tensor})
PAD = frozenset({aten.pad.default, aten.constant_pad_nd.default})
SELECT = frozenset({aten.select.int})
ROLL = frozenset({aten.roll.default})
INDEX = frozenset({aten.index.Tensor, aten.index_select.default})
PERMUTE = _overloads("permute", "transpose", "t", "unsqueeze", "squeeze", "numpy_T", "movedim", "swapaxes")
MOVE = RESHAPE | EXPAND | SLICE | PAD | SELECT | ROLL | PERMUTE | _overloads(
    "flip", "repeat", "repeat_interleave", "tile", "pixel_shuffle", "pixel_unshuffle", "im2col",
    "unfold", "diagonal", "narrow",
)  # fmt: skip
CONCATENATE = frozenset({aten.cat.default})
CREATE = _overloads("zeros", "ones", "full", "new_zeros", "new_ones", "new_full", "empty", "arange", "scalar_tensor",
                    "linspace", "eye")  # fmt: skip
NEW = _overloads("new_zeros", "new_ones", "new_full")
FILLED = NEW | _overloads("zeros", "ones", "full")
POOL = _overloads(
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool2d",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d", "upsample_bilinear2d",
    "upsample_trilinear3d", "upsample_bicubic2d", "_upsample_bicubic2d_aa", "_upsample_bilinear2d_aa",
    "reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d", "replication_pad3d",
    
)  # fmt: skip
MEAN = frozenset({aten.mean.dim})
TOTAL = MEAN | frozenset({aten.sum.dim_IntList})
REDUCE = TOTAL | _overloads(
    "mean", "sum", "amax", "amin", "linalg_vector_norm", "norm", "var", "std", "logsumexp", "argmax", "argmin", "prod",
    "any", "all",
) - {aten.var.default, aten.std.default}  # fmt: skip
SOFTMAX = _overloads("softmax", "_softmax")
ALONG = SOFTMAX | _overloads("log_softmax", "_log_softmax", "cumsum", "cumprod", "logcumsumexp")
COL2IM = frozenset({aten.col2im.default})
EMBEDDING = frozenset({aten.embedding.default})


def title(node: Node) -> str:
    """Return an operation's name for people: ``layer_norm`` for ``aten.layer_norm.default``."""
    name = str(node.target)
    return name.split(".")[1] if name.startswith("aten.") else name


def argument(node: Node, position: int, name: str, default: Any = None) -> Any:
    """Return an argument of a call, given by position or by keyword."""
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)


def pads_constant(node: Node) -> bool:
    """Return whether a padding puts one value around."""
    return node.target is aten.constant_pad_nd.default or argument(node, 2, "mode", "constant") == "constant"


def places(node: Node) -> int:
    """Return how many dimensions at the end a pooling, padding or upsampling works on: its name says so."""
    return int(re.search(r"(\d)d", str(node.target))[1])  # type: ignore[index]


def with_argument(node: Node, position: int, name: str, value: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return arguments and keywords of a call with one of them replaced."""
    if len(node.args) > position:
        return (*node.args[:position], value, *node.args[position + 1 :]), dict(node.kwargs)
    return tuple(node.args), {**node.kwargs, name: value}


def parts(node: Node) -> list[Node]:
    """Return what a concatenation joins."""
    return [part for part in argument(node, 0, "tensors") if isinstance(part, Node)]


def is_convolution(node: Node) -> bool:
    """Return whether the node is a convolution, transposed or not."""
    return node.target in CONVOLUTION or node.target in TRANSPOSED


def convolve(node: Node) -> Callable[..., torch.Tensor]:
    """Return the function that a convolution calls."""
    return CONVOLUTION[node.target] if node.target in CONVOLUTION else TRANSPOSED[node.target]


def groups_of(node: Node) -> Any:
    """Return the number of groups of a convolution."""
    return groups_given(node.args, node.kwargs)


def groups_given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the number of groups among a convolution's arguments."""
    return args[6] if len(args) > 6 else kwargs.get("groups", 1)


def weighted(node: Node) -> tuple[Node, Node, Node | None] | None:
    """Return input, weight and bias where the node is a convolution or linear layer."""
    if node.target not in LINEAR and not is_convolution(node):
        return None
    return argument(node, 0, "input"), argument(node, 1, "weight"), argument(node, 2, "bias")


def factors(node: Node) -> tuple[Any, Any]:
    """Return the two tensors that a matrix product multiplies."""
    first, second = node.args[-2:]
    return first, second


def dims_of(node: Node, rank: int) -> frozenset[int]:
    """Return the dimensions that a reduction or a softmax takes together; none named means all."""
    place, name = (2, "dim") if node.target in _overloads("linalg_vector_norm", "norm") else (1, "dim")
    named = argument(node, place, name)
    if named is None or named == []:
        return frozenset(range(rank))
    return frozenset(int(dim) % rank for dim in (named if isinstance(named, list | tuple) else [named]))
