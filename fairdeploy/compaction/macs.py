"""Multiply-accumulates: counted in a run, or worked out for masks that are not carried out yet."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fairdeploy.compaction import ops
from fairdeploy.compaction.groups import ChannelGroup, Masks, channels_by_group, groups_of
from fairdeploy.compaction.labels import LabelledGraph, label_graph
from fairdeploy.compaction.trace import BATCH, rows_of, trace


def count_macs(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> int:
    """Count the multiply-accumulates of convolutions and matrix products for one row of input."""
    if not isinstance(model, torch.fx.GraphModule):
        model = copy.deepcopy(model).eval()
    with warnings.catch_warnings(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        warnings.simplefilter("ignore")
        model(*(rows_of(value, 1) for value in example_inputs))
    return int(counter.get_total_flops() // 2)


def count_parameters(model: nn.Module) -> int:
    """Count a module's parameters, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def groups_and_macs(
    model: nn.Module, example_inputs: tuple[Tensor, ...]
) -> tuple[tuple[ChannelGroup, ...], Callable[[Masks], int]]:
    """Return a network's channel groups, and `macs_of_masks` for it; for methods that search for masks."""
    labelled = label_graph(trace(model, example_inputs))
    return groups_of(labelled), macs_of_masks(labelled)


def macs_of_masks(labelled: LabelledGraph) -> Callable[[Masks], int]:
    """Return a function that says how many multiply-accumulates a network has once masks are carried out.

    It counts convolutions and linear layers, for one row of input; it is exact where nothing beyond the masks
    can be removed.
    """
    position = {
        root: (name, place)
        for name, (roots, _) in channels_by_group(labelled).items()
        for place, root in enumerate(roots)
    }
    layers = []
    for node in labelled.dims:
        operands = ops.contraction(node)
        if operands is None:
            continue
        weight = operands[1]
        dims = [*labelled.dims[node], *labelled.dims[weight][1:]]
        places = [[position.get(labelled.labels.find(i)) if i >= 0 else None for i in ids.tolist()] for ids in dims]
        layers.append(places)

    def macs(masks: Masks) -> int:
        def kept(place: tuple[str, int] | None) -> bool:
            return place is None or place[0] not in masks or bool(masks[place[0]][place[1]])

        return sum(math.prod(sum(map(kept, dim)) for dim in places) // BATCH for places in layers)

    return macs
