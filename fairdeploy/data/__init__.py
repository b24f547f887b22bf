"""Data: five splits with five jobs, streamed, fingerprinted, never overlapping.

======== =====================================================
train    the network's weights
prune    the upper level: which channels go, multipliers
calibrate quantisation ranges
tune     choosing among candidates, repair search
evaluate evidence; never used to choose anything
======== =====================================================

A user's callable returns ``dict[str, Split]``. Downstream of it everything reads a `StoredSplit`: the same rows,
the inputs memory-mapped from the store.
"""

from fairdeploy.data.checks import checked_rows
from fairdeploy.data.loading import load_splits
from fairdeploy.data.overlap import check_overlap
from fairdeploy.data.splits import SPLITS, UNKNOWN, Rows, Split
from fairdeploy.data.stored import GroupCount, StoredSplit, count_groups, materialise

__all__ = [
    "SPLITS",
    "UNKNOWN",
    "GroupCount",
    "Rows",
    "Split",
    "StoredSplit",
    "check_overlap",
    "checked_rows",
    "count_groups",
    "load_splits",
    "materialise",
]
