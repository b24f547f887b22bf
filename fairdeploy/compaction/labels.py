"""Which channels go together: labels on every dimension of every parameter, united along the graph.

Every index of every parameter dimension gets a label of its own. Labels are carried through the graph, dimension
by dimension, and united where an operation needs two of them to stay or go together. What must stay whatever
happens (inputs, outputs, whatever an unknown operation touches) is pinned, with the reason.

A dimension of a tensor carries an int array: a label (>= 0) for each index, or a reason (< 0) why that index is
pinned. Labels united form a channel; the smallest one names it, so that a channel is named after its producer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, fx

from fairdeploy.compaction.trace import Trace

Ids = NDArray[np.int64]
Dims = tuple[Ids, ...]

INPUT = "input of the network"
OUTPUT = "output of the network"
WHOLE = "not a channel dimension"  # kernels, single elements that are broadcast: pinned, and nothing to report


class Labels:
    """Labels 0, 1, 2, ... under union, some of them pinned."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._pinned: dict[int, str] = {}
        self._reasons: list[str] = []

    def fresh(self, count: int) -> Ids:
        """Return `count` new labels."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return np.arange(start, start + count)

    def fixed(self, count: int, reason: str) -> Ids:
        """Return the ids [count] of indices that stay because of `reason`."""
        if reason not in self._reasons:
            self._reasons.append(reason)
        return np.full(count, -1 - self._reasons.index(reason))

    def reason(self, ids: Ids) -> str:
        """Return why the first index of a fixed dimension stays."""
        return self._reasons[-1 - int(ids[0])] if len(ids) else WHOLE

    def find(self, label: int) -> int:
        """Return the smallest label united with this one."""
        root = label
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[label] != root:
            self._parent[label], label = root, self._parent[label]
        return root

    def pinned(self, label: int) -> str | None:
        """Return why a label is pinned, or None."""
        return self._pinned.get(self.find(label))

    def unite(self, first: Ids, second: Ids) -> None:
        """Unite two dimensions of equal length, index by index; a pinned index pins its partner."""
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            if a >= 0 and b >= 0:
                low, high = sorted((self.find(a), self.find(b)))
                self._parent[high] = low
                if high in self._pinned:
                    self._pinned.setdefault(low, self._pinned.pop(high))
            elif a >= 0 or b >= 0:
                self._pinned.setdefault(self.find(max(a, b)), self._reasons[-1 - min(a, b)])

    def pin(self, ids: Ids, reason: str) -> None:
        """Pin a dimension."""
        self.unite(ids, self.fixed(len(ids), reason))


@dataclass
class LabelledGraph:
    """A trace with labels on every dimension of every tensor.

    Attributes
    ----------
    trace : Trace
    labels : Labels
    shapes : dict of Node to tuple of int
        Shape of every tensor at batch size `trace.BATCH`.
    dims : dict of Node to tuple of int array
        Ids of every tensor, one array for each dimension.
    owners : dict of int to (str, int)
        For each label the parameter or buffer and the dimension that it was made for.
    """

    trace: Trace
    labels: Labels
    shapes: dict[fx.Node, tuple[int, ...]]
    values: dict[fx.Node, Any]
    dims: dict[fx.Node, Dims] = field(default_factory=dict)
    owners: dict[int, tuple[str, int]] = field(default_factory=dict)

    def roots(self, ids: Ids) -> Ids:
        """Return the channel of each index: its smallest label, or -1 where it is pinned."""
        find, pinned = self.labels.find, self.labels.pinned
        return np.array([find(i) if i >= 0 and pinned(i) is None else -1 for i in ids.tolist()], dtype=np.int64)

    def stored_nodes(self) -> list[fx.Node]:
        """Return the nodes that read a parameter or buffer."""
        return [node for node in self.dims if node.op == "get_attr"]


def label_graph(trace: Trace) -> LabelledGraph:
    """Carry labels through a traced network.

    Returns
    -------
    LabelledGraph
        With every union done; no label is fresh afterwards.
    """
    from fairdeploy.compaction.label_rules import follow

    values = trace.run()
    shapes = {node: tuple(value.shape) for node, value in values.items() if isinstance(value, Tensor)}
    labelled = LabelledGraph(trace, Labels(), shapes, values)
    _label_stored_tensors(labelled)
    for node in trace.graph_module.graph.nodes:
        if node.op == "placeholder":
            labelled.dims[node] = tuple(labelled.labels.fixed(size, INPUT) for size in shapes[node])
        elif node.op == "output":
            for source in tensors_among(labelled, node.all_input_nodes):
                for ids in labelled.dims[source]:
                    labelled.labels.pin(ids, OUTPUT)
        elif node.op != "get_attr":
            follow(labelled, node)
    return labelled


def tensors_among(labelled: LabelledGraph, nodes: Iterable[fx.Node]) -> list[fx.Node]:
    """Return those nodes that carry labels."""
    return [node for node in nodes if node in labelled.dims]


def _label_stored_tensors(labelled: LabelledGraph) -> None:
    """Give fresh labels to stored tensors: matrices' dimension 0 first, so that producers name their channels."""
    nodes: dict[str, list[fx.Node]] = {}
    names: dict[int, str] = {}
    for node in labelled.shapes:
        if node.op == "get_attr":
            name = names.setdefault(id(labelled.trace.tensor(node)), str(node.target))
            nodes.setdefault(name, []).append(node)
    order = {name: place for place, name in enumerate(labelled.trace.dtypes)}
    places = [(name, dim) for name, users in nodes.items() for dim in range(len(labelled.shapes[users[0]]))]

    def producers_first(place: tuple[str, int]) -> tuple[bool, bool, int, int]:
        name, dim = place
        matrix = len(labelled.shapes[nodes[name][0]]) > 1
        return dim > 0, not matrix, order.get(name, len(order)), dim

    made: dict[tuple[str, int], Ids] = {}
    for name, dim in sorted(places, key=producers_first):
        ids = labelled.labels.fresh(labelled.shapes[nodes[name][0]][dim])
        labelled.owners.update(dict.fromkeys(ids.tolist(), (name, dim)))
        made[name, dim] = ids
    for name, users in nodes.items():
        for node in users:
            labelled.dims[node] = tuple(made[name, dim] for dim in range(len(labelled.shapes[node])))
