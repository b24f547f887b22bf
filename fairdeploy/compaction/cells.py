"""Recurrent layers as calls of one layer in one direction, so that every rule is about one call.

A layer that runs backwards is the same call between two flips of time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from fairdeploy.compaction import ops
from fairdeploy.compaction.ops import aten
from fairdeploy.compaction.shapes import call


@dataclass(frozen=True)
class Cell:
    """A call of one recurrent layer in one direction, without projections.

    Attributes
    ----------
    source : Node
        [batch, time, input], or time first.
    time : int
        Its dimension of time.
    states : tuple of Node [1, batch, unit]
        The initial hidden state; that of an LSTM's memory.
    read, fed_back : Node [gates * unit, input], [gates * unit, unit]
    biases : tuple of Node [gates * unit]
        What is added to either product; or none.
    gates : int
    """

    source: fx.Node
    time: int
    states: tuple[fx.Node, ...]
    read: fx.Node
    fed_back: fx.Node
    biases: tuple[fx.Node, ...]
    gates: int

    @staticmethod
    def of(node: Any) -> Cell | None:
        """Return what a node calls if it is such a call."""
        if not isinstance(node, fx.Node) or node.target not in ops.RECURRENT:
            return None
        arguments: Any = node.args
        source, states, weights, _, layers, _, _, both_ways, batch_first = arguments
        if layers != 1 or both_ways or len(weights) not in (2, 4):
            return None
        read, fed_back, *biases = weights
        gates = ops.RECURRENT[node.target]
        return Cell(source, int(batch_first), _several(states), read, fed_back, tuple(biases), gates)

    @property
    def parameters(self) -> tuple[fx.Node, ...]:
        """All that has a row for each unit of each gate."""
        return (self.read, self.fed_back, *self.biases)

    @property
    def candidate(self) -> int:
        """The gate that alone can make a state other than zero: the others choose between it and the old one."""
        return min(self.gates - 1, 2)


def _several(states: Any) -> tuple[Any, ...]:
    return tuple(states) if isinstance(states, list | tuple) else (states,)


def split_layers(graph: fx.Graph) -> None:
    """Rewrite recurrent layers, stacked or in both directions, as calls of one layer in one direction."""
    for node in list(graph.nodes):
        if node.target in ops.RECURRENT:
            with graph.inserting_before(node):
                _split(graph, node)


def _split(graph: fx.Graph, node: fx.Node) -> None:
    arguments: Any = node.args
    x, states, weights, biased, layers, dropout, train, both_ways, batch_first = arguments
    per_call, calls = 4 if biased else 2, layers * (2 if both_ways else 1)
    if len(weights) != per_call * calls:
        return
    time = [int(batch_first)]
    sequences: list[fx.Node] = []
    last: list[list[fx.Node]] = []
    for number in range(calls):
        if last and not sequences and train and dropout:
            x = call(graph, aten.dropout.default, (x, dropout, True))
        backwards = bool(both_ways and number % 2)
        initial = [_initial(graph, state, number, calls) for state in _several(states)]
        own = weights[per_call * number : per_call * (number + 1)]
        read = call(graph, aten.flip.default, (x, time)) if backwards else x
        first = initial if isinstance(states, list | tuple) else initial[0]
        target: Any = node.target
        layer = graph.call_function(target, (read, first, own, biased, 1, 0.0, False, False, batch_first))
        x_value, state_values = x.meta["val"], [state.meta["val"] for state in initial]
        layer.meta["val"] = (x_value.new_empty((*x_value.shape[:2], state_values[0].shape[-1])), *state_values)
        sequence, *ends = (call(graph, ops.getitem, (layer, place)) for place in range(1 + len(initial)))
        sequences.append(call(graph, aten.flip.default, (sequence, time)) if backwards else sequence)
        last.append(ends)
        if not both_ways or backwards:
            x = call(graph, aten.cat.default, (sequences, 2)) if both_ways else sequences[0]
            sequences = []
    for item in list(node.users):
        place: Any = item.args[1]
        if place == 0:
            item.replace_all_uses_with(x)
        else:
            _replace_states(graph, item, [ends[place - 1] for ends in last])
        graph.erase_node(item)
    graph.erase_node(node)


def _initial(graph: fx.Graph, state: fx.Node, number: int, calls: int) -> fx.Node:
    """Return the initial state of one call; one that is filled is its own, not coupled with the others'."""
    if state.target in ops.FILLED:
        place, name = (1, "size") if state.target in ops.NEW else (0, "size")
        own = graph.node_copy(state)
        own.args, own.kwargs = ops.with_argument(state, place, name, [1, *ops.argument(state, place, name)[1:]])
        own.meta["val"] = state.meta["val"][:1]
        return own
    return state if calls == 1 else call(graph, aten.slice.Tensor, (state, 0, number, number + 1))


def _replace_states(graph: fx.Graph, item: fx.Node, parts: list[fx.Node]) -> None:
    """Let what reads the state of one layer read it from there, everything else all of them joined."""
    for user in list(item.users):
        arguments: Any = user.args
        if user.target in ops.SELECT and arguments[1] == 0:
            user.args = (parts[arguments[2]], 0, 0)
    if item.users:
        item.replace_all_uses_with(parts[0] if len(parts) == 1 else call(graph, aten.cat.default, (parts, 0)))
