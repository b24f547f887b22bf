"""Lossless compaction: channels that carry nothing are physically removed, and the outputs stay.

::

    trace           the user's module as a functional graph in float64 (torch.export)
    labels          labels on every parameter dimension, united along the graph   (label_rules: how, for each op)
    groups          coupled channels, and masks over them
    dependence      which elements are constants, which are never used
    plan            which channels go, and the constants that are folded into biases
    surgery, eager  the changes to the graph, and to the user's own class
    proof           the float64 check against the user's eager module
"""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    from fairdeploy.errors import MissingExtra

    raise MissingExtra("compacting a network", "torch") from error

from fairdeploy.compaction.compact import CompactModel, compact
from fairdeploy.compaction.groups import ChannelGroup, Masks, Member, apply_masks, channel_groups
from fairdeploy.compaction.macs import count_macs, count_parameters, groups_and_macs
from fairdeploy.compaction.proof import Proof

__all__ = [
    "ChannelGroup",
    "CompactModel",
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
