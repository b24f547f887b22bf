"""Evidence needs rows that nothing was trained, calibrated or chosen on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairdeploy.data.checks import some
from fairdeploy.data.splits import Rows
from fairdeploy.data.stored import StoredSplit
from fairdeploy.errors import DataError


def check_overlap(evaluate: StoredSplit, others: Mapping[str, StoredSplit]) -> None:
    """Refuse an evaluate split that shares ids, clusters or contents with another split.

    Contents are compared by the digest of each row's inputs, so a copy under another id is found.

    Raises
    ------
    DataError
        Naming the split, the kind of overlap, how many rows, and the first ids.
    """
    for name, other in others.items():
        mine, theirs = evaluate.rows, other.rows
        _refuse_shared(mine, mine.ids, theirs.ids, f"by id with {name}")
        if mine.clusters is not None and theirs.clusters is not None:
            _refuse_shared(mine, mine.clusters, theirs.clusters, f"by cluster with {name}")
        _refuse_shared(mine, evaluate.row_digests, other.row_digests, f"by content with {name}")


def _refuse_shared(rows: Rows, mine: NDArray[Any], theirs: NDArray[Any], how: str) -> None:
    shared = np.flatnonzero(np.isin(mine, theirs))
    if len(shared):
        raise DataError(
            f"evaluate overlaps {how}: {len(shared)} of {len(rows)} rows, first {some(rows.ids[shared])}; "
            "evidence needs rows that nothing was trained, calibrated or chosen on"
        )
