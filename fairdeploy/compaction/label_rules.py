"""How labels pass through each family of operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from fairdeploy.compaction import ops, recurrent
from fairdeploy.compaction.cells import Cell
from fairdeploy.compaction.graph_labels import INPUT, WHOLE, Blocks, LabelledGraph
from fairdeploy.compaction.labels import Block, Ids, ids_over
from fairdeploy.compaction.moves import keep_rectangular, moved
from fairdeploy.compaction.relate import Letter, Lettered, Operand, emit, mix, relate

Rule = Callable[[LabelledGraph, fx.Node], Blocks]


def follow(labelled: LabelledGraph, node: fx.Node) -> None:
    """Set the labels of a node's result and unite what the operation needs together."""
    if node not in labelled.shapes and node.target not in ops.RECURRENT:
        if isinstance(node.meta.get("val"), tuple | list):
            _unknown(labelled, node)
        return
    labelled.blocks[node] = _RULES.get(node.target, _unknown)(labelled, node)


def _unknown(labelled: LabelledGraph, node: fx.Node) -> Blocks:
    """Pin everything that an operation without a rule touches, and say its name."""
    culprit = node
    while culprit.target is ops.getitem and isinstance(culprit.args[0], fx.Node):
        culprit = culprit.args[0]
    return _pin_operands(labelled, node, f"{ops.title(culprit)} has no rule")


def _pin_operands(labelled: LabelledGraph, node: fx.Node, reason: str) -> Blocks:
    if reason.endswith("has no rule") and any(labelled.blocks.get(source) for source in node.all_input_nodes):
        labelled.unknown.setdefault(reason.removesuffix(" has no rule"))
    for source in node.all_input_nodes:
        for block in labelled.blocks.get(source, ()):
            labelled.labels.pin(block.ids, reason)
    return ()


def _meet(
    labelled: LabelledGraph,
    node: fx.Node,
    operands: Sequence[tuple[Any, Sequence[Letter]]],
    result: Sequence[Letter],
    stiff: Sequence[Letter] = (),
) -> Blocks:
    """Relate operands, given with a letter for each of their dimensions, and return the result's blocks."""
    lettered = [
        Operand.of(labelled.blocks[source], labelled.shapes[source], letters)
        for source, letters in operands
        if isinstance(source, fx.Node)
    ]
    given = any(isinstance(source, fx.Node) and source.op == "placeholder" for source, _ in operands)
    reason = INPUT if given else f"{ops.title(node)} mixes it"
    joined = relate(labelled.labels, lettered, frozenset(stiff), reason)
    return emit(labelled.labels, joined, result)


def _elementwise(labelled: LabelledGraph, node: fx.Node) -> Blocks:
    letters = range(len(labelled.shapes[node]))
    sources = [source for source in node.all_input_nodes if source in labelled.shapes]
    return _meet(labelled, node, [(source, letters) for source in sources], letters)


def _fill(labelled: LabelledGraph, node: fx.Node) -> Blocks:
    """Tensors made of one value: any part of them is as good as any other."""
    sizes = ops.argument(node, 0 if node.target not in ops.NEW else 1, "size")
    if not isinstance(sizes, list | tuple):
        return ()
    return tuple(
        Block((dim,), labelled.labels.fresh(size))
        for dim, size in enumerate(sizes)
        if isinstance(size, int) and size > 1
    )


def _channelwise(labelled: LabelledGraph, node: fx.Node) -> Blocks:
    """Batch norm, PReLU: every vector goes with dimension 1 of the input."""
    source, *vectors = (arg for arg in node.args if isinstance(arg, fx.Node))
    letters = range(len(labelled.shapes[source]))
    stiff: Sequence[Letter] = ()
    if node.target in ops.INSTANCE_NORM or (node.target in ops.BATCH_NORM and node.args[5]):
        stiff = [letter for letter in letters if letter > 1 or (letter == 0 and node.target in ops.BATCH_NORM)]
    return _meet(labelled, node, [(source, letters), *((vector, [1]) for vector in vectors)], letters, stiff)


