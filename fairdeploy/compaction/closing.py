"""Whether zeros close the channels that a sum or a mean adds up.

They do where the total divides what is zero. They do not in a layer norm written out by hand: it subtracts the mean
of all channels from each, and its variance sees what becomes of a zero. So it is tried: a random half of them is closed
in a run, the others in another, and where one of them still depends on the input and is used, the lot stays whole.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import fx, nn

from fairdeploy.compaction import ops
from fairdeploy.compaction.closure import Kept
from fairdeploy.compaction.dependence import dependence
from fairdeploy.compaction.graph_labels import LabelledGraph
from fairdeploy.compaction.labels import Ids
from fairdeploy.compaction.plan import busy


def pin_what_stays_open(labelled: LabelledGraph) -> None:
    """Pin the channels that are added up somewhere and that zeros do not close."""
    totals = {node: added for node in labelled.blocks if (added := _added_up(labelled, node)) is not None}
    if not totals:
        return
    root = labelled.channels.root
    candidates = np.random.default_rng(0).permutation(np.unique(root[np.concatenate(list(totals.values()))]))
    still_busy = np.zeros(len(root), bool)
    for closed in (candidates[::2], candidates[1::2]):
        still_busy[closed] = _busy_without(labelled, closed)[closed]
    for node, added in totals.items():
        if still_busy[root[added]].any():
            labelled.labels.pin(added, f"{ops.title(node)} mixes it")
    del labelled.channels  # to be collected with the pins


def _added_up(labelled: LabelledGraph, node: fx.Node) -> Ids | None:
    """Return the labels that a sum or mean adds up and that may go, if there are any."""
    if node.target not in ops.TOTAL:
        return None
    source = node.all_input_nodes[0]
    dims = ops.dims_of(node, len(labelled.shapes[source]))
    ids = [block.ids.ravel() for block in labelled.blocks[source] if dims.intersection(block.dims)]
    added = np.concatenate([np.empty(0, np.int64), *ids])
    free = added[labelled.channels.reason[labelled.channels.root[added]] < 0] if len(added) else added
    return free if len(free) else None


def _busy_without(labelled: LabelledGraph, closed: Ids) -> Kept:
    """Return for each channel whether it depends on the input and is used while some (roots) are closed."""
    trace, graph = labelled.trace, labelled.trace.graph_module.graph
    gone = np.isin(labelled.channels.root, closed)
    stored = [node for node in labelled.stored_nodes() if isinstance(trace.tensor(node), nn.Parameter)]
    before = {node: trace.tensor(node).detach().clone() for node in stored}
    with torch.no_grad():
        try:
            for node in before:
                for block in labelled.blocks[node]:
                    places = torch.from_numpy(np.flatnonzero(gone[block.ids]))
                    trace.tensor(node).index_fill_(block.dims[0], places, 0)
            known = dependence(graph, trace.run())
        finally:
            for node, tensor in before.items():
                trace.tensor(node).copy_(tensor)
    return busy(labelled, known, [node for node in graph.nodes if node.op != "output"])
