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

from fairdeploy.data.splits import SPLITS, Rows, Split
from fairdeploy.data.stored import StoredSplit, check_overlap, load_splits, materialise

__all__ = ["SPLITS", "Rows", "Split", "StoredSplit", "check_overlap", "load_splits", "materialise"]
