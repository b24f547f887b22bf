"""A module's parameters and buffers by their dotted names."""

from __future__ import annotations

from torch import Tensor, nn

from fairdeploy.errors import CompactionError


def stored(module: nn.Module, target: str) -> Tensor:
    """Return a module's tensor by its dotted name."""
    owner, _, name = target.rpartition(".")
    value = getattr(module.get_submodule(owner), name)
    if not isinstance(value, Tensor):
        raise CompactionError(f"'{target}' is not a tensor")
    return value


def find(module: nn.Module, target: str) -> Tensor | None:
    """Return a module's tensor by its dotted name, or None where there is none."""
    try:
        return stored(module, target)
    except (AttributeError, CompactionError):
        return None


def free_name(module: nn.Module, target: str) -> str:
    """Return a dotted name that nothing has yet: the one given, or with a number behind it."""
    owner_name, _, leaf = target.rpartition(".")
    owner = module.get_submodule(owner_name)
    name, count = leaf, 1
    while hasattr(owner, name):
        count += 1
        name = f"{leaf}{count}"
    return f"{owner_name}.{name}".lstrip(".")


def put(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Replace or add a module's parameter or buffer by its dotted name."""
    owner_name, _, leaf = name.rpartition(".")
    owner = module.get_submodule(owner_name)
    if leaf in owner._buffers:
        owner._buffers[leaf] = tensor
        return
    old = owner._parameters.get(leaf)
    if old is None and hasattr(owner, leaf) and leaf not in owner._parameters:
        setattr(owner, leaf, tensor)
        return
    owner.register_parameter(leaf, nn.Parameter(tensor, requires_grad=old is None or old.requires_grad))