def _layer_norm(labelled: LabelledGraph, node: fx.Node) -> Blocks:
    """Pin what is normalised, or let go whole slices of it; a wide norm lets single channels go."""
    source, sizes = ops.argument(node, 0, "input"), ops.argument(node, 1, "normalized_shape")
    letters = range(len(labelled.shapes[source]))
    normalised = letters[-len(sizes) :]
    vectors = [(arg, normalised) for arg in node.args[2:4] if isinstance(arg, fx.Node)]
    alone = len(normalised) == 1 and ids_over(labelled.blocks[source], letters[-1]) is not None
    wide = labelled.trace.wide_layer_norm and alone and node.target not in ops.RMS_NORM
    return _meet(labelled, node, [(source, letters), *vectors], letters, () if wide else normalised)


def _group_norm(labelled: LabelledGraph, node: fx.Node) -> Blocks:
    """Let the channels of a group stay or go together."""
    source, groups = ops.argument(node, 0, "input"), ops.argument(node, 1, "num_groups")
    letters = range(len(labelled.shapes[source]))
    vectors = [(arg, [1]) for arg in node.args[2:4] if isinstance(arg, fx.Node)]
    result = _meet(labelled, node, [(source, letters), *vectors], letters, letters[2:])
    for block in result:
        if 1 in block.dims:
            ids = block.ids.reshape(groups, -1)
            if block.dims != (1,) or len(ids) == 1:
                labelled.labels.pin(ids, f"{ops.title(node)} mixes it")
            else:
                labelled.labels.unite(np.broadcast_to(ids[:, :1], ids.shape), ids)
    return result


def _linear(labelled: LabelledGraph, node: fx.Node) -> Blocks:
    source, weight, bias = ops.weighted(node)  # type: ignore[misc]
    outer = list(range(len(labelled.shapes[source]) - 1))
    if len(labelled.shapes[weight]) == 1:
        return _meet(labelled, node, [(source, [*outer, "in"]), (weight, ["in"])], outer)
    operands: list[tuple[Any, Sequence[Letter]]] = [(source, [*outer, "in"]), (weight, ["out", "in"])]
    operands.append((bias, ["out"]))
    return _meet(labelled, node, operands, [*outer, "out"])


def _convolution(labelled: LabelledGraph, node: fx.Node) -> Blocks:
    source, weight, bias = ops.weighted(node)  # type: ignore[misc]
    rank = len(labelled.shapes[weight])
    groups = ops.groups_of(node)
    if len(labelled.shapes[source]) != rank or not isinstance(groups, int):
        return _pin_operands(labelled, node, f"{ops.title(node)} with computed groups has no rule")
    kernel = [f"k{dim}" for dim in range(rank - 2)]
    space, result = [f"x{dim}" for dim in range(rank - 2)], [f"y{dim}" for dim in range(rank - 2)]
    for block in labelled.blocks[weight]:
        if block.dims[0] > 1:
            labelled.labels.pin(block.ids, WHOLE)
    if groups > 1:
        return _grouped(labelled, node, groups)
    own = ["out", "in"] if node.target in ops.CONVOLUTION else ["in", "out"]
    operands = [(source, ["batch", "in", *space]), (weight, [*own, *kernel]), (bias, ["out"])]
    return _meet(labelled, node, operands, ["batch", "out", *result], [*kernel, *space])


