"""Lossless compaction: channels that carry nothing are physically removed, and the outputs stay.

::

    trace         the user's module as a functional graph in float64 (torch.export)
                      bake: masks and parametrisations become plain tensors      precision: float64 and back
                      canonical: fewer kinds of operations                       cells: recurrent layers, one by one
                      constants: what is computed from parameters alone          shapes: known without a run
                      shuffles: picked one by one, and shuffled again            own_tables: one for each reader
                      stored: tensors by their names
    graph_labels  labels on every tensor, united along the graph
                      labels, relate, moves: blocks of labels and their algebra  label_rules: how, for each operation
                      closing: whether zeros close what is added up
    groups        coupled channels, and masks over them                          macs, sizes, costs: what they cost
    dependence    which elements are constants, which are never used             influence: how, for each operation
    plan          which channels go
                      closure: what stays with what stays                        rewrites, selection: sizes, and slices
                      folds: the constants that are left behind                  recurrent, wide_norm: two special cases
    surgery       the changes to the graph                                       eager: and to the user's own class
    proof         the float64 check against the user's eager module
    compact       all of it; `CompactModel`                                      training, quiet: fine-tuning its graph
    given         a network, masks and rows as the command line names them       ops: families of operations
"""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    from fairdeploy.errors import MissingExtra

    raise MissingExtra("compacting a network", "torch") from error

from fairdeploy.compaction.compact import CompactModel, compact
from fairdeploy.compaction.costs import channel_groups
from fairdeploy.compaction.groups import ChannelGroup, GroupCost, Masks, Member, apply_masks
from fairdeploy.compaction.macs import count_macs, count_parameters, groups_and_macs
from fairdeploy.compaction.proof import Proof

__all__ = [
    "ChannelGroup",
    "CompactModel",
    "GroupCost",
    "Masks",
    "Member",
    "Proof",
    "apply_masks",
    "channel_groups",
    "compact",
    "count_macs",
    "count_parameters",
    "groups_and_macs",
]
