"""Coupled channel groups as people see them, and masks over them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fairdeploy.compaction.labels import WHOLE, LabelledGraph, label_graph
from fairdeploy.compaction.trace import trace
from fairdeploy.errors import CompactionError

Masks = Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class Member:
    """A slice of a parameter for each channel: index ``indices[k]`` of dimension ``dim`` is ``channels[k]``'s.

    Attributes
    ----------
    parameter : str
    dim : int
    indices, channels : tuple of int [m]
        A channel may own several indices (after flattening, one for each place) but an index has one channel.
    """

    parameter: str
    dim: int
    indices: tuple[int, ...]
    channels: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.parameter}[dim {self.dim}: {len(self.indices)}]"


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that are removed one by one, each with its slice of every member.

    Attributes
    ----------
    name : str
        The parameter whose dimension 0 produces them (with ``:dim`` for another dimension).
    size : int
        How many channels there are.
    members : tuple of Member
    reason : str, optional
        Why the group must stay whole; None where it can be pruned.
    """

    name: str
    size: int
    members: tuple[Member, ...]
    reason: str | None = None

    @property
    def prunable(self) -> bool:
        """Whether channels of this group may be removed."""
        return self.reason is None

    def __str__(self) -> str:
        state = "prunable" if self.prunable else f"whole: {self.reason}"
        return f"{self.name} ({self.size} channels, {state}): {', '.join(map(str, self.members))}"


def channel_groups(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> tuple[ChannelGroup, ...]:
    """Find a network's coupled channels.

    Parameters
    ----------
    model : Module
        Left as it is.
    example_inputs : tuple of Tensor
        One for each argument of ``forward``, with the batch in dimension 0.

    Returns
    -------
    tuple of ChannelGroup
        In the order of their producers; pinned ones have a reason.

    Raises
    ------
    CompactionError
        If ``torch.export`` cannot follow the network with a free batch size.
    """
    return groups_of(label_graph(trace(model, example_inputs)))


def groups_of(labelled: LabelledGraph) -> tuple[ChannelGroup, ...]:
    """Collect the channels of a labelled graph into groups."""
    channels = channels_by_group(labelled)
    position = {root: (name, k) for name, (roots, _) in channels.items() for k, root in enumerate(roots)}
    members: dict[str, list[Member]] = {name: [] for name in channels}
    seen: set[int] = set()
    for node in labelled.stored_nodes():
        tensor = labelled.trace.tensor(node)
        if id(tensor) in seen or not isinstance(tensor, nn.Parameter):
            continue
        seen.add(id(tensor))
        for dim, ids in enumerate(labelled.dims[node]):
            parts: dict[str, list[tuple[int, int]]] = {}
            for index, label in enumerate(ids.tolist()):
                place = position.get(labelled.labels.find(label))
                if place is not None:
                    parts.setdefault(place[0], []).append((index, place[1]))
            for name, pairs in parts.items():
                indices, owners = zip(*pairs, strict=True)
                members[name].append(Member(str(node.target), dim, indices, owners))
    return tuple(
        ChannelGroup(name, len(roots), tuple(members[name]), reason) for name, (roots, reason) in channels.items()
    )


def channels_by_group(labelled: LabelledGraph) -> dict[str, tuple[list[int], str | None]]:
    """Return for each group its channels (root labels, in order) and the reason why it is pinned, if it is."""
    labels = labelled.labels
    roots = sorted({labels.find(label) for label in labelled.owners})
    parts: dict[tuple[str, int, str | None], list[int]] = {}
    for root in roots:
        reason = labels.pinned(root)
        if reason != WHOLE:
            parts.setdefault((*labelled.owners[root], reason), []).append(root)
    groups: dict[str, tuple[list[int], str | None]] = {}
    for (owner, dim, reason), members in parts.items():
        base = owner if dim == 0 else f"{owner}:{dim}"
        name, count = base, 1
        while name in groups:
            count += 1
            name = f"{base}#{count}"
        groups[name] = (members, reason)
    return groups


def check_masks(groups: Iterable[ChannelGroup], masks: Masks) -> None:
    """Refuse masks that do not fit the groups.

    Raises
    ------
    CompactionError
        Naming the group: unknown, pinned, or a mask of another length or dtype.
    """
    known = {group.name: group for group in groups}
    for name, mask in masks.items():
        group = known.get(name)
        if group is None:
            raise CompactionError(f"masks: there is no channel group '{name}'; known: {', '.join(known)}")
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (group.size,):
            raise CompactionError(f"masks: '{name}' needs {group.size} booleans (true keeps a channel)")
        if not group.prunable and not mask.all():
            raise CompactionError(f"masks: '{name}' must stay whole ({group.reason})")


def apply_masks(model: nn.Module, groups: Iterable[ChannelGroup], masks: Masks) -> nn.Module:
    """Return a copy of a module in which every closed channel's members are zero.

    Producers' rows, batch norms' gamma and beta, biases and consumers' columns all become zero, so that a closed
    channel holds zero after normalisation and nobody reads it. Running statistics stay.

    Parameters
    ----------
    model : Module
        Left as it is.
    groups : iterable of ChannelGroup
    masks : mapping of str to array of bool [size]
        True keeps a channel; a group without a mask stays whole.

    Raises
    ------
    CompactionError
        If a mask does not fit its group.
    """
    groups = tuple(groups)
    check_masks(groups, masks)
    masked = copy.deepcopy(model)
    parameters = dict(masked.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for group in groups:
            keep = masks.get(group.name)
            if keep is None or keep.all():
                continue
            for member in group.members:
                closed = [i for i, channel in zip(member.indices, member.channels, strict=True) if not keep[channel]]
                parameters[member.parameter].index_fill_(member.dim, torch.tensor(closed, dtype=torch.long), 0)
    return masked