def _grouped(labelled: LabelledGraph, node: fx.Node, groups: int) -> Blocks:
    """Contract input channels within each group; groups stay while an input or an output of theirs does.

    The weight's dimension of inputs [i] stands for other channels in every group, so its labels [groups, i] are
    kept beside the graph's blocks, in `LabelledGraph.grouped`.
    """
    labels = labelled.labels
    source, weight, bias = ops.weighted(node)  # type: ignore[misc]
    transposed = node.target in ops.TRANSPOSED
    reason = f"{ops.title(node)} mixes it"
    for block in labelled.blocks[source]:
        if block.dims != (1,):
            labels.pin(block.ids, reason)
    inputs = ids_over(labelled.blocks[source], 1)
    first, second = ids_over(labelled.blocks[weight], 0), ids_over(labelled.blocks[weight], 1)
    shape = labelled.shapes[weight]
    if first is None or (transposed and inputs is None) or not labelled.is_stored_once(weight):
        return _pin_operands(labelled, node, f"{ops.title(node)} with a computed weight or input has no rule")
    if second is not None:
        labels.pin(second, WHOLE)
    per_group = first.reshape(groups, -1)
    if transposed:
        assert inputs is not None
        labels.unite(inputs, first)
        across = labels.fresh(groups, shape[1], owner=(str(weight.target), 1))
    elif inputs is None:
        across = labels.fresh(groups, shape[1])
        labels.pin(across, reason)
    else:
        across = inputs.reshape(groups, -1)
    if across.shape[1] == 1:
        labels.unite(np.broadcast_to(across, per_group.shape), per_group)
    labels.unite(labels.rows(per_group), labels.rows(across))
    labelled.grouped[weight] = across
    outputs = across.ravel() if transposed else first
    labelled.produced.append(outputs)
    if isinstance(bias, fx.Node):
        for block in labelled.blocks[bias]:
            labels.unite(block.ids, outputs)
    return (Block((1,), outputs),)


def _matmul(labelled: LabelledGraph, node: fx.Node) -> Blocks:
    first, second = ops.factors(node)
    shapes = [labelled.shapes[operand] for operand in (first, second)]
    batch = list(range(max(len(shape) for shape in shapes) - 2, 0, -1))
    left = [*batch, "rows", "in"] if len(shapes[0]) > 1 else ["in"]
    right = [*batch, "in", "columns"] if len(shapes[1]) > 1 else ["in"]
    kept = ([*batch] if max(map(len, shapes)) > 2 else []) + ["rows"] * (len(shapes[0]) > 1)
    result = kept + ["columns"] * (len(shapes[1]) > 1)
    operands: list[tuple[Any, Sequence[Letter]]] = [(first, left), (second, right)]
    if node.target in ops.ADD_MATMUL:
        operands.insert(0, (node.args[0], result))
    return _meet(labelled, node, operands, result)


def _attention(labelled: LabelledGraph, node: fx.Node) -> Blocks:
    """Contract queries with keys; what is left of that, heads, meets the values."""
    query, key, value = node.args[:3]
    outer: list[Letter] = list(range(len(labelled.shapes[node]) - 2))
    scores: list[Letter] = [*outer, "to", "from"]
    operands = [(query, [*outer, "to", "dim"]), (key, [*outer, "from", "dim"])]
    operands.append((ops.argument(node, 3, "attn_mask"), scores))
    met = _meet(labelled, node, operands, scores, ["from"])
    weights = Operand.of(met, labelled.shapes[node][:-1], [*outer, "to"])
    values = Operand.of(labelled.blocks[value], labelled.shapes[value], [*outer, "from", "out"])  # type: ignore[index]
    joined = relate(labelled.labels, [weights, values], frozenset({"from"}), f"{ops.title(node)} mixes it")
    return emit(labelled.labels, joined, [*outer, "to", "out"])


def _einsum(labelled: LabelledGraph, node: fx.Node) -> Blocks:
    equation, operands = str(node.args[0]).replace(" ", ""), node.args[1]
    inputs, arrow, result = equation.partition("->")
    terms = inputs.split(",")
    letters = "".join(terms)
    if "." in equation or any(len(set(term)) < len(term) for term in terms):
        return _pin_operands(labelled, node, f"{ops.title(node)} '{equation}' has no rule")
    if not arrow:
        result = "".join(sorted(letter for letter in set(letters) if letters.count(letter) == 1))
    return _meet(labelled, node, list(zip(operands, terms, strict=True)), result)  # type: ignore[arg-type]


