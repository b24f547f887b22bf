"""Channel groups with what each costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from fairdeploy.compaction.graph_labels import label_graph
from fairdeploy.compaction.groups import ChannelGroup, GroupCost, Masks, groups_of
from fairdeploy.compaction.macs import macs_of_masks
from fairdeploy.compaction.trace import trace


def channel_groups(
    model: nn.Module | ExportedProgram,
    example_inputs: tuple[Tensor, ...],
    *,
    wide_layer_norm: bool = False,
    latency_ms: Callable[[Sequence[Masks]], Sequence[float]] | None = None,
) -> tuple[ChannelGroup, ...]:
    """Find a network's coupled channels, and what each group costs.

    Parameters
    ----------
    model : Module or ExportedProgram
        Left as it is.
    example_inputs : tuple of Tensor
        One for each argument of ``forward``, with the batch in dimension 0.
    wide_layer_norm : bool
        Whether channels under a layer norm may go; see `compact`.
    latency_ms : callable, optional
        Says how long the network takes under masks (`fairdeploy.pruning.latency_table.network_latency`); costs have
        no latency without it.

    Returns
    -------
    tuple of ChannelGroup
        In the order of their producers; pinned ones have a reason, the others a cost.

    Raises
    ------
    CompactionError
        If ``torch.export`` cannot follow the network with a free batch size.
    """
    with torch.inference_mode(False):  # whether zeros close a channel is found by gradients
        return _channel_groups(model, example_inputs, wide_layer_norm, latency_ms)


def _channel_groups(
    model: nn.Module | ExportedProgram,
    example_inputs: tuple[Tensor, ...],
    wide_layer_norm: bool,
    latency_ms: Callable[[Sequence[Masks]], Sequence[float]] | None,
) -> tuple[ChannelGroup, ...]:
    labelled = label_graph(trace(model, example_inputs, wide_layer_norm=wide_layer_norm))
    groups, macs = groups_of(labelled), macs_of_masks(labelled)
    alone: dict[str, Masks] = {g.name: {g.name: np.arange(g.size) == 0} for g in groups if g.prunable}
    dense = macs({})
    latencies_ms: Sequence[float | None] = [None] * (len(alone) + 1)
    if latency_ms is not None:
        latencies_ms = latency_ms([{}, *alone.values()])
    whole_ms, *left_ms = latencies_ms
    costs = {
        name: GroupCost(dense - macs(masks), None if whole_ms is None or ms is None else whole_ms - ms)
        for (name, masks), ms in zip(alone.items(), left_ms, strict=True)
    }
    return tuple(replace(group, cost=costs.get(group.name)) for group in groups)
