"""What removed constants add to the operations that read them.

Where an operation contracts channels (a convolution, a linear layer, a matrix product, a sum), the removed ones
contributed a constant: the operation itself, run on their values alone, says which. It goes into the bias where it
is the same at every place. At a border that is padded with zeros it is not: then one constant channel stays and
*carries* the others, its weights taking theirs in proportion; or else the constant is added as a map of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from fairdeploy.compaction import ops, recurrent
from fairdeploy.compaction.closure import Kept
from fairdeploy.compaction.dependence import Dependence
from fairdeploy.compaction.graph_labels import LabelledGraph
from fairdeploy.compaction.labels import Block, ids_over
from fairdeploy.compaction.moves import spread

CARRIER = "it carries the constants of removed channels to a border that is padded with zeros"


@dataclass
class Folds:
    """The constants of removed channels, and where they go.

    Attributes
    ----------
    added : dict of Node to Tensor
        What is added to the result of an operation: size 1 along dimensions where it is the same.
    weights : dict of Node to Tensor
        New values of convolutions' weights, in their old shape, where a channel carries others.
    carriers, unfoldable : dict of int to str
        Labels that have to stay for that, with the reason.
    """

    added: dict[fx.Node, Tensor] = field(default_factory=dict)
    weights: dict[fx.Node, Tensor] = field(default_factory=dict)
    carriers: dict[int, str] = field(default_factory=dict)
    unfoldable: dict[int, str] = field(default_factory=dict)

    @staticmethod
    def of(
        labelled: LabelledGraph, known: Dependence, values: dict[fx.Node, Any], surviving: list[fx.Node], stays: Kept
    ) -> Folds:
        """Work out the constants that every operation loses when only what `stays` [labels] is kept."""
        folds = Folds()
        at = _At(labelled, known, values, stays)
        for node in surviving:
            if node.target in ops.LINEAR or ops.is_convolution(node):
                _weighted(folds, at, node)
            elif node.target in ops.MATMUL | ops.ADD_MATMUL:
                first, second = node.args[-2:]
                gone = at.gone(first, len(labelled.shapes[first]) - 1)  # type: ignore[index]
                if gone is not None:
                    scale: Any = node.kwargs.get("alpha", 1)
                    _add(folds, at, node, torch.matmul(gone, values[second]) * scale)  # type: ignore[index]
            elif node.target in ops.EINSUM:
                _einsum(folds, at, node)
            elif node.target in ops.TOTAL:
                _total(folds, at, node)
            elif node.target in ops.ATTENTION:
                _attention(folds, at, node)
            elif node.target in ops.RECURRENT:
                recurrent.fold(folds, at, node)
        return folds


@dataclass(frozen=True)
class _At:
    labelled: LabelledGraph
    known: Dependence
    values: dict[fx.Node, Any]
    stays: Kept

    def gone(self, source: Any, *dims: int) -> Tensor | None:
        """Return the constants of a tensor that are removed along contracted dimensions, all else zero."""
        blocks = [block for block in self.labelled.blocks[source] if set(block.dims) & set(dims)]
        if all(self.stays[block.ids].all() for block in blocks):
            return None
        value: Tensor = self.values[source]
        removed = torch.zeros(value.shape, dtype=torch.bool)
        for block in blocks:
            lost = Block(block.dims, (~self.stays[block.ids]).astype(np.int64))
            removed |= spread(lost, tuple(value.shape)) > 0
        constant = torch.where(removed & (self.known.taint[source] == 0), value, torch.zeros((), dtype=value.dtype))
        return constant if bool(constant.any()) else None


def _add(folds: Folds, at: _At, node: fx.Node, constant: Tensor) -> None:
    """Note what is added to a node, where anybody uses it."""
    constant = torch.where(at.known.live[node] > 0, constant, torch.zeros((), dtype=constant.dtype))
    if bool(constant.any()):
        folds.added[node] = collapsed(constant, at.known.live[node] > 0)


def collapsed(constant: Tensor, used: Tensor) -> Tensor:
    """Return a constant with size 1 along dimensions where it is the same wherever it is used."""
    slack = 1e-13 * constant.abs().amax()
    for dim in range(constant.ndim):
        highest = constant.masked_fill(~used, -torch.inf).amax(dim, keepdim=True)
        lowest = constant.masked_fill(~used, torch.inf).amin(dim, keepdim=True)
        if bool((highest - lowest <= slack).all()):
            used = used.any(dim, keepdim=True)
            constant = torch.where(used, highest, torch.zeros((), dtype=constant.dtype))
    return constant


def _weighted(folds: Folds, at: _At, node: fx.Node) -> None:
    source, weight, _ = ops.weighted(node)  # type: ignore[misc]
    if not ops.is_convolution(node):
        gone = at.gone(source, len(at.labelled.shapes[source]) - 1)
        if gone is not None:
            _add(folds, at, node, torch.nn.functional.linear(gone, at.values[weight]))
        return
    gone = at.gone(source, 1)
    if gone is None:
        return
    rest = {name: value for name, value in node.kwargs.items() if name not in ("input", "weight", "bias")}

    def convolved(x: Tensor, w: Tensor) -> Tensor:
        result: Tensor = ops.convolve(node)(x, w, None, *node.args[3:], **rest)
        return result

    constant = convolved(gone[:1], at.values[weight]).expand(at.labelled.shapes[node])
    everywhere = collapsed(constant, at.known.live[node] > 0).shape[2:].numel() == 1
    if not everywhere and ops.groups_of(node) == 1:
        carrier = _carrier(folds, at, node, source, gone)
        if carrier is None:
            return
        if carrier >= 0:
            folds.weights[weight] = _carried(at, node, source, weight, gone, carrier)
            return
    _add(folds, at, node, constant)


def _uniform(at: _At, source: fx.Node) -> tuple[Tensor, Tensor]:
    """Return for each channel [c] of a tensor whether it is one constant everywhere, and that constant."""
    value = at.values[source].movedim(1, 0).flatten(1)
    untainted = (at.known.taint[source].movedim(1, 0).flatten(1) == 0).all(1)
    return untainted & (value == value[:, :1]).all(1), value[:, 0]


def _carrier(folds: Folds, at: _At, node: fx.Node, source: fx.Node, gone: Tensor) -> int | None:
    """Return the channel that carries the removed ones (-1: none can), or None while it has to be kept first."""
    ids = ids_over(at.labelled.blocks[source], 1)
    weight = node.args[1]
    if ids is None or not at.labelled.is_stored_once(weight):  # type: ignore[arg-type]
        return -1
    uniform, constant = _uniform(at, source)
    lost = torch.from_numpy(~at.stays[ids])
    lively = gone.movedim(1, 0).flatten(1).any(1)
    if not bool(uniform[lively].all()):
        return -1
    ready = uniform & ~lost & (constant != 0)
    if bool(ready.any()):
        return int(torch.where(ready, constant.abs(), 0.0).argmax())
    root = at.labelled.channels.root
    chosen = torch.from_numpy(np.isin(root[ids], root[list(folds.carriers)]))
    if bool((chosen & uniform & (constant != 0)).any()):
        return None
    best = int(torch.where(lost & uniform, constant.abs(), 0.0).argmax())
    folds.carriers[int(ids[best])] = CARRIER
    return None


def _carried(at: _At, node: fx.Node, source: fx.Node, weight: fx.Node, gone: Tensor, carrier: int) -> Tensor:
    """Return a weight whose carrier's slice stands for those of the removed channels too."""
    _, constant = _uniform(at, source)
    lost = gone.movedim(1, 0).flatten(1).any(1)
    dim = 1 if node.target in ops.CONVOLUTION else 0
    new: Tensor = at.values[weight].clone()
    share = torch.where(lost, constant / constant[carrier], 0.0)
    new.select(dim, carrier).add_(torch.tensordot(new, share, ([dim], [0])))
    return new