def _pool(labelled: LabelledGraph, node: fx.Node) -> Blocks:
    """Pass batch and channels, mix the rest."""
    source = node.all_input_nodes[0]
    if not len(labelled.shapes[source]) == len(labelled.shapes[node]) == ops.places(node) + 2:
        return _unknown(labelled, node)
    letters = range(len(labelled.shapes[source]))
    return _meet(labelled, node, [(source, letters)], letters, letters[2:])


def _reduce(labelled: LabelledGraph, node: fx.Node) -> Blocks:
    """Mix what is reduced, keep the rest; a sum or mean contracts."""
    source = node.all_input_nodes[0]
    rank = len(labelled.shapes[source])
    reduced = ops.dims_of(node, rank)
    dropped = len(labelled.shapes[node]) < rank
    result = [None if dim in reduced else dim for dim in range(rank) if not (dropped and dim in reduced)]
    adds_up = node.target in ops.TOTAL and source.meta["val"].is_floating_point()  # numbers may be counts of zeros
    stiff = () if adds_up else tuple(reduced)
    return _meet(labelled, node, [(source, range(rank))], result, stiff)


def _along(labelled: LabelledGraph, node: fx.Node) -> Blocks:
    """Softmax, cumulative sums: mix along one dimension."""
    source = node.all_input_nodes[0]
    letters = range(len(labelled.shapes[source]))
    return _meet(labelled, node, [(source, letters)], letters, tuple(ops.dims_of(node, len(letters))))


def _col2im(labelled: LabelledGraph, node: fx.Node) -> Blocks:
    """Let all places of a channel stay or go together."""
    source = node.all_input_nodes[0]
    channels = labelled.shapes[node][1]
    ids = ids_over(labelled.blocks[source], 1)
    if ids is None or len(labelled.shapes[source]) != 3:
        return _pin_operands(labelled, node, f"{ops.title(node)} mixes it")
    places = ids.reshape(channels, -1)
    labelled.labels.unite(np.broadcast_to(places[:, :1], places.shape), places)
    return (Block((1,), places[:, 0]),)


def _concatenate(labelled: LabelledGraph, node: fx.Node) -> Blocks:
    """Join labels along one dimension, unite them along the others."""
    labels, parts = labelled.labels, ops.parts(node)
    shape = labelled.shapes[node]
    along = int(ops.argument(node, 1, "dim", 0)) % len(shape)
    sizes = [labelled.shapes[part][along] for part in parts]
    own = [next((block for block in labelled.blocks[part] if along in block.dims), None) for part in parts]
    dims = max((block.dims for block in own if block), key=len, default=())
    if any(block is None or block.dims != dims for block in own):
        dims = dims and (along,)
    pieces: list[Ids] = []
    others: list[Operand] = []
    for part, block, size in zip(parts, own, sizes, strict=True):
        letters = tuple(None if dim in dims or n == 1 else dim for dim, n in enumerate(labelled.shapes[part]))
        others.append(Operand(tuple(other for other in labelled.blocks[part] if other is not block), letters))
        if block is None:
            pieces.append(labels.fresh(size))
            labels.pin(pieces[-1], WHOLE if labelled.is_constant(part) else f"{ops.title(node)} joins it")
        else:
            softened = mix(labels, Lettered(block.dims, block.ids), frozenset(block.dims).difference(dims), "")
            assert softened is not None
            pieces.append(softened.ids)
    joined = relate(labels, others, frozenset(), f"{ops.title(node)} mixes it")
    blocks = emit(labels, joined, range(len(shape)))
    if not dims:
        return blocks
    axis = dims.index(along)
    if len(dims) > 1:
        flat = [np.moveaxis(piece, axis, -1).reshape(-1, piece.shape[axis]) for piece in pieces]
        for piece in flat[1:]:
            labels.unite(labels.rows(flat[0]), labels.rows(piece))
    result = np.concatenate(pieces, axis)
    keep_rectangular(labels, result)
    return (*blocks, Block(dims, result))


