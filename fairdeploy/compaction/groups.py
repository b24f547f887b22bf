"""Coupled channel groups as people see them, and masks over them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fairdeploy.compaction.bake import baked
from fairdeploy.compaction.graph_labels import WHOLE, LabelledGraph
from fairdeploy.errors import CompactionError

NOT_CLOSED = "zeros in no parameter close it: it is computed from parameters anew in every pass"
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
    groups : int
        In a grouped convolution dimension 1 stands for other channels in every group: index i of group g counts as
        ``g * size + i`` and is a slice of that group's outputs only.
    """

    parameter: str
    dim: int
    indices: tuple[int, ...]
    channels: tuple[int, ...]
    groups: int = 1

    def slices(self, tensor: Tensor) -> Tensor:
        """Return a view of the parameter's tensor with the indices in front (for groups: groups, then indices)."""
        if self.groups == 1:
            return tensor.movedim(self.dim, 0)
        return tensor.view(self.groups, -1, *tensor.shape[1:]).movedim(self.dim + 1, 1)

    def close(self, tensor: Tensor, closed: list[int]) -> None:
        """Set the slices of some indices to zero, in place."""
        places = torch.tensor(closed, dtype=torch.long)
        if self.groups == 1:
            tensor.index_fill_(self.dim, places, 0)
        else:
            view = self.slices(tensor)
            view[places // view.shape[1], places % view.shape[1]] = 0

    def __str__(self) -> str:
        return f"{self.parameter}[dim {self.dim}: {len(self.indices)}]"


@dataclass(frozen=True)
class GroupCost:
    """What a network saves at least when one channel of a group is left: what else falls silent then comes on top.

    Attributes
    ----------
    macs : int
        Multiply-accumulates for one row of input.
    latency_ms : float, optional
        Where it was measured.
    """

    macs: int
    latency_ms: float | None

    def __str__(self) -> str:
        return f"{self.macs:,} MACs" + ("" if self.latency_ms is None else f", {self.latency_ms:.3f} ms")


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
    shape : tuple of int
        ``(size,)``, or ``(rows, columns)`` where the channels form rows (heads, groups of a convolution) that keep
        equally many each.
    same_columns : bool
        Whether the rows must keep the *same* columns.
    cost : GroupCost, optional
        Known of prunable groups that come from `channel_groups`.
    """

    name: str
    size: int
    members: tuple[Member, ...]
    reason: str | None = None
    shape: tuple[int, ...] = ()
    same_columns: bool = False
    cost: GroupCost | None = None

    @property
    def prunable(self) -> bool:
        """Whether channels of this group may be removed."""
        return self.reason is None

    def __str__(self) -> str:
        state = "prunable" if self.prunable else f"whole: {self.reason}"
        if self.cost is not None:
            state += f", {self.cost}"
        size = " x ".join(map(str, self.shape)) or str(self.size)
        return f"{self.name} ({size} channels, {state}): {', '.join(map(str, self.members))}"


def groups_of(labelled: LabelledGraph) -> tuple[ChannelGroup, ...]:
    """Collect the channels of a labelled graph into groups."""
    found = channels_by_group(labelled)
    place = np.full((labelled.labels.count, 2), -1)
    for number, (roots, _) in enumerate(found.values()):
        place[roots, 0], place[roots, 1] = number, np.arange(len(roots))
    members: list[list[Member]] = [[] for _ in found]
    root, seen = labelled.channels.root, set()
    for node in labelled.stored_nodes():
        tensor, name = labelled.trace.tensor(node), str(node.target)
        if id(tensor) in seen or not isinstance(tensor, nn.Parameter):
            continue
        seen.add(id(tensor))
        evaluated = name in labelled.trace.evaluated.names
        raw = labelled.trace.evaluated.names.get(name, name)
        dims = [(block.dims[0], block.ids, 1) for block in labelled.blocks[node]]
        if node in labelled.grouped:
            dims.append((1, labelled.grouped[node].ravel(), len(labelled.grouped[node])))
        for dim, ids, groups in dims:
            if raw is None or (evaluated and not labelled.trace.evaluated.follows(name, dim)):
                continue
            for number in np.unique(place[root[ids], 0]).tolist():
                if number >= 0:
                    indices = np.flatnonzero(place[root[ids], 0] == number)
                    channels = place[root[ids[indices]], 1]
                    members[number].append(Member(raw, dim, tuple(indices.tolist()), tuple(channels.tolist()), groups))
    grids = [(root[grid.ids], grid.product) for grid in labelled.labels.grids]
    shapes = {ids.tobytes(): ids.shape for ids, _ in grids}
    even = {np.unique(ids).tobytes() for ids, product in grids if product}
    keys = [np.array(roots, dtype=np.int64).tobytes() for roots, _ in found.values()]
    return tuple(
        ChannelGroup(
            name,
            len(roots),
            tuple(members[number]),
            reason if members[number] or reason else NOT_CLOSED,
            shapes.get(keys[number], (len(roots),)),
            keys[number] in even,
        )
        for number, (name, (roots, reason)) in enumerate(found.items())
    )


def channels_by_group(labelled: LabelledGraph) -> dict[str, tuple[list[int], str | None]]:
    """Return for each group its channels (root labels, in order) and the reason why it is pinned, if it is.

    What stands for a whole row of others (a head, in a table of biases by head) is no channel of its own, nor is what
    constants alone have.
    """
    channels, labels = labelled.channels, labelled.labels
    parameters = [n for n in labelled.stored_nodes() if isinstance(labelled.trace.tensor(n), nn.Parameter)]
    held = set(channels.roots(block.ids for node in parameters for block in labelled.blocks[node]).tolist())
    produced = set(channels.roots(labelled.produced).tolist())
    rows = set(channels.roots([grid.rows for grid in labels.grids]).tolist()) - produced
    grid_of = np.full(labels.count, -1)
    for number, grid in enumerate(labels.grids):
        grid_of[channels.root[grid.ids]] = number
    parts: dict[tuple[str, int, str | None, int], list[int]] = {}
    for root in np.unique(channels.root).tolist():
        owner, reason = labels.owner(root), channels.pinned(root)
        if owner is not None and reason != WHOLE and root not in rows and root in held:
            parts.setdefault((*owner, reason, int(grid_of[root])), []).append(root)
    groups: dict[str, tuple[list[int], str | None]] = {}
    for (owner_name, dim, reason, _), members in parts.items():
        raw = labelled.trace.evaluated.names.get(owner_name) or owner_name
        base = raw if dim == 0 else f"{raw}:{dim}"
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
    if not isinstance(masks, Mapping):
        raise CompactionError(
            f"masks: give a dict from groups' names to arrays of booleans, not {type(masks).__name__}"
        )
    known = {group.name: group for group in groups}
    for name, mask in masks.items():
        group = known.get(name)
        if group is None:
            raise CompactionError(f"masks: there is no channel group '{name}'; known: {', '.join(known)}")
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (group.size,):
            raise CompactionError(
                f"masks: '{name}' needs a numpy array of {group.size} booleans (true keeps a channel)"
            )
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
    masked = baked(model)
    parameters = dict(masked.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for group in groups:
            keep = masks.get(group.name)
            if keep is None or keep.all():
                continue
            for member in group.members:
                closed = [i for i, channel in zip(member.indices, member.channels, strict=True) if not keep[channel]]
                member.close(parameters[member.parameter], closed)
    return masked
