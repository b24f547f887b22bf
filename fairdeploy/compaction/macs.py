"""Multiply-accumulates: counted in a run, or worked out for masks that are not carried out yet."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fairdeploy.compaction import ops, recurrent
from fairdeploy.compaction.bake import private_copy
from fairdeploy.compaction.closure import Closure
from fairdeploy.compaction.graph_labels import LabelledGraph, label_graph
from fairdeploy.compaction.groups import ChannelGroup, Masks, channels_by_group, groups_of
from fairdeploy.compaction.labels import Ids
from fairdeploy.compaction.trace import BATCH, rows_of, trace

# A number times the sizes of blocks of channels (roots).
Product = tuple[int, list[Ids]]


def count_macs(model: nn.Module, example_inputs: tuple[Tensor, ...]) -> int:
    """Count the multiply-accumulates of convolutions and matrix products for one row of input."""
    model = private_copy(model).requires_grad_(False)  # else the counter puts hooks on gradients that are not there
    if not isinstance(model, fx.GraphModule):
        model.eval()
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one operation in which nothing is counted
    try:
        # Fused attention is not counted on every device; written out it is two products.
        with (
            warnings.catch_warnings(), torch.no_grad(), sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
        ):  # fmt: skip
            warnings.simplefilter("ignore")
            model(*(rows_of(value, 1) for value in example_inputs))
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return int(counter.get_total_flops() // 2)


def count_parameters(model: nn.Module) -> int:
    """Count a module's parameters, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_bytes(model: nn.Module) -> int:
    """Count the bytes of a module's parameters and buffers, shared ones once."""
    return sum(tensor.numel() * tensor.element_size() for tensor in [*model.parameters(), *model.buffers()])


def groups_and_macs(
    model: nn.Module, example_inputs: tuple[Tensor, ...]
) -> tuple[tuple[ChannelGroup, ...], Callable[[Masks], int]]:
    """Return a network's channel groups, and `macs_of_masks` for it; for methods that search for masks."""
    labelled = label_graph(trace(model, example_inputs))
    return groups_of(labelled), macs_of_masks(labelled)