def _einsum(folds: Folds, at: _At, node: fx.Node) -> None:
    inputs, _, result = str(node.args[0]).replace(" ", "").partition("->")
    terms, operands = inputs.split(","), list(node.args[1])  # type: ignore[arg-type]
    dims = [[dim for dim, letter in enumerate(term) if letter not in result] for term in terms]
    shared = len(terms) == 2 and {terms[0][dim] for dim in dims[0]} == {terms[1][dim] for dim in dims[1]}
    gone = at.gone(operands[0], *dims[0])
    if shared and gone is not None:
        _add(folds, at, node, torch.einsum(str(node.args[0]), [gone, at.values[operands[1]]]))
    elif not shared:
        for operand, contracted in zip(operands, dims, strict=True):
            if at.gone(operand, *contracted) is not None:
                _keep(folds, at, operand, contracted, f"{ops.title(node)} '{node.args[0]}' adds its constant up")


def _keep(folds: Folds, at: _At, source: fx.Node, dims: Sequence[int], why: str) -> None:
    """Let the removed channels of some dimensions stay."""
    for block in at.labelled.blocks[source]:
        if set(block.dims) & set(dims):
            folds.unfoldable.update(dict.fromkeys(block.ids[~at.stays[block.ids]].ravel().tolist(), why))


def _total(folds: Folds, at: _At, node: fx.Node) -> None:
    source = node.all_input_nodes[0]
    dims = ops.dims_of(node, len(at.labelled.shapes[source]))
    gone = at.gone(source, *dims)
    if gone is not None and not gone.is_floating_point():
        _keep(folds, at, source, sorted(dims), f"{ops.title(node)} counts it")
    elif gone is not None:
        add_up = torch.mean if node.target in ops.MEAN else torch.sum
        _add(folds, at, node, add_up(gone, sorted(dims)).reshape(at.labelled.shapes[node]))


def _attention(folds: Folds, at: _At, node: fx.Node) -> None:
    """Scores that lose the same everywhere give the same weights; others have to stay."""
    query, key = node.args[:2]
    last = len(at.labelled.shapes[query]) - 1  # type: ignore[index]
    gone = at.gone(query, last)
    if gone is None:
        return
    lost = gone @ at.values[key].transpose(-1, -2)  # type: ignore[index]
    if bool(((lost - lost[..., :1]).abs() <= 1e-13 * lost.abs().amax()).all()):
        return
    why = f"{ops.title(node)} '{node.name}' would lose a constant that differs from place to place"
    _keep(folds, at, query, [last], why)  # type: ignore[arg-type]
