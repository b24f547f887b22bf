"""Magnitude masks: the budget on the real compacted network, the rounding, and the channels chosen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fairdeploy.compaction import channel_groups, compact, count_macs
from fairdeploy.data import Rows
from fairdeploy.errors import StageError
from fairdeploy.model import ModelSpec, TensorSpec
from fairdeploy.pruning import Magnitude, Pruner, magnitude_masks

EXAMPLE = (torch.zeros(1, 3, 8, 8),)


class Residual(nn.Module):
    def __init__(self, width: int = 20, hidden: int = 28) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)
        self.a, self.b = nn.Conv2d(width, hidden, 3, padding=1), nn.Conv2d(hidden, width, 1)
        self.head = nn.Linear(width, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        return self.head((x + self.b(torch.relu(self.a(x)))).mean((2, 3)))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Residual().eval()


@pytest.mark.parametrize(("keep", "round_to"), [(1.0, 8), (0.7, 8), (0.5, 4), (0.5, 1), (0.1, 1)])
def test_the_compacted_network_keeps_to_the_budget_in_multiples(model: nn.Module, keep: float, round_to: int) -> None:
    masks = magnitude_masks(model, EXAMPLE, keep_macs=keep, round_to=round_to)
    result = compact(model, EXAMPLE, masks)
    budget = keep * count_macs(model, EXAMPLE)
    assert count_macs(result.module, EXAMPLE) <= budget
    sizes = {"stem.weight": 20, "a.weight": 28}
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {n: a for n, (_, a) in result.removed.items()}
    for name, mask in masks.items():
        assert mask.sum() % round_to == 0 or mask.sum() == sizes[name]
        assert mask.sum() >= round_to
    if round_to == 1:
        assert result.macs_after > 0.85 * budget, "the largest fraction that fits, not just any"
    if keep == 1.0:
        assert all(mask.all() for mask in masks.values())


def test_the_largest_norms_over_all_members_stay(model: nn.Module) -> None:
    kept = magnitude_masks(model, EXAMPLE, keep_macs=0.5, round_to=1)["a.weight"]
    norms = (
        model.a.weight.flatten(1).square().sum(1) + model.a.bias.square() + model.b.weight[:, :, 0, 0].square().sum(0)
    )
    assert norms[torch.from_numpy(kept)].min() > norms[torch.from_numpy(~kept)].max()


def test_a_group_smaller_than_a_multiple_stays_whole(model: nn.Module) -> None:
    masks = magnitude_masks(Residual(6, 40), EXAMPLE, keep_macs=0.5, round_to=8)
    assert masks["stem.weight"].all()
    assert masks["a.weight"].sum() == 16


def test_an_impossible_budget_says_the_least(model: nn.Module) -> None:
    with pytest.raises(StageError, match=r"0\.05 cannot be reached.*multiples of 8.*the least is (0\.\d+)") as caught:
        magnitude_masks(model, EXAMPLE, keep_macs=0.05)
    least = float(str(caught.value).split("the least is ")[1].split()[0])
    assert {int(mask.sum()) for mask in magnitude_masks(model, EXAMPLE, keep_macs=least).values()} == {8}


@pytest.mark.parametrize(("keep", "round_to"), [(0.0, 8), (1.1, 8), (-1.0, 8), (0.5, 0)])
def test_senseless_budgets_are_refused(model: nn.Module, keep: float, round_to: int) -> None:
    with pytest.raises(StageError, match="must be"):
        magnitude_masks(model, EXAMPLE, keep_macs=keep, round_to=round_to)


def test_the_pruner_yields_levels_in_order_and_nested(model: nn.Module) -> None:
    pruner: Pruner = Magnitude(round_to=2)
    rows = Rows(np.array([], str), np.array([], int), {})
    nothing = type("Nothing", (), {"inputs": {}, "rows": rows})()
    spec = ModelSpec(task="binary-classification", inputs={"x": TensorSpec(shape=("batch", 3, 8, 8))})
    levels = list(pruner.masks(model, EXAMPLE, keep_macs=(0.8, 0.4), train=nothing, prune=nothing, spec=spec, seed=0))
    assert pruner.name == "magnitude"
    for level, masks in zip((0.8, 0.4), levels, strict=True):
        alone = magnitude_masks(model, EXAMPLE, keep_macs=level, round_to=2)
        assert all(np.array_equal(masks[name], alone[name]) for name in alone)
    assert all((levels[1][name] <= levels[0][name]).all() for name in levels[0])
    assert set(levels[0]) == {group.name for group in channel_groups(model, EXAMPLE) if group.prunable}


def test_after_flattening_each_channels_columns_count_for_it() -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 2))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(0.01)
        network[3].weight.view(2, 6, 36)[:, [1, 4]] = 0.5
    kept = magnitude_masks(network, EXAMPLE, keep_macs=0.4, round_to=1)["0.weight"]
    assert np.flatnonzero(kept).tolist() == [1, 4]


def test_grouped_convolutions_have_norms_too() -> None:
    torch.manual_seed(0)
    grouped = nn.Sequential(
        nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, groups=4), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 64, 2),
    ).eval()  # fmt: skip
    masks = magnitude_masks(grouped, EXAMPLE, keep_macs=0.6, round_to=4)
    result = compact(grouped, EXAMPLE, masks)
    assert result.macs_after <= 0.6 * result.macs_before
