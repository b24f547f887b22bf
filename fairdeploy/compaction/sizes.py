"""Parameters and bytes, worked out for masks that are not carried out yet."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, fx, nn

from fairdeploy.compaction.bake import baked
from fairdeploy.compaction.graph_labels import LabelledGraph
from fairdeploy.compaction.groups import Masks
from fairdeploy.compaction.macs import Product, in_groups, products_under_masks


@dataclass(frozen=True)
class _Stored:
    """A tensor of the user's module, and how many elements of it are left."""

    tensor: Tensor
    elements: list[Product]


def parameters_of_masks(labelled: LabelledGraph, model: nn.Module) -> Callable[[Masks], int]:
    """Return a function that counts a network's parameters, shared ones once, once masks are carried out.

    Parameters
    ----------
    labelled : LabelledGraph
    model : Module
        The network that was traced.

    Returns
    -------
    callable
        Exact where nothing beyond the masks can be removed; what no layer of the graph reads as it is stored, such as
        a parameter that others are computed from, is counted whole.
    """
    stored = [one for one in _stored(labelled, model) if isinstance(one.tensor, nn.Parameter)]
    products = products_under_masks(labelled, [product for one in stored for product in one.elements])
    return lambda masks: sum(products(masks))


def bytes_of_masks(labelled: LabelledGraph, model: nn.Module) -> Callable[[Masks], int]:
    """Return a function that counts the bytes of parameters and buffers; see `parameters_of_masks`.

    Where only the compacted graph is left (`CompactModel.not_own_class`) its index tables for shuffled channels come
    on top, and counters that only training reads are gone.
    """
    products = products_under_masks(
        labelled,
        [
            (fixed * one.tensor.element_size(), parts)
            for one in _stored(labelled, model)
            for fixed, parts in one.elements
        ],
    )
    return lambda masks: sum(products(masks))


def _stored(labelled: LabelledGraph, model: nn.Module) -> list[_Stored]:
    """Return the parameters and buffers of a module, shared ones once."""
    model = baked(model)
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    computed = labelled.trace.evaluated.names
    read = {computed.get(str(node.target), str(node.target)): node for node in labelled.stored_nodes()}
    tensors = {id(tensor): tensor for _, tensor in named}
    nodes = {id(tensor): read[name] for name, tensor in named if name in read}
    return [
        _Stored(tensor, _elements(labelled, nodes[key]) if key in nodes else [(tensor.numel(), [])])
        for key, tensor in tensors.items()
    ]


def _elements(labelled: LabelledGraph, node: fx.Node) -> list[Product]:
    """Return how many elements of a stored tensor are left."""
    shape = labelled.shapes[node]
    if node in labelled.grouped:
        return in_groups(labelled, node, math.prod(shape[2:]))
    blocks = labelled.blocks[node]
    inside = {dim for block in blocks for dim in block.dims}
    whole = math.prod(size for dim, size in enumerate(shape) if dim not in inside)
    return [(whole, [labelled.channels.root[block.ids] for block in blocks])]
