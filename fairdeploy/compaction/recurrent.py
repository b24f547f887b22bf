"""LSTM, GRU and plain recurrent layers: a hidden unit is a row of every gate and a column of what is fed back.

A call (`cells`) gives several tensors; the analyses let the call itself stand for its *state* [batch, time, unit]
(time first without ``batch_first``), from which they are read.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx
from torch.nn import functional

from fairdeploy.compaction import ops
from fairdeploy.compaction.cells import Cell
from fairdeploy.compaction.graph_labels import INPUT, Blocks, LabelledGraph
from fairdeploy.compaction.labels import Block, Ids, ids_over
from fairdeploy.compaction.relate import Operand, relate

if TYPE_CHECKING:
    from fairdeploy.compaction.folds import Folds, _At
    from fairdeploy.compaction.influence import Influences, Of

GIVEN_STATE = "its initial state is not made of channels"
UNEVEN_INPUT = "its constant differs from step to step, and a recurrent layer's bias does not"
NO_BIAS = "it holds a constant, and the recurrent layer that reads it has no bias of its own to take it"
FED_BACK = "it holds a constant that is fed back to units that stay"


def labels_of(labelled: LabelledGraph, node: fx.Node) -> Blocks | None:
    """Return the labels of a call's state, uniting those of a unit; None where there is no rule."""
    cell = Cell.of(node)
    rows = [ids_over(labelled.blocks[parameter], 0) for parameter in cell.parameters] if cell else []
    if cell is None or any(ids is None for ids in rows):
        return None
    labels = labelled.labels
    by_gate = [ids.reshape(cell.gates, -1) for ids in rows if ids is not None]
    units = by_gate[0][0]
    for ids in by_gate:
        for gate in ids:
            labels.unite(units, gate)
    labelled.produced.append(units)
    inputs = [_operand(labelled, cell.source, "bti" if cell.time else "tbi"), _operand(labelled, cell.read, "gi")]
    reason = f"{ops.title(node)} mixes it" if labelled.blocks[cell.source] else INPUT
    relate(labels, inputs, frozenset("t"), reason)
    states = [_operand(labelled, state, "lbu") for state in cell.states]
    relate(labels, [*states, _operand(labelled, cell.fed_back, "gu")], frozenset(), GIVEN_STATE)
    if len(units) == 1:
        return ()
    columns = ids_over(labelled.blocks[cell.fed_back], 1)
    if columns is None:
        return None
    labels.unite(units, columns)
    return (Block((2,), units),)


def _operand(labelled: LabelledGraph, source: fx.Node, letters: str) -> Operand:
    return Operand.of(labelled.blocks[source], labelled.shapes[source], letters)


def influence_on_state(at: Influences, node: fx.Node, of: Of) -> Tensor:
    """Let a unit depend on what any of its gates reads, and on what it and others were at earlier steps."""
    cell = Cell.of(node)
    assert cell is not None
    gates = at.product(functional.linear, cell.source, cell.read, of)
    read = gates.reshape(*gates.shape[:2], cell.gates, -1).sum(2)
    for rows in (of(cell.fed_back).sum(1), *map(of, cell.biases)):
        read = read + rows.reshape(cell.gates, -1).sum(0)
    initial = torch.stack([of(state).transpose(0, cell.time) for state in cell.states]).sum(0)
    return _carried(at, cell, torch.cat([initial, read], cell.time)).narrow(cell.time, 1, read.shape[cell.time])


def influence_on_item(at: Influences, node: fx.Node, of: Of) -> Tensor:
    """Read the sequence, or what is left after the last step, from the state."""
    cell = Cell.of(node.args[0])
    assert cell is not None
    state = _carried(at, cell, of(node.args[0]))  # type: ignore[arg-type]
    return state if node.args[1] == 0 else state.narrow(cell.time, -1, 1).transpose(0, cell.time)


