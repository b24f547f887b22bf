"""Data: five splits with five jobs, streamed, fingerprinted, never overlapping.

======== =====================================================
train    the network's weights
prune    the upper level: which channels go, multipliers
calibrate quantisation ranges
tune     choosing among candidates, repair search
evaluate evidence; never used to choose anything
======== =====================================================

A user's callable returns ``dict[str, Split]``, and `load_splits` makes the same of a declared format: a folder of
images, an npz file, a table, a Hugging Face dataset on disk. Downstream of it everything reads a `StoredSplit`: the
same rows, the inputs memory-mapped from the store.
"""

from fairdeploy.data.checks import checked_rows
from fairdeploy.data.formats import check_source
from fairdeploy.data.loading import load_splits, source_identity
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
    "check_source",
    "checked_rows",
    "count_groups",
    "load_splits",
    "materialise",
    "source_identity",
]
