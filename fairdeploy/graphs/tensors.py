"""The tensors that a graph's module holds: what and where each is, and its values in safetensors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, Self

import safetensors.torch
import torch
from pydantic import model_validator
from torch import Tensor, nn

from fairdeploy.records import Record

_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


class StoredTensor(Record):
    """One place of a module that holds a tensor.

    Attributes
    ----------
    name : str
        Names of the parts that lead to it, with dots between.
    order : tuple of int
        Dimensions from the one with the largest stride to the one with the smallest.
    same_as : str, optional
        Name of an earlier place that holds the same object: the two are tied.
    """

    name: str
    kind: Literal["parameter", "buffer", "non_persistent_buffer", "constant"]
    dtype: str
    shape: tuple[int, ...]
    order: tuple[int, ...]
    requires_grad: bool
    same_as: str | None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r:.60} cannot be the name of a tensor: write A-Z a-z 0-9 _ - between dots")
        if sorted(self.order) != list(range(len(self.shape))):
            raise ValueError(f"tensor '{self.name}' has an order that does not fit its shape")
        if self.requires_grad and not self.dtype.startswith(("torch.float", "torch.bfloat", "torch.complex")):
            raise ValueError(f"tensor '{self.name}' of {self.dtype} cannot require a gradient")
        return self

    def may_be_tied_to(self, other: StoredTensor) -> bool:
        """Return whether both can be one object: all but the place is equal."""
        alike = self.model_copy(update={"name": other.name, "kind": other.kind, "same_as": other.same_as}) == other
        return alike and (self.kind == "parameter") == (other.kind == "parameter")


def describe(module: nn.Module) -> tuple[tuple[StoredTensor, ...], bytes]:
    """Return every place that holds a tensor, and safetensors with each tensor under the first of its names.

    Raises
    ------
    ValueError
        If a tensor is not a dense one on the CPU, or its name is unfit.
    """
    rows: list[StoredTensor] = []
    first_names: dict[int, str] = {}
    values: dict[str, Tensor] = {}
    for name, kind, tensor in _places(module):
        if tensor.device.type != "cpu" or tensor.layout is not torch.strided or tensor.is_quantized:
            raise ValueError(f"tensor '{name}' is not a dense tensor on the CPU")
        first_name = first_names.setdefault(id(tensor), name)
        if first_name == name:
            values[name] = tensor.detach().clone(memory_format=torch.contiguous_format)
        row = {
            "name": name,
            "kind": kind,
            "dtype": str(tensor.dtype),
            "shape": tuple(tensor.shape),
            "order": tensor.dim_order(),
            "requires_grad": tensor.requires_grad,
            "same_as": None if first_name == name else first_name,
        }
        rows.append(StoredTensor.model_validate(row))
    return tuple(rows), safetensors.torch.save(values)


def _places(module: nn.Module) -> Iterator[tuple[str, str, Tensor]]:
    """Yield name, kind and tensor for each place, in the order of the module's parts."""
    for prefix, owner in module.named_modules(remove_duplicate=False):
        passing = owner._non_persistent_buffers_set
        for kind, held in (("parameter", owner._parameters), ("buffer", owner._buffers), ("constant", vars(owner))):
            for leaf, value in held.items():
                if isinstance(value, Tensor):
                    own_kind = "non_persistent_buffer" if kind == "buffer" and leaf in passing else kind
                    yield f"{prefix}.{leaf}".removeprefix("."), own_kind, value


def read_values(content: bytes, rows: tuple[StoredTensor, ...]) -> dict[str, Tensor]:
    """Return the tensor of each place, those that are tied as one object.

    Raises
    ------
    ValueError, SafetensorError
        If the content is not safetensors of exactly these tensors.
    """
    values = safetensors.torch.load(content)
    if wrong := values.keys() ^ {row.name for row in rows if row.same_as is None}:
        raise ValueError(f"tensors are missing or left over: {', '.join(sorted(wrong)):.200}")
    known: dict[str, StoredTensor] = {}
    tensors: dict[str, Tensor] = {}
    for row in rows:
        if row.name in known:
            raise ValueError(f"tensor '{row.name}' is described twice")
        known[row.name] = row
        if row.same_as is None:
            tensors[row.name] = _as_described(values[row.name], row)
        elif row.same_as in tensors and row.may_be_tied_to(known[row.same_as]):
            tensors[row.name] = tensors[row.same_as]
        else:
            raise ValueError(f"tensor '{row.name}' is tied to {row.same_as!r:.60}, which is no earlier one like it")
    return tensors


def _as_described(tensor: Tensor, row: StoredTensor) -> Tensor:
    if (str(tensor.dtype), tuple(tensor.shape)) != (row.dtype, row.shape):
        raise ValueError(
            f"tensor '{row.name}' is {tensor.dtype} {list(tensor.shape)}, not {row.dtype:.60} {list(row.shape)}"
        )
    back = [row.order.index(dim) for dim in range(tensor.ndim)]
    ordered = tensor.permute(row.order).contiguous().permute(back)
    if row.kind == "parameter":
        return nn.Parameter(ordered, requires_grad=row.requires_grad)
    return ordered.requires_grad_(row.requires_grad)


def place(module: nn.Module, row: StoredTensor, tensor: Tensor) -> None:
    """Put a tensor where its row says, making the parts on the way.

    Raises
    ------
    ValueError
        If the module has something else of that name.
    """
    *parts, leaf = row.name.split(".")
    owner = module
    for depth, part in enumerate((*parts, leaf)):
        if depth < len(parts) and part in owner._modules:
            owner = owner.get_submodule(part)
            continue
        if hasattr(owner, part):
            raise ValueError(f"tensor '{row.name}' would hide what a module has under '{part}' already")
        if depth < len(parts):
            owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
    if row.kind == "constant":
        setattr(owner, leaf, tensor)
    elif isinstance(tensor, nn.Parameter):
        owner.register_parameter(leaf, tensor)
    else:
        owner.register_buffer(leaf, tensor, persistent=row.kind == "buffer")
