"""The income project: who looks the same is in the same split, and the shipped weights are what its script makes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from fairdeploy.data import Split
from fairdeploy.project import load_project

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "adult"


@pytest.fixture(scope="module")
def income() -> Iterator[Any]:
    """The example's training module, from its folder."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLE))
        import income.train

        yield income.train
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("income", "twin"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def splits(income: Any) -> dict[str, Split]:
    return income.splits()


def test_every_person_is_in_one_split_and_no_profile_in_two(splits: dict[str, Split]) -> None:
    assert sum(len(split.rows) for split in splits.values()) == 48_842 - 52
    profiles = [set(split.rows.clusters) for split in splits.values()]
    assert sum(map(len, profiles)) == len(set.union(*profiles))
    inputs = [np.concatenate([batch["features"] for batch in split.batches(4096)]) for split in splits.values()]
    seen = [{row.tobytes() for row in part} for part in inputs]
    assert [len(part) for part in seen] == [len(part) for part in profiles]
    assert sum(map(len, seen)) == len(set.union(*seen))


def test_features_are_in_the_units_of_train_and_hold_neither_sex_nor_race(splits: dict[str, Split]) -> None:
    (batch,) = splits["train"].batches(10**6)
    numbers = batch["features"][:, :5].astype(float)
    assert np.allclose(numbers.mean(0), 0, atol=1e-6)
    assert np.allclose(numbers.std(0), 1, atol=1e-6)
    evaluate = next(iter(splits["evaluate"].batches(10**6)))["features"].astype(float)
    assert not np.allclose(evaluate[:, :5].mean(0), 0, atol=1e-4)
    female = splits["train"].rows.attributes["sex"] == "Female"
    assert not any(np.array_equal(column > 0.5, female) for column in batch["features"].T)


def test_every_declared_group_is_judged(splits: dict[str, Split]) -> None:
    project, _ = load_project(EXAMPLE)
    for name, levels in project.groups.attributes.items():
        found, counts = np.unique(splits["evaluate"].rows.attributes[name], return_counts=True)
        assert set(found) == set(levels)
        assert counts.min() > 100


def test_the_weights_have_learned_and_a_fresh_training_learns_as_well(income: Any, splits: dict[str, Split]) -> None:
    model = income.build()
    model.load_state_dict(load_file(EXAMPLE / "weights" / "dense.safetensors"))
    shipped = income.accuracy(model.eval(), splits["tune"])
    assert shipped > 0.84
    assert income.accuracy(income.fit(splits["train"], epochs=2), splits["tune"]) == pytest.approx(shipped, abs=0.02)
