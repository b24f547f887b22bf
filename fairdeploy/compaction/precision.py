"""Float64 and back: exactness can only be told from rounding in double precision."""

from __future__ import annotations

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
            if found:
                node.meta["dtype"] = found[0]
                _cast(node, found[0], torch.float64)
        module.recompile()
    return module


def restore_casts(graph_module: fx.GraphModule) -> None:
    """Give the casts in a graph the dtypes again that they had before `double`."""
    for node in graph_module.graph.nodes:
        if "dtype" in node.meta:
            _cast(node, torch.float64, node.meta["dtype"])
    graph_module.recompile()


def _cast(node: fx.Node, old: torch.dtype, new: torch.dtype) -> None:
    node.args = tuple(new if arg is old else arg for arg in node.args)
    node.kwargs = {name: new if arg is old else arg for name, arg in node.kwargs.items()}


class InDouble(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs a module in float64 even where its code asks for less: ``x.float()``, ``torch.zeros(..)``, autocast."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        asked = {
            name: torch.float64 if isinstance(value, torch.dtype) and value in _NARROW else value
            for name, value in (kwargs or {}).items()
        }
        return func(*args, **asked)
