"""Float64 and back: exactness can only be told from rounding in double precision."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

_NARROW = (torch.float16, torch.bfloat16, torch.float32)


def to_double(value: Tensor) -> Tensor:
    """Return floating values as float64, others as they are."""
    return value.double() if value.is_floating_point() else value


def double(module: nn.Module) -> nn.Module:
    """Make parameters, buffers and constants of a module float64, in place, and the casts in its graph too."""
    module.double()
    for part in module.modules():
        for name, value in list(vars(part).items()):
            if isinstance(value, Tensor) and value.is_floating_point():
                setattr(part, name, value.double())
    if isinstance(module, fx.GraphModule):
        for node in module.graph.nodes:
            found = [
                arg for arg in (*node.args, *node.kwargs.values()) if isinstance(arg, torch.dtype) and arg in _NARROW
            ]
            if not found and _makes_by_default(node):
                node.kwargs = {**node.kwargs, "dtype": node.meta["val"].dtype}
                found = [node.meta["val"].dtype]
            if found:
                node.meta["dtype"] = found[0]
                _cast(node, found[0], torch.float64)
        module.recompile()
    return module


def named_dtypes(module: nn.Module) -> dict[str, torch.dtype]:
    """Return the dtypes of a module's parameters, buffers and plain attributes that are tensors, by dotted name."""
    found = {name: tensor.dtype for name, tensor in module.state_dict().items()}
    found |= {name: tensor.dtype for name, tensor in module.named_buffers(remove_duplicate=False)}
    for owner_name, owner in module.named_modules():
        for leaf, value in vars(owner).items():
            if isinstance(value, Tensor):
                found[f"{owner_name}.{leaf}".lstrip(".")] = value.dtype
    return found


def dtypes_of(model: nn.Module, traced: dict[str, torch.dtype]) -> Mapping[str, torch.dtype]:
    """Return the dtype of every tensor before `double`, a new one taking that of the others."""
    known = traced | named_dtypes(model)
    floating = [dtype for dtype in known.values() if dtype.is_floating_point]
    return defaultdict(lambda: floating[0] if floating else torch.float32, known)


def restore(module: nn.Module, dtypes: Mapping[str, torch.dtype]) -> None:
    """Give a module's tensors, and the casts in its graph, their own dtypes again, in place."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(dtypes[name])
    for owner_name, owner in module.named_modules():
        for tensors in (owner._buffers, vars(owner)):
            for leaf, value in list(tensors.items()):
                if isinstance(value, Tensor) and value.is_floating_point():
                    tensors[leaf] = value.to(dtypes[f"{owner_name}.{leaf}".lstrip(".")])
    if isinstance(module, fx.GraphModule):
        for node in module.graph.nodes:
            if "dtype" in node.meta:
                _cast(node, torch.float64, node.meta["dtype"])
        module.recompile()


def _makes_by_default(node: fx.Node) -> bool:
    """Return whether a node makes a floating tensor from no other, without saying its dtype."""
    schema, value = getattr(node.target, "_schema", None), node.meta.get("val")
    if schema is None or not isinstance(value, Tensor) or not value.is_floating_point():
        return False
    others = [other for other in node.all_input_nodes if isinstance(other.meta.get("val"), Tensor)]
    takes = any(argument.name == "dtype" for argument in schema.arguments)
    return takes and not others and value.dtype in _NARROW and node.kwargs.get("dtype") is None


def _cast(node: fx.Node, old: torch.dtype, new: torch.dtype) -> None:
    node.args = tuple(new if arg is old else arg for arg in node.args)
    node.kwargs = {name: new if arg is old else arg for name, arg in node.kwargs.items()}


@contextmanager
def double_by_default() -> Iterator[None]:
    """Let tensors that are made without a dtype, and quotients of integers, be float64."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(usual)


class InDouble(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs a module in float64 even where its code asks for less: ``x.float()``, ``torch.zeros(..)``, autocast."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        asked = {
            name: torch.float64 if isinstance(value, torch.dtype) and value in _NARROW else value
            for name, value in (kwargs or {}).items()
        }
        return func(*args, **asked)
