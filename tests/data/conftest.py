"""A small made-up data set that every test may spoil in its own way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fairdeploy.data import Rows, Split
from fairdeploy.model import ModelSpec, TensorSpec
from fairdeploy.project import Groups
from tests.data.places import Place

MakeRows = Callable[..., Rows]
MakeSplit = Callable[..., Split]


@pytest.fixture
def groups() -> Groups:
    return Groups(attributes={"tone": ("light", "dark")}, contexts=("site",), cluster="person")


@pytest.fixture
def spec() -> ModelSpec:
    return ModelSpec(task="binary-classification", inputs={"image": TensorSpec(shape=("batch", 3, 2))})


@pytest.fixture
def make_rows() -> MakeRows:
    def make(n: int = 10, name: str = "tune", **changes: Any) -> Rows:
        columns: dict[str, Any] = {
            "ids": np.array([f"{name}-{i}" for i in range(n)]),
            "labels": np.arange(n) % 2,
            "attributes": {"tone": np.array(["light", "dark", ""] * n)[:n]},
            "contexts": {"site": np.array(["north", "south"] * n)[:n]},
            "clusters": np.array([f"{name}-person-{i // 2}" for i in range(n)]),
        }
        return Rows(**(columns | changes))

    return make


@pytest.fixture
def make_split(make_rows: MakeRows) -> MakeSplit:
    def make(n: int = 10, *, seed: int = 0, values: NDArray[Any] | None = None, **changes: Any) -> Split:
        content = np.random.default_rng(seed).integers(0, 256, (n, 3, 2), np.uint8) if values is None else values

        def batches(size: int) -> Iterator[dict[str, NDArray[Any]]]:
            for start in range(0, len(content), size):
                yield {"image": content[start : start + size]}

        return Split(make_rows(n, **changes), batches)

    return make


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)