def _carried(at: Influences, cell: Cell, read: Tensor) -> Tensor:
    """Return what reaches each unit [step, unit] from what units `read` at that step or an earlier one.

    A unit whose candidate is zero whatever happens, and which starts from zero, stays zero: nothing reaches it.
    """
    units, steps = read.shape[2], read.shape[cell.time]
    gates = [at.nonzero(parameter).reshape(cell.gates, units, -1) for parameter in cell.parameters]
    moved = torch.cat([gate[cell.candidate] for gate in gates], 1).any(1)
    started = torch.cat([at.nonzero(state).reshape(-1, units) for state in cell.states]).any(0)
    awake = (moved | started).float()
    one_step = torch.eye(units) + gates[1].sum(0) * awake[:, None]
    so_far = (read * awake).cumsum(cell.time)
    before, reach = torch.zeros(units, units), torch.eye(units)
    total = torch.zeros(())
    for late in range(steps):
        newly = functional.linear(so_far.narrow(cell.time, 0, steps - late), reach - before)
        none = torch.zeros(()).expand([late if dim == cell.time else size for dim, size in enumerate(read.shape)])
        total = total + torch.cat([none, newly], cell.time)
        before, reach = reach, (one_step @ reach > 0).float()
        if torch.equal(before, reach):
            break
    return total


def fold(folds: Folds, at: _At, node: fx.Node) -> None:
    """Take constants of removed inputs into the bias; keep what cannot be taken, and units that feed others."""
    cell = Cell.of(node)
    rows = ids_over(at.labelled.blocks[cell.read], 0) if cell else None
    if cell is None or rows is None:
        return
    kept = torch.from_numpy(at.stays[rows])
    gone = at.gone(cell.source, 2)
    if gone is not None:
        _fold_inputs(folds, at, cell, gone, at.values[cell.read] * kept[:, None])
    columns = ids_over(at.labelled.blocks[cell.fed_back], 1)
    if columns is not None:
        feeds = (at.values[cell.fed_back] * kept[:, None]).any(0)
        for value, taint in (
            (at.values[node][0], at.known.taint[node]),
            (at.values[cell.states[0]], at.known.taint[cell.states[0]]),
        ):
            stuck = feeds & ((value != 0) & (taint == 0)).flatten(0, 1).any(0)
            _keep(folds, at, columns, stuck, FED_BACK)


def _fold_inputs(folds: Folds, at: _At, cell: Cell, gone: Tensor, weight: Tensor) -> None:
    lost = (gone * weight.any(0)).flatten(0, 1)
    takes = bool(cell.biases) and at.labelled.is_stored_once(cell.biases[0])
    slack = 1e-13 * lost.abs().amax()
    stuck = ((lost - lost[0]).abs() > slack).any(0) if takes else lost.any(0)
    for block in at.labelled.blocks[cell.source]:
        if 2 in block.dims:
            ids = block.ids.swapaxes(0, block.dims.index(2)).reshape(block.ids.shape[block.dims.index(2)], -1)
            for across in ids.T:
                _keep(folds, at, across, stuck, UNEVEN_INPUT if takes else NO_BIAS)
    constant = weight @ torch.where(stuck, 0.0, lost[0])
    if takes and bool(constant.any()):
        folds.weights[cell.biases[0]] = at.values[cell.biases[0]] + constant


def _keep(folds: Folds, at: _At, ids: Ids, stuck: Tensor, why: str) -> None:
    lost = ids[stuck.numpy() & ~at.stays[ids]]
    folds.unfoldable.update(dict.fromkeys(lost.tolist(), why))


def costs(labelled: LabelledGraph, node: fx.Node) -> list[tuple[int, list[Ids]]]:
    """Return the multiply-accumulates of a call as numbers times the sizes of blocks of channels (roots)."""
    cell = Cell.of(node)
    if cell is None:
        return []
    root = labelled.channels.root
    places = cell.gates * math.prod(labelled.shapes[cell.source][:2])
    units = [root[block.ids] for block in labelled.blocks[node]]
    found = []
    for weight in (cell.read, cell.fed_back):
        columns = ids_over(labelled.blocks[weight], 1)
        rows = 1 if units else labelled.shapes[weight][0] // cell.gates
        whole = 1 if columns is not None else labelled.shapes[weight][1]
        found.append((places * rows * whole, [*units, *([] if columns is None else [root[columns]])]))
    return found
