"""Loaders as streams: the same batches for the same number, whatever draws meanwhile; and what is refused."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, RandomSampler, TensorDataset

from fairdeploy.errors import DataError
from fairdeploy.pruning import Batch
from fairdeploy.pruning.streams import LoaderStream, Pooled
from tests.pruning import own

NUMBERS = TensorDataset(torch.arange(24.0).view(-1, 1), torch.arange(24) % 2, torch.arange(24) % 3 - 1)


def stream(loader: Any, groups: Any = own.GROUPS, **options: Any) -> LoaderStream:
    return LoaderStream(loader, groups, **options)


def drawn(batches: Any) -> list[list[float]]:
    return [batch.inputs[0].flatten().tolist() for batch in batches]


class Noisy(Dataset[Any]):
    """Draws from each of the generators that there are."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        return torch.rand(1) + np.random.random() + random.random(), index % 2, 0


LOADERS = {
    "shuffled": lambda: DataLoader(NUMBERS, 4, shuffle=True),
    "own generator": lambda: DataLoader(NUMBERS, 4, shuffle=True, generator=torch.Generator().manual_seed(1)),
    "sampler": lambda: DataLoader(
        NUMBERS, 4, sampler=RandomSampler(NUMBERS, replacement=True, generator=torch.Generator())
    ),
    "distributed": lambda: DataLoader(NUMBERS, 4, sampler=DistributedSampler(NUMBERS, num_replicas=2, rank=1)),
    "augmented": lambda: DataLoader(Noisy(), 4),
    "workers": lambda: DataLoader(NUMBERS, 4, shuffle=True, num_workers=1),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_an_epoch_is_the_same_for_the_same_number(kind: str) -> None:
    one = stream(LOADERS[kind]())
    first, other = drawn(one.epoch(3)), drawn(one.epoch(4))
    torch.rand(5), np.random.random(5), random.random()
    again: list[list[float]] = []
    beside = one.epoch(4)  # the upper level reads the same stream while weights are trained
    for batch in one.epoch(3):
        again += drawn([batch])
        next(beside, None)
        torch.rand(1), np.random.random(), random.random()
    assert again == first != other
    assert drawn(stream(LOADERS[kind]()).epoch(3)) == first
    assert len(first) == one.steps
    if kind != "distributed":  # its order is the sampler's own
        assert drawn(stream(LOADERS[kind](), seed=1).epoch(3)) != first


def test_nobody_elses_draws_change() -> None:
    one = stream(LOADERS["augmented"]())
    for generator in (torch.manual_seed, np.random.seed, random.seed):
        generator(0)
    wanted = [torch.rand(1), np.random.random(), random.random()]
    for generator in (torch.manual_seed, np.random.seed, random.seed):
        generator(0)
    drawn(one.epoch(0))
    assert [torch.rand(1), np.random.random(), random.random()] == wanted


@pytest.mark.parametrize(
    ("groups", "found"),
    [
        (torch.tensor([0, 1, -1, 7]), [0, 1, -1, -1]),
        ({"tone": ["light", "dark", "", "green"]}, [0, 1, -1, -1]),
        ({"tone": np.array(["dark", "light", "unknown", "dark"])}, [1, 0, -1, 1]),
        ({"tone": torch.tensor([1, 1, 0, -1]), "else": [0] * 4}, [1, 1, 0, -1]),
    ],
)
def test_groups_are_named_or_numbered_and_may_be_unknown(groups: Any, found: list[int]) -> None:
    (batch,) = stream([(torch.zeros(4, 2), torch.zeros(4).long(), groups)]).epoch(0)
    assert batch.groups.tolist() == [found]


def test_several_attributes_keep_their_order() -> None:
    declared = {"tone": ("light", "dark"), "age": ("young", "old")}
    rows = (torch.zeros(2, 1), torch.zeros(2).long(), {"age": ["old", "young"], "tone": ["light", "dark"]})
    (batch,) = stream([rows], declared).epoch(0)
    assert batch.groups.tolist() == [[0, 1], [1, 0]]
    with pytest.raises(DataError, match=r"the attributes tone, age: give a mapping"):
        next(stream([(torch.zeros(2, 1), torch.zeros(2).long(), torch.zeros(2))], declared).epoch(0))


def test_labels_are_targets_or_what_the_user_says_or_none() -> None:
    targets = {"box": torch.rand(3, 4)}
    rows = [((torch.zeros(3, 1), torch.ones(3, 2)), targets, [0, 0, 1])]
    (batch,) = stream([(*rows[0][:2], {"tone": torch.tensor([0, 0, 1])})]).epoch(0)
    assert [part.shape for part in batch.inputs] == [(3, 1), (3, 2)]
    assert batch.labels.tolist() == [0, 0, 0]
    assert batch.targets is targets
    floats = (torch.zeros(3, 1), torch.tensor([0.0, 1.0, 1.0]), torch.zeros(3).long())
    (batch,) = stream([floats], labels=lambda given: given.long()).epoch(0)
    assert batch.labels.tolist() == [0, 1, 1]


def test_a_loader_may_give_batches() -> None:
    batch = Batch((torch.zeros(2, 1),), torch.zeros(2).long(), torch.zeros(1, 2).long(), None)
    assert list(stream([batch]).epoch(0)) == [batch]
    with pytest.raises(DataError, match=r"groups \[1, 2\] for 2 attributes and 2 rows"):
        next(stream([batch], {"a": ("x", "y"), "b": ("x", "y")}).epoch(0))


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(own.rows(0))


class Short(list[Any]):
    def __len__(self) -> int:
        return super().__len__() + 1


GOOD = (torch.zeros(4, 2), torch.zeros(4).long(), torch.zeros(4).long())


@pytest.mark.parametrize(
    ("loader", "said"),
    [
        (DataLoader(Endless(), 4), "the train loader has no length"),
        (DataLoader(NUMBERS, 4, num_workers=1, persistent_workers=True), "only once at a time.*persistent_workers"),
        (Short([GOOD]), "the train loader ended at batch 2 of 2"),
        ([GOOD[:2]], "batch 1 of the train loader is a tuple of 2; it must be"),
        ([GOOD, ((), *GOOD[1:])], "batch 2 of the train loader has for inputs a tuple of 0"),
        (
            [(torch.zeros(0, 2), torch.zeros(0).long(), torch.zeros(0).long())],
            "batch 1 of the train loader has no rows",
        ),
        ([((torch.zeros(4, 2), torch.zeros(3, 2)), *GOOD[1:])], r"an input \[3, 2\] beside one with 4 rows"),
        ([(GOOD[0], torch.tensor([0, 1, -1, 0]), GOOD[2])], "has the label -1; labels lie in 0 to 1"),
        ([(*GOOD[:2], "light")], "has groups a str; give a mapping"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_batch(loader: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        list(stream(loader, classes=2).epoch(0))


def test_pooled_streams_are_spread_over_each_other() -> None:
    def numbered(first: int, count: int) -> LoaderStream:
        return stream(
            [
                (torch.full((1, 1), float(first + at)), torch.zeros(1).long(), torch.zeros(1).long())
                for at in range(count)
            ]
        )

    pooled = Pooled([numbered(0, 4), numbered(10, 2)])
    assert pooled.steps == 6
    order = [batch.inputs[0].item() for batch in pooled.epoch(0)]
    assert order == [0, 10, 1, 2, 11, 3]
