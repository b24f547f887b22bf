"""Pruning by scores: the budget on the real compacted network, the rounding, and the channels chosen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fairdeploy.compaction import Masks, channel_groups, compact, count_macs
from fairdeploy.errors import StageError
from fairdeploy.project import Budget
from fairdeploy.pruning import ByScore
from fairdeploy.pruning.scored import SCORES

EXAMPLE = (torch.zeros(1, 3, 8, 8),)
NO_DATA = ("magnitude", "l1", "batch-norm-scale", "fpgm", "random")


class Residual(nn.Module):
    def __init__(self, width: int = 20, hidden: int = 28) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)
        self.a, self.b = nn.Conv2d(width, hidden, 3, padding=1), nn.Conv2d(hidden, width, 1)
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        return self.head((x + self.b(torch.relu(self.a(x)))).mean((2, 3)))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Residual().eval()


def masks_at(model: nn.Module, *budgets: Budget, pruner: ByScore, seed: int = 0) -> list[dict[str, NDArray[np.bool_]]]:
    return [one.masks for one in pruner.prune(model, EXAMPLE, budgets=budgets, problem=None, seed=seed)]


def masks_by(
    model: nn.Module, macs: float, *, round_to: int = 8, name: str = "magnitude"
) -> dict[str, NDArray[np.bool_]]:
    return masks_at(model, Budget(macs=macs), pruner=ByScore(name, round_to))[0]


@pytest.mark.parametrize(("keep", "round_to"), [(1.0, 8), (0.7, 8), (0.5, 4), (0.5, 1), (0.1, 1)])
def test_the_compacted_network_keeps_to_the_budget_in_multiples(model: nn.Module, keep: float, round_to: int) -> None:
    masks = masks_by(model, keep, round_to=round_to)
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
    kept = masks_by(model, 0.5, round_to=1)["a.weight"]
    norms = (
        model.a.weight.flatten(1).square().sum(1) + model.a.bias.square() + model.b.weight[:, :, 0, 0].square().sum(0)
    )
    assert norms[torch.from_numpy(kept)].min() > norms[torch.from_numpy(~kept)].max()


def test_scores_choose_channels_and_the_budget_their_number(model: nn.Module) -> None:
    chosen = {name: masks_by(model, 0.4, round_to=4, name=name) for name in NO_DATA}
    counts = {name: [int(mask.sum()) for mask in masks.values()] for name, masks in chosen.items()}
    assert all(count == counts["magnitude"] for count in counts.values())
    assert len({masks["a.weight"].tobytes() for masks in chosen.values()}) > 3


def test_a_group_smaller_than_a_multiple_stays_whole() -> None:
    masks = masks_by(Residual(6, 40), 0.5)
    assert masks["stem.weight"].all()
    assert masks["a.weight"].sum() == 16


def test_an_impossible_budget_says_the_least(model: nn.Module) -> None:
    with pytest.raises(StageError, match=r"0\.05 cannot be reached.*multiples of 8.*the least is (0\.\d+)") as caught:
        masks_by(model, 0.05)
    least = float(str(caught.value).split("the least is ")[1].split()[0])
    assert {int(mask.sum()) for mask in masks_by(model, least).values()} == {8}


@pytest.mark.parametrize(("keep", "round_to"), [(0.0, 8), (1.1, 8), (-1.0, 8), (0.5, 0)])
def test_senseless_budgets_are_refused(model: nn.Module, keep: float, round_to: int) -> None:
    with pytest.raises(StageError, match="must be"):
        masks_by(model, keep, round_to=round_to)


@pytest.mark.parametrize("name", ["magnitude", "random"])
def test_the_pruner_yields_budgets_in_order_and_nested(model: nn.Module, name: str) -> None:
    pruner = ByScore(name, round_to=2)
    budgets = (Budget(macs=0.8), Budget(parameters=0.4), Budget(macs=0.2, size=0.9))
    levels = masks_at(model, *budgets, pruner=pruner)
    assert pruner.name == name
    for budget, masks in zip(budgets, levels, strict=True):
        (alone,) = masks_at(model, budget, pruner=pruner)
        assert all(np.array_equal(masks[name], alone[name]) for name in alone)
    assert all((levels[2][name] <= levels[1][name]).all() for name in levels[0])
    assert all((levels[1][name] <= levels[0][name]).all() for name in levels[0])
    assert set(levels[0]) == {group.name for group in channel_groups(model, EXAMPLE) if group.prunable}


def test_a_seed_in_the_same_masks_out(model: nn.Module) -> None:
    budget, pruner = Budget(macs=0.5), ByScore("random", 1)
    (first,), (again,), (other,) = (masks_at(model, budget, pruner=pruner, seed=seed) for seed in (3, 3, 4))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not all(np.array_equal(first[name], other[name]) for name in first)


def test_a_budget_of_latency_needs_what_measures_it(model: nn.Module) -> None:
    def by_width(several: Sequence[Masks]) -> list[float]:
        return [float(masks["stem.weight"].mean()) if masks else 1.0 for masks in several]

    with pytest.raises(StageError, match=r"keep\.latency: nothing measures latency here"):
        masks_at(model, Budget(latency=0.5), pruner=ByScore())
    (masks,) = masks_at(model, Budget(latency=0.5), pruner=ByScore(round_to=2, latency_ms=by_width))
    assert masks["stem.weight"].sum() == 10


def test_unknown_methods_are_answered_with_the_known_ones() -> None:
    with pytest.raises(StageError, match=r"no score 'magnitud'; known: magnitude, l1, .*, fairgrape") as caught:
        ByScore("magnitud")
    assert all(name in str(caught.value) for name in SCORES)


@pytest.mark.parametrize("name", ["magnitude", "fisher"])
def test_a_model_without_channels_says_so_before_anything_is_scored(name: str) -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    with pytest.raises(StageError, match="without channels to prune"):
        masks_by(linear, 0.5, name=name)


def test_methods_that_learn_from_data_ask_for_it(model: nn.Module) -> None:
    with pytest.raises(StageError, match="taylor learns from the prune split, which has no rows"):
        masks_by(model, 0.5, name="taylor")


def test_after_flattening_each_channels_columns_count_for_it() -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 2))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(0.01)
        network[3].weight.view(2, 6, 36)[:, [1, 4]] = 0.5
    kept = masks_by(network, 0.4, round_to=1)["0.weight"]
    assert np.flatnonzero(kept).tolist() == [1, 4]


def test_grouped_convolutions_have_norms_too() -> None:
    torch.manual_seed(0)
    grouped = nn.Sequential(
        nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, groups=4), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 64, 2),
    ).eval()  # fmt: skip
    masks = masks_by(grouped, 0.6, round_to=4)
    result = compact(grouped, EXAMPLE, masks)
    assert result.macs_after <= 0.6 * result.macs_before
