"""Gates: numbers that multiply channels, so that masks can be learned by gradients.

A gate multiplies slices of parameters and not activations, so every network whose channels compaction finds can be
gated, whatever its operations. Of a channel's slices only as many are multiplied as close it: multiplied twice on the
way from input to output, a gate at zero would have no gradient, and never open again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from fairdeploy.compaction import ChannelGroup, Member, apply_masks
from fairdeploy.compaction.bake import baked
from fairdeploy.compaction.precision import double
from fairdeploy.errors import StageError

_SAME = 1e-9


class Gated(nn.Module):
    """A network under gates.

    Parameters
    ----------
    model : Module
        Its parameters stay its own.
    groups : iterable of ChannelGroup
    closing : mapping of str to sequence of Member
        The members that gates multiply (`closing_members`).

    Attributes
    ----------
    gates : dict of str to Tensor [size]
        One for each channel; ones at first. Set them before a call; gradients flow to what they were made from.

    Raises
    ------
    StageError
        If what a gate multiplies is computed from other parameters (weight norm); says which.
    """

    def __init__(
        self, model: nn.Module, groups: Iterable[ChannelGroup], closing: Mapping[str, Sequence[Member]]
    ) -> None:
        super().__init__()
        self.model = model
        self.gates = {group.name: torch.ones(group.size) for group in groups if group.name in closing}
        self._closing = closing
        named = list(model.named_parameters(remove_duplicate=False))
        first = {id(parameter): name for name, parameter in reversed(named)}
        self._tied = {name: first[id(parameter)] for name, parameter in named}
        for member in (member for members in closing.values() for member in members):
            if member.parameter not in self._tied:
                raise StageError(
                    f"gates: {member.parameter} is computed from other parameters, so no gate can multiply it; make it "
                    "a plain one first (torch.nn.utils.parametrize.remove_parametrizations, or remove_weight_norm)"
                )

    def forward(self, *inputs: Tensor) -> Any:
        """Return the network's outputs under `gates`."""
        parameters = dict(self.model.named_parameters())
        return functional_call(self.model, self._under(parameters, self.gates), inputs, tie_weights=False)

    def apart(self, parameters: Mapping[str, Tensor], gates: Mapping[str, Tensor], inputs: tuple[Tensor, ...]) -> Any:
        """Return the outputs for other parameters and gates; running statistics stay as they are."""
        buffers = {name: tensor.clone() for name, tensor in self.model.named_buffers()}
        return functional_call(self.model, {**buffers, **self._under(parameters, gates)}, inputs, tie_weights=False)

    def _under(self, parameters: Mapping[str, Tensor], gates: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the parameters under all their names, multiplied by gates where gates close channels."""
        gated = {name: parameters[first] for name, first in self._tied.items()}
        for name, members in self._closing.items():
            for member in members:
                tensor = gated[member.parameter]
                gated[member.parameter] = tensor * _factor(member, tensor, gates[name])
        return gated


def closing_members(
    model: nn.Module, groups: Iterable[ChannelGroup], example_inputs: tuple[Tensor, ...]
) -> dict[str, tuple[Member, ...]]:
    """Return for each prunable group the fewest members whose zeros close its channels.

    Found by trial in float64: a member is left out if each half of the channels, zero in the others alone, still leaves
    the outputs that zeros in all members give. What produces channels is left out first, so what reads them is
    multiplied.

    Parameters
    ----------
    model : Module
        In evaluation mode; left as it is.
    groups : iterable of ChannelGroup
    example_inputs : tuple of Tensor [n, ...]
        Where one is the same everywhere, such as zeros, numbers are drawn instead: it may leave all channels at zero.

    Raises
    ------
    StageError
        If whole numbers among the example inputs leave a group without effect.
    """
    network = double(baked(model).eval())
    inputs = tuple(_telling(part) if part.is_floating_point() else part for part in example_inputs)
    found = {}
    with torch.no_grad():
        for group in groups:
            if group.prunable:
                found[group.name] = _fewest(network, group, inputs)
                if not found[group.name] and not all(part.is_floating_point() for part in inputs):
                    raise StageError(
                        f"gates: closing channels of {group.name} changes no output on the example inputs, so no gate "
                        "can be tried; give inputs that say something, such as token ids that are not padding"
                    )
    return found


def _telling(example: Tensor) -> Tensor:
    if example.min() < example.max():
        return example.double()
    generator = torch.Generator().manual_seed(0)
    return torch.randn(example.shape, generator=generator, dtype=torch.float64).to(example.device)


def _fewest(network: nn.Module, group: ChannelGroup, inputs: tuple[Tensor, ...]) -> tuple[Member, ...]:
    halves = [np.arange(group.size) % 2 == odd for odd in (0, 1)]
    wanted = [_tensors(apply_masks(network, [group], {group.name: half})(*inputs)) for half in halves]
    needed = list(group.members)
    for member in sorted(group.members, key=lambda one: one.dim):
        others = [one for one in needed if one is not member]
        gated = Gated(network, [group], {group.name: others})
        if all(_gives(gated, group.name, *trial, inputs) for trial in zip(halves, wanted, strict=True)):
            needed = others
    return tuple(needed)


def _gives(gated: Gated, group: str, mask: NDArray[np.bool_], wanted: list[Tensor], inputs: tuple[Tensor, ...]) -> bool:
    gated.gates[group] = torch.from_numpy(mask.astype(np.float64))
    return all(
        torch.allclose(one, other, rtol=_SAME, atol=_SAME * float(other.abs().max()))
        for one, other in zip(_tensors(gated(*inputs)), wanted, strict=True)
    )


def _factor(member: Member, tensor: Tensor, gate: Tensor) -> Tensor:
    """Return what a gate multiplies a parameter by: ones, and the channels' gates at their indices."""
    width = tensor.shape[member.dim] * member.groups if member.dim else tensor.shape[0]
    places = torch.tensor(member.indices, device=tensor.device)
    factor = torch.ones(width, dtype=tensor.dtype, device=tensor.device)
    factor = factor.index_put((places,), gate.to(tensor)[list(member.channels)])
    if member.groups == 1:
        return factor.view([-1 if dim == member.dim else 1 for dim in range(tensor.dim())])
    by_output = factor.view(member.groups, 1, -1).expand(-1, tensor.shape[0] // member.groups, -1)
    return by_output.reshape(tensor.shape[0], -1, *(1 for _ in tensor.shape[2:]))


def _tensors(outputs: Any) -> list[Tensor]:
    return [part for part in pytree.tree_leaves(outputs) if isinstance(part, Tensor)]