def macs_of_masks(labelled: LabelledGraph) -> Callable[[Masks], int]:
    """Return a function that says how many multiply-accumulates a network has once masks are carried out.

    It counts convolutions, linear layers and matrix products, for one row of input, with what masks cannot remove
    given back; it is exact where nothing beyond the masks can be removed.
    """
    products = products_under_masks(labelled, [cost for node in labelled.blocks for cost in _costs(labelled, node)])
    return lambda masks: sum(product // BATCH for product in products(masks))


def products_under_masks(labelled: LabelledGraph, products: Sequence[Product]) -> Callable[[Masks], list[int]]:
    """Return a function that works products out for the channels that are left once masks are carried out."""
    channels = labelled.channels
    groups = {name: np.array(roots) for name, (roots, _) in channels_by_group(labelled).items()}
    blocks = [block.ids for blocks in labelled.blocks.values() for block in blocks]
    closure = Closure.of(channels, labelled.labels.grids, blocks)
    rows = channels.roots(grid.rows for grid in labelled.labels.grids)

    def under(masks: Masks) -> list[int]:
        kept = np.ones(len(channels.root), bool)
        kept[rows] = False
        for name, roots in groups.items():
            kept[roots] = masks.get(name, True)
        closure.close(kept, {})
        return [fixed * math.prod(int(kept[ids].sum()) for ids in parts) for fixed, parts in products]

    return under


def _costs(labelled: LabelledGraph, node: fx.Node) -> list[Product]:
    """Return the multiply-accumulates of a node for a batch."""
    if ops.is_convolution(node):
        return _convolution(labelled, node)
    if node.target in ops.ATTENTION:
        keys = labelled.shapes[node.args[1]][-2]  # type: ignore[index]
        ends: tuple[Any, ...] = (node.args[0], node)
        return [(_whole(labelled, end) * keys, _sizes(labelled, end)) for end in ends]
    if node.target in ops.LINEAR:
        reader: Any = ops.argument(node, 1, "weight")
        read = len(labelled.shapes[reader]) - 1
    elif node.target in ops.MATMUL | ops.ADD_MATMUL:
        reader = node.args[-2]
        read = len(labelled.shapes[reader]) - 1
    elif node.target in ops.EINSUM:
        return _einsum(labelled, node)
    elif node.target in ops.RECURRENT:
        return recurrent.costs(labelled, node)
    else:
        return []
    fixed, parts = _whole(labelled, node), _sizes(labelled, node)
    block = next((block for block in labelled.blocks[reader] if read in block.dims), None)
    if block is None:
        return [(fixed * labelled.shapes[reader][read], parts)]
    if len(block.dims) > 1:
        parts = [ids for ids in parts if ids.size * block.ids.shape[-1] != block.ids.size]
    return [(fixed, [*parts, labelled.channels.root[block.ids]])]


def _einsum(labelled: LabelledGraph, node: fx.Node) -> list[Product]:
    """Return the products of an einsum, operand by operand: each goes over all letters that both sides still have."""
    inputs, _, result = str(node.args[0]).replace(" ", "").partition("->")
    terms, operands = inputs.split(","), list(node.args[1])  # type: ignore[arg-type]
    if "." in inputs or len(terms) != len(operands):
        return []
    result = result or "".join(sorted(letter for letter in set(inputs) - {","} if inputs.count(letter) == 1))
    blocks = [
        (frozenset(term[dim] for dim in block.dims), block.ids)
        for term, operand in zip(terms, operands, strict=True)
        for block in labelled.blocks[operand]
    ]
    sizes = {
        letter: size
        for term, operand in zip(terms, operands, strict=True)
        for letter, size in zip(term, labelled.shapes[operand], strict=True)
    }
    costs: list[Product] = []
    left = set(terms[0])
    for place, term in enumerate(terms[1:], 1):
        needed = set(result).union(*terms[place + 1 :])
        over = {letter for letter in left | set(term) if letter in left & set(term) or letter in needed}
        parts: list[Ids] = []
        free = set(over)
        for letters, ids in blocks:
            if letters <= free:
                parts.append(labelled.channels.root[ids])
                free -= letters
        costs.append((math.prod(sizes[letter] for letter in free), parts))
        left = over & needed
    return costs


def _whole(labelled: LabelledGraph, node: fx.Node) -> int:
    """Return the size of a tensor along the dimensions that are in no block."""
    inside = {dim for block in labelled.blocks[node] for dim in block.dims}
    return math.prod(size for dim, size in enumerate(labelled.shapes[node]) if dim not in inside)


def _sizes(labelled: LabelledGraph, node: fx.Node) -> list[Ids]:
    return [labelled.channels.root[block.ids] for block in labelled.blocks[node]]


def _convolution(labelled: LabelledGraph, node: fx.Node) -> list[Product]:
    root, weight = labelled.channels.root, ops.argument(node, 1, "weight")
    shape = labelled.shapes[weight]
    reader = node if node.target in ops.CONVOLUTION else node.all_input_nodes[0]
    fixed = math.prod(shape[2:]) * math.prod(labelled.shapes[reader][2:]) * labelled.shapes[reader][0]
    if weight in labelled.grouped:
        return in_groups(labelled, weight, fixed)
    parts = [root[block.ids] for block in labelled.blocks[weight] if block.dims in ((0,), (1,))]
    inside = {block.dims[0] for block in labelled.blocks[weight]}
    return [(fixed * math.prod(shape[dim] for dim in (0, 1) if dim not in inside), parts)]


def in_groups(labelled: LabelledGraph, weight: fx.Node, fixed: int) -> list[Product]:
    """Return the outputs times the inputs of each group of a grouped convolution, all times a number."""
    root, across = labelled.channels.root, labelled.grouped[weight]
    per_group = root[labelled.blocks[weight][0].ids].reshape(len(across), -1)
    if across.shape[1] == 1:
        return [(fixed, [per_group])]
    return [(fixed, [outputs, inputs]) for outputs, inputs in zip(per_group, root[across], strict=True)]