def _embedding(labelled: LabelledGraph, node: fx.Node) -> Blocks:
    weight, index = node.args[:2]
    outer = list(range(len(labelled.shapes[index])))  # type: ignore[index]
    operands = [(weight, ["word", "dim"])]
    return _meet(labelled, node, operands, [*outer, "dim"], ["word"])


def _index(labelled: LabelledGraph, node: fx.Node) -> Blocks:
    """Pick by constant numbers: a move. Pick by numbers that depend on the input: what is indexed stays whole."""
    source = node.args[0]
    indices = [other for other in node.all_input_nodes if other is not source]
    for index in indices:
        for block in labelled.blocks[index]:
            labelled.labels.pin(block.ids, WHOLE)
    if all(labelled.is_constant(index) for index in indices):
        return _move(labelled, node)
    return _pin_operands(labelled, node, f"{ops.title(node)} picks by computed numbers")


def _move(labelled: LabelledGraph, node: fx.Node) -> Blocks:
    source = node.all_input_nodes[0]
    if not labelled.blocks[source]:
        return ()
    return moved(
        labelled.labels,
        labelled.blocks[source],
        labelled.shapes[source],
        lambda numbers: run_on(labelled.values, node, source, numbers),
        f"{ops.title(node)} picks it out",
    )


def _recurrent(labelled: LabelledGraph, node: fx.Node) -> Blocks:
    blocks = recurrent.labels_of(labelled, node)
    return _unknown(labelled, node) if blocks is None else blocks


def _item(labelled: LabelledGraph, node: fx.Node) -> Blocks:
    call: Any = node.args[0]
    return labelled.blocks[call] if Cell.of(call) else _unknown(labelled, node)


def run_on(values: dict[fx.Node, Any], node: fx.Node, source: fx.Node, replacement: Tensor) -> Tensor:
    """Run a node's operation on another tensor in the place of `source`."""

    def value(other: fx.Node) -> Any:
        return replacement if other is source else values[other]

    function: Any = torch.reshape if node.target in ops.VIEW else node.target
    args, kwargs = fx.map_arg(node.args, value), fx.map_arg(node.kwargs, value)
    if node.target in ops.PAD and ops.pads_constant(node):
        args, kwargs = args[:2], {}
    result: Tensor = function(*args, **kwargs)
    return result


_RULES: dict[Any, Rule] = {
    **dict.fromkeys(ops.ELEMENTWISE, _elementwise),
    **dict.fromkeys(ops.CREATE, lambda labelled, node: ()),
    **dict.fromkeys(ops.FILLED, _fill),
    **dict.fromkeys(ops.BATCH_NORM | ops.INSTANCE_NORM | ops.PRELU, _channelwise),
    **dict.fromkeys(ops.LAYER_NORM, _layer_norm),
    **dict.fromkeys(ops.GROUP_NORM, _group_norm),
    **dict.fromkeys(ops.LINEAR, _linear),
    **dict.fromkeys((*ops.CONVOLUTION, *ops.TRANSPOSED), _convolution),
    **dict.fromkeys(ops.MATMUL | ops.ADD_MATMUL, _matmul),
    **dict.fromkeys(ops.ATTENTION, _attention),
    **dict.fromkeys(ops.EINSUM, _einsum),
    **dict.fromkeys(ops.POOL, _pool),
    **dict.fromkeys(ops.REDUCE, _reduce),
    **dict.fromkeys(ops.ALONG, _along),
    **dict.fromkeys(ops.COL2IM, _col2im),
    **dict.fromkeys(ops.CONCATENATE, _concatenate),
    **dict.fromkeys(ops.EMBEDDING, _embedding),
    **dict.fromkeys(ops.INDEX, _index),
    **dict.fromkeys(ops.MOVE, _move),
    **dict.fromkeys(ops.RECURRENT, _recurrent),
    ops.getitem: _item,
}
