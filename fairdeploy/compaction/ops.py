"""Which operation of the exported graph belongs to which family; what no family holds is unknown.

An unknown operation is never guessed at: the labels pass pins all it touches and names it as the reason, the
dependence pass lets every output depend on every input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node

aten = torch.ops.aten


def _overloads(*names: str) -> frozenset[Any]:
    """Return every overload of the named aten operations."""
    packets = [getattr(aten, name) for name in names]
    return frozenset(getattr(packet, overload) for packet in packets for overload in packet.overloads())


CONVOLUTION: dict[Any, Callable[..., torch.Tensor]] = {
    aten.conv1d.default: torch.conv1d,
    aten.conv2d.default: torch.conv2d,
    aten.conv3d.default: torch.conv3d,
}
LINEAR = frozenset({aten.linear.default})
BATCH_NORM = frozenset({aten.batch_norm.default})
PRELU = frozenset({aten.prelu.default})
MULTIPLY = frozenset({aten.mul.Tensor, aten.mul.Scalar})
DIVIDE = frozenset({aten.div.Tensor, aten.div.Scalar})
ELEMENTWISE = (
    MULTIPLY
    | DIVIDE
    | frozenset({aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar, aten.pow.Tensor_Scalar})
    | frozenset({aten.maximum.default, aten.minimum.default, aten.clone.default, aten.contiguous.default})
    | frozenset({aten._to_copy.default, aten.to.dtype, aten.alias.default, aten.gelu.default, aten.softplus.default})
    | frozenset({getattr(aten, name).default for name in (
        "relu", "relu6", "hardtanh", "leaky_relu", "elu", "celu", "selu", "silu", "mish", "sigmoid", "log_sigmoid",
        "hardsigmoid", "hardswish", "tanh", "clamp", "clamp_min", "clamp_max", "neg", "exp", "abs", "sqrt", "rsqrt",
        "square", "reciprocal", "hardshrink", "softshrink",
    )})
)  # fmt: skip
RESHAPE = frozenset({aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.expand.default})
SLICE = frozenset({aten.slice.Tensor})
PAD = frozenset({aten.pad.default, aten.constant_pad_nd.default})
SELECT = frozenset({aten.select.int})
MOVE = RESHAPE | SLICE | PAD | SELECT | frozenset({
    aten.permute.default, aten.transpose.int, aten.t.default, aten.unsqueeze.default, aten.squeeze.dim,
    aten.squeeze.dims, aten.flatten.using_ints, aten.numpy_T.default,
})  # fmt: skip
CONCATENATE = frozenset({aten.cat.default})
POOL = _overloads(
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool2d",
    "upsample_nearest2d", "upsample_bilinear2d",
)  # fmt: skip
REDUCE = frozenset({aten.mean.dim, aten.sum.dim_IntList, aten.amax.default, aten.amin.default})
SOFTMAX = frozenset({aten.softmax.int, aten.log_softmax.int, aten._softmax.default, aten._log_softmax.default})


def title(node: Node) -> str:
    """Return an operation's name for people: ``aten.layer_norm.default``."""
    return str(node.target)


def argument(node: Node, position: int, name: str, default: Any = None) -> Any:
    """Return an argument of a call, given by position or by keyword."""
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)


def parts(node: Node) -> list[Node]:
    """Return what a concatenation joins."""
    return [part for part in argument(node, 0, "tensors") if isinstance(part, Node)]


def convolution(node: Node) -> tuple[Node, Node, Node | None, int]:
    """Return input, weight, bias and number of groups of a convolution."""
    return (
        argument(node, 0, "input"),
        argument(node, 1, "weight"),
        argument(node, 2, "bias"),
        int(argument(node, 6, "groups", 1)),
    )


def contraction(node: Node) -> tuple[Node, Node, Node | None] | None:
    """Return input, weight and bias where the node is a convolution or linear layer with a stored weight."""
    if node.target not in LINEAR and node.target not in CONVOLUTION:
        return None
    operands = argument(node, 0, "input"), argument(node, 1, "weight"), argument(node, 2, "bias")
    stored = operands[1].op == "get_attr" and (operands[2] is None or operands[2].op == "get_attr")
    return operands if stored else None
