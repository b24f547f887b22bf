"""Labels on every tensor of a traced network."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import fx, nn

from fairdeploy.compaction.labels import Block, Channels, Ids, Labels
from fairdeploy.compaction.shapes import shapes_of
from fairdeploy.compaction.trace import Trace

Blocks = tuple[Block, ...]

INPUT = "input of the network"
OUTPUT = "output of the network"
WHOLE = "not a channel dimension"  # kernels, single elements that are broadcast: pinned, and nothing to report


@dataclass
class LabelledGraph:
    """A trace with labels on every tensor.

    Attributes
    ----------
    trace : Trace
    labels : Labels
    values : dict of Node to Any
        What depends on no input, and the sizes of what does.
    shapes : dict of Node to tuple of int
        Shape of every tensor at batch size `trace.BATCH`.
    blocks : dict of Node to tuple of Block
    grouped : dict of Node to array of int [groups, size]
        For the weights of grouped convolutions the channels that dimension 1 stands for in each group.
    produced : list of array of int
        Labels of channels that grouped convolutions make: channels, though they may stand for a whole group.
    unknown : dict of str
        Operations without a rule that touched labels.
    """

    trace: Trace
    labels: Labels
    values: dict[fx.Node, Any]
    shapes: dict[fx.Node, tuple[int, ...]]
    blocks: dict[fx.Node, Blocks] = field(default_factory=dict)
    grouped: dict[fx.Node, Ids] = field(default_factory=dict)
    produced: list[Ids] = field(default_factory=list)
    unknown: dict[str, None] = field(default_factory=dict)

    @cached_property
    def channels(self) -> Channels:
        """The labels with all unions done; no label may be made afterwards."""
        return self.labels.channels()

    @cached_property
    def _constants(self) -> set[fx.Node]:
        constants: set[fx.Node] = set()
        for node in self.trace.graph_module.graph.nodes:
            if node.op == "get_attr" or (node.op == "call_function" and constants.issuperset(node.all_input_nodes)):
                constants.add(node)
        return constants

    def is_constant(self, node: fx.Node) -> bool:
        """Return whether a node depends on no input, not even on its batch size."""
        return node in self._constants

    def is_stored_once(self, node: fx.Node) -> bool:
        """Return whether a node reads a stored tensor that nothing else reads."""
        if node.op != "get_attr" or len(node.users) > 1:
            return False
        tensor = self.trace.tensor(node)
        return not any(other is not node and self.trace.tensor(other) is tensor for other in self.stored_nodes())

    def stored_nodes(self) -> list[fx.Node]:
        """Return the nodes that read a parameter or buffer."""
        return [node for node in self.shapes if node.op == "get_attr"]


def label_graph(trace: Trace) -> LabelledGraph:
    """Carry labels through a traced network."""
    from fairdeploy.compaction.closing import pin_what_stays_open
    from fairdeploy.compaction.label_rules import follow

    labelled = LabelledGraph(trace, Labels(), trace.constants(), shapes_of(trace.graph_module.graph))
    _label_stored_tensors(labelled)
    for node in trace.graph_module.graph.nodes:
        if node.op == "placeholder":
            labelled.blocks[node] = ()
        elif node.op == "output":
            for source in node.all_input_nodes:
                for block in labelled.blocks.get(source, ()):
                    labelled.labels.pin(block.ids, OUTPUT)
        elif node.op != "get_attr":
            follow(labelled, node)
    pin_what_stays_open(labelled)
    return labelled


def _label_stored_tensors(labelled: LabelledGraph) -> None:
    """Give fresh labels to stored tensors: matrices' dimension 0 first, so that producers name their channels."""
    trace, labels = labelled.trace, labelled.labels
    nodes: dict[str, list[fx.Node]] = {}
    names: dict[int, str] = {}
    for node in labelled.stored_nodes():
        if not trace.tensor(node).is_floating_point():
            labelled.blocks[node] = ()
            continue
        name = names.setdefault(id(trace.tensor(node)), str(node.target))
        nodes.setdefault(name, []).append(node)
    order = {name: place for place, name in enumerate(trace.dtypes)}
    shapes = {name: labelled.shapes[users[0]] for name, users in nodes.items()}
    places = [(name, dim) for name, shape in shapes.items() for dim, size in enumerate(shape) if size > 1]

    def producers_first(place: tuple[str, int]) -> tuple[bool, bool, bool, int, int]:
        name, dim = place
        constant = not isinstance(trace.tensor(nodes[name][0]), nn.Parameter)
        return constant, dim > 0, len(shapes[name]) < 2, order.get(name, len(order)), dim

    blocks: dict[str, list[Block]] = {name: [] for name in nodes}
    for name, dim in sorted(places, key=producers_first):
        blocks[name].append(Block((dim,), labels.fresh(shapes[name][dim], owner=(name, dim))))
    for name, users in nodes.items():
        labelled.blocks.update(dict.fromkeys(users, tuple(blocks[name])))
