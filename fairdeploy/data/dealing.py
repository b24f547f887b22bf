"""Rows dealt into the five splits: whole clusters, each split with the same mix of labels, from a seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fairdeploy.data.splits import SPLITS
from fairdeploy.source import Shares


def deal(
    labels: NDArray[np.integer], clusters: NDArray[np.str_] | None, shares: Shares, *, seed: int
) -> NDArray[np.str_]:
    """Return the split [n] of each row.

    Clusters are put in the order of their label mix, at random among equals, and each goes to the split that is
    furthest behind its share of the rows so far; so that every split is right within a cluster or two.

    Parameters
    ----------
    labels : array of int [n]
    clusters : array of str [n], optional
        Rows of one cluster stay together; without, every row is one.
    shares : Shares
    seed : int
    """
    rows = len(labels)
    of = np.arange(rows) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    sizes = np.bincount(of)
    counts = np.zeros((len(sizes), int(labels.max()) + 1), np.int64)
    np.add.at(counts, (of, labels), 1)
    main = counts.argmax(axis=1)
    purity = counts.max(axis=1) / sizes
    chance = np.random.default_rng(seed).permutation(len(sizes))
    goals = [getattr(shares, name) for name in SPLITS]
    behind = [0.0] * len(SPLITS)
    dealt = np.empty(len(sizes), np.int64)
    for cluster in np.lexsort((chance, purity, main)).tolist():
        size = int(sizes[cluster])
        for split, goal in enumerate(goals):
            behind[split] += goal * size
        best = behind.index(max(behind))
        behind[best] -= size
        dealt[cluster] = best
    return np.asarray(SPLITS)[dealt[of]]
