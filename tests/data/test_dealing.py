"""Dealt splits keep clusters whole, have their shares, and the mix of labels of everything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairdeploy.data import SPLITS
from fairdeploy.data.dealing import deal
from fairdeploy.source import Shares


@given(
    rows=st.integers(200, 600), largest=st.integers(1, 6), positive=st.floats(0.05, 0.95), seed=st.integers(0, 2**31)
)
@settings(max_examples=40, deadline=None)
def test_every_split_is_right_within_a_cluster_or_two(rows: int, largest: int, positive: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(rows), random.integers(1, largest + 1, rows))[:rows].astype(str)
    labels = (random.random(rows) < positive).astype(int)
    splits = deal(labels, clusters, Shares(), seed=seed)
    assert all(len(set(splits[clusters == one])) == 1 for one in set(clusters))
    for name in SPLITS:
        share = getattr(Shares(), name)
        assert abs((splits == name).sum() - share * rows) <= 2 * largest
        assert abs(((splits == name) & (labels == 1)).sum() - share * labels.sum()) <= 3 * largest + 2


def test_rows_alone_are_dealt_label_by_label() -> None:
    labels = np.repeat([0, 1, 2], (1000, 100, 20))
    splits = deal(labels, None, Shares(), seed=0)
    for label, rows in enumerate((1000, 100, 20)):
        for name in SPLITS:
            assert abs(((splits == name) & (labels == label)).sum() - getattr(Shares(), name) * rows) <= 2


def test_the_seed_decides() -> None:
    labels = np.arange(500) % 2
    one, same, other = (deal(labels, None, Shares(), seed=seed) for seed in (1, 1, 2))
    assert (one == same).all()
    assert 0.5 < (one != other).mean() < 0.9, "as far apart as two draws of these shares are"


def test_shares_are_the_declared_ones() -> None:
    shares = Shares(train=0.2, prune=0.2, calibrate=0.2, tune=0.2, evaluate=0.2)
    splits = deal(np.arange(100) % 2, None, shares, seed=0)
    assert [int((splits == name).sum()) for name in SPLITS] == pytest.approx([20] * 5, abs=1)
