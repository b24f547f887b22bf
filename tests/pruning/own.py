"""A user's own network, rows and loaders, for the tests of `fairdeploy.prune` and of training."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fairdeploy.pruning import Problem
from fairdeploy.pruning.objectives import of_classes
from fairdeploy.pruning.streams import LoaderStream

GROUPS = {"tone": ("light", "dark")}
EXAMPLE = torch.zeros(2, 3, 6, 6)


def rows(seed: int, count: int = 128, *, unknown: float = 0.0) -> TensorDataset:
    """Images that are brighter where the label is 1, less so of dark people; label and tone."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (count,), generator=generator)
    tone = (torch.rand(count, generator=generator) < 0.3).long()
    images = torch.randn(count, 3, 6, 6, generator=generator)
    images += (0.5 - 0.3 * tone).view(-1, 1, 1, 1) * (2 * labels - 1).view(-1, 1, 1, 1)
    tone[torch.rand(count, generator=generator) < unknown] = -1
    return TensorDataset(images, labels, tone)


def loader(seed: int, count: int = 128, **options: Any) -> DataLoader[Any]:
    return DataLoader(rows(seed, count), **{"batch_size": 16, "shuffle": True, **options})


def net(*, dropout: float = 0.2, norm: bool = True) -> nn.Module:
    state = torch.get_rng_state()
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8) if norm else nn.Identity(), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(8, 2),
    )  # fmt: skip
    torch.set_rng_state(state)
    return made.eval()


def problem(train: Any = None, prune: Any = None) -> Problem:
    learned = LoaderStream(loader(0) if train is None else train, GROUPS)
    watched = LoaderStream(loader(1) if prune is None else prune, GROUPS, name="prune")
    return Problem(learned, watched, watched, learned, of_classes(2), GROUPS, 2)


def state(module: nn.Module) -> str:
    total = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        total.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return total.hexdigest()


def largest_difference(one: nn.Module, other: nn.Module) -> float:
    pairs: list[tuple[Tensor, Tensor]] = list(zip(one.parameters(), other.parameters(), strict=True))
    return max(float((a - b).detach().abs().max()) for a, b in pairs)
