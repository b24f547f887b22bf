"""The five splits, dealt anew from all rows: whoever looks the same to the network is in the same split.

Repeated rows are left out first (`twin.load`). Many of the others still share all ten features with somebody, also
across the official split; the network cannot tell them apart, so they are one *profile*, dealt as one and counted as
one cluster. The network sees neither sex nor race: they are what its decisions are counted by.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import twin
from numpy.typing import NDArray

from fairdeploy.data import Rows, Split

SHARES = {"train": 0.40, "prune": 0.10, "calibrate": 0.05, "tune": 0.10, "evaluate": 0.35}
ATTRIBUTES = ("sex", "race")


def splits() -> dict[str, Split]:
    """Return the five splits; the deal is always the same, because the shipped weights have seen *train*."""
    adult = twin.load()
    seen = np.stack([adult.columns[name] for name in (*twin.NUMBERS, *twin.CATEGORIES)], axis=1)
    profiles, profile = np.unique(seen, axis=0, return_inverse=True)
    split = _deal(len(profiles))[profile]
    official = np.where(split == "train", "train", "test")
    inputs = twin.features(replace(adult, columns=adult.columns | {"official_split": official}))[:, 1:]
    return {name: _split(adult, inputs.astype(np.float32), profile, np.flatnonzero(split == name)) for name in SHARES}


def _deal(count: int) -> NDArray[np.str_]:
    """Return the split of each of `count` profiles, in random order, by `SHARES` to the nearest one."""
    ends = np.rint(np.cumsum(list(SHARES.values())) * count).astype(int)
    return np.array(list(SHARES))[np.searchsorted(ends, np.random.default_rng(0).permutation(count), side="right")]


def _split(adult: twin.Adult, inputs: NDArray[np.float32], profile: NDArray[np.intp], mine: NDArray[np.intp]) -> Split:
    def batches(size: int) -> Iterator[dict[str, NDArray[np.float32]]]:
        for start in range(0, len(mine), size):
            yield {"features": inputs[mine[start : start + size]]}

    rows = Rows(
        ids=adult.columns["id"][mine],
        labels=adult.labels[mine],
        attributes={name: adult.columns[name][mine] for name in ATTRIBUTES},
        clusters=profile[mine].astype(str),
    )
    return Split(rows, batches)
