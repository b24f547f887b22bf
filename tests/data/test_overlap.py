"""An evaluate split that shares rows, people or pictures with another is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairdeploy.data import Split, StoredSplit, check_overlap, materialise
from fairdeploy.errors import DataError
from fairdeploy.model import ModelSpec
from fairdeploy.project import Groups


@pytest.fixture
def stored(
    tmp_path: Path, spec: ModelSpec, groups: Groups, make_split: Callable[..., Split]
) -> Callable[..., StoredSplit]:
    def make(name: str, n: int = 10, **changes: Any) -> StoredSplit:
        split = make_split(n, name=name, **({"seed": len(name)} | changes))
        return materialise(split, tmp_path / name, spec=spec, groups=groups)

    return make


def test_splits_that_are_apart_pass(stored: Callable[..., StoredSplit]) -> None:
    check_overlap(stored("evaluate"), {"train": stored("train"), "tune": stored("tune", seed=9)})


def test_the_same_id_is_refused(stored: Callable[..., StoredSplit]) -> None:
    ids = np.array([f"train-{i}" for i in range(8)] + ["evaluate-3", "evaluate-1"])
    with pytest.raises(
        DataError, match=r"evaluate overlaps by id with train: 2 of 10 rows, first 'evaluate-1', 'evaluate-3';"
    ):
        check_overlap(stored("evaluate"), {"train": stored("train", ids=ids)})


def test_the_same_cluster_is_refused(stored: Callable[..., StoredSplit]) -> None:
    clusters = np.array(["evaluate-person-4"] + ["somebody"] * 9)
    with pytest.raises(DataError, match=r"by cluster with tune: 2 of 10 rows, first 'evaluate-8', 'evaluate-9';"):
        check_overlap(stored("evaluate"), {"tune": stored("tune", clusters=clusters)})


def test_the_same_content_under_another_id_is_refused(stored: Callable[..., StoredSplit]) -> None:
    values = np.random.default_rng(5).integers(0, 256, (10, 3, 2), np.uint8)
    copy = np.random.default_rng(6).integers(0, 256, (10, 3, 2), np.uint8)
    copy[2] = values[9]
    with pytest.raises(DataError, match=r"by content with calibrate: 1 of 10 rows, first 'evaluate-9';"):
        check_overlap(stored("evaluate", values=values), {"calibrate": stored("calibrate", values=copy)})


def test_only_the_first_ids_are_shown(stored: Callable[..., StoredSplit]) -> None:
    ids = np.array([f"evaluate-{i}" for i in range(10)])
    with pytest.raises(DataError, match=r"10 of 10 rows, first ('evaluate-\d', ){4}'evaluate-\d' \.\.\.;"):
        check_overlap(stored("evaluate"), {"train": stored("train", ids=ids)})


def test_the_same_content_in_another_dtype_is_refused(stored: Callable[..., StoredSplit]) -> None:
    values = np.random.default_rng(5).integers(0, 256, (10, 3, 2), np.uint8)
    other = np.random.default_rng(6).random((10, 3, 2), np.float32)
    other[:2] = values[3].astype(np.float32), -0.0 * values[4]
    values[5] = 0
    with pytest.raises(DataError, match=r"by content with train: 2 of 10 rows, first 'evaluate-3', 'evaluate-5';"):
        check_overlap(stored("evaluate", values=values), {"train": stored("train", values=other)})
