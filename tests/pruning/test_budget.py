"""Budgets: what a project may write, and how much of one masks use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from fairdeploy.compaction import Masks, channel_groups, compact
from fairdeploy.errors import StageError
from fairdeploy.project import Budget, Keep
from fairdeploy.pruning.budget import BudgetUse, Costs, groups_and_costs, prunable
from fairdeploy.pruning.counts import masks_of
from fairdeploy.pruning.rounding import round_counts
from fairdeploy.pruning.scores import Subject, l2

EXAMPLE = (torch.zeros(2, 3, 8, 8),)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 48, 3, stride=2),
        nn.BatchNorm2d(48), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 3),
    ).eval()  # fmt: skip


def by_width(several: Sequence[Masks]) -> list[float]:
    """A runtime that takes as long as the first layer is wide."""
    return [0.1 + (float(masks["0.weight"].mean()) if "0.weight" in masks else 1.0) for masks in several]


def chosen(model: nn.Module, budget: Budget, round_to: int = 1) -> tuple[BudgetUse, Masks]:
    groups, costs = groups_and_costs(model, EXAMPLE, by_width)
    use, scores = BudgetUse(budget, costs), l2(Subject(model, groups))
    return use, masks_of(groups, scores, round_counts(groups, scores, use, round_to=round_to))


@pytest.mark.parametrize(
    ("keep", "names"),
    [
        ({"macs": 0.5}, ["macs-0.5"]),
        ({"macs": [0.5, 0.25]}, ["macs-0.5", "macs-0.25"]),
        ({"parameters": 1}, ["parameters-1"]),
        ({"latency": 0.5, "macs": [0.5, 0.25]}, ["macs-0.5-latency-0.5", "macs-0.25-latency-0.5"]),
        ({"macs": [0.5, 0.25], "size": [0.4, 0.2]}, ["macs-0.5-size-0.4", "macs-0.25-size-0.2"]),
        ({"macs": [0.5], "size": [0.4, 0.2]}, ["macs-0.5-size-0.4", "macs-0.5-size-0.2"]),
    ],
)
def test_each_level_is_a_candidate(keep: dict[str, object], names: list[str]) -> None:
    assert [level.name for level in Keep.model_validate(keep).levels] == names


@pytest.mark.parametrize(
    ("keep", "says"),
    [
        ({}, "give at least one of macs, parameters, size and latency"),
        ({"macs": [0.5, 0.4], "size": [0.5, 0.4, 0.3]}, "macs has 2, size has 3 levels: give equally many"),
        ({"macs": [0.5, 0.5]}, "macs-0.5 is given twice"),
        ({"macs": []}, "macs"),
        ({"size": 0}, "size"),
        ({"latency": [0.5, 1.5]}, "latency"),
        ({"parameters": float("nan")}, "parameters"),
        ({"macs": True}, "macs"),
        ({"mac": 0.5}, "mac"),
    ],
)
def test_senseless_levels_are_refused(keep: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Keep.model_validate(keep)


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({}, "limits nothing: give at least one of macs"),
        ({"macs": 0.0}, r"keep\.macs must be in \(0, 1\], not 0"),
        ({"macs": 0.5, "size": 1.01}, r"keep\.size must be in"),
        ({"latency": float("nan")}, r"keep\.latency must be in"),
    ],
)
def test_senseless_budgets_are_refused(limits: dict[str, float], says: str) -> None:
    with pytest.raises(StageError, match=says):
        Budget(**limits)


def test_use_is_the_largest_share_of_a_limit(model: nn.Module) -> None:
    _, costs = groups_and_costs(model, EXAMPLE, by_width)
    masks = {"0.weight": np.arange(32) < 8}
    result = compact(model, EXAMPLE, masks)
    shares = {
        "macs": result.macs_after / result.macs_before,
        "parameters": result.parameters_after / result.parameters_before,
        "size": result.bytes_after / result.bytes_before,
        "latency": 0.35 / 1.1,
    }
    for name, share in shares.items():
        assert BudgetUse(Budget(**{name: 0.5}), costs)(masks) == pytest.approx(share / 0.5)
    both = BudgetUse(Budget(macs=1.0, latency=0.1, parameters=0.9), costs)
    assert both(masks) == pytest.approx(shares["latency"] / 0.1)
    assert both({}) == pytest.approx(10)


@pytest.mark.parametrize("name", ["macs", "parameters", "size"])
def test_what_is_kept_is_never_exceeded_in_the_compacted_network(model: nn.Module, name: str) -> None:
    use, masks = chosen(model, Budget(**{name: 0.4}))
    result = compact(model, EXAMPLE, masks)
    share = {
        "macs": result.macs_after / result.macs_before,
        "parameters": result.parameters_after / result.parameters_before,
        "size": result.bytes_after / result.bytes_before,
    }[name]
    assert 0.37 < share <= 0.4
    assert use(masks) == pytest.approx(share / 0.4)


def test_the_tightest_limit_decides(model: nn.Module) -> None:
    _, by_macs = chosen(model, Budget(macs=0.5))
    _, by_both = chosen(model, Budget(macs=0.5, parameters=0.1))
    _, by_parameters = chosen(model, Budget(parameters=0.1))
    assert all(np.array_equal(by_both[name], by_parameters[name]) for name in by_both)
    assert sum(mask.sum() for mask in by_both.values()) < sum(mask.sum() for mask in by_macs.values())


def test_latency_is_a_budget_like_any_other(model: nn.Module) -> None:
    _, masks = chosen(model, Budget(latency=0.6), round_to=4)
    assert masks["0.weight"].sum() == 16
    assert by_width([masks])[0] <= 0.6 * by_width([{}])[0] < by_width([masks])[0] + 4 / 32


def test_a_budget_out_of_reach_says_the_least_of_each_cost(model: nn.Module) -> None:
    with pytest.raises(StageError, match=r"keep\.parameters: 0\.01 cannot be reached.*multiples of 8.*(0\.\d+) of the "
                                         r"dense parameters; prune\.keep\.latency: 0\.1 cannot") as caught:  # fmt: skip
        chosen(model, Budget(macs=0.9, parameters=0.01, latency=0.1), round_to=8)
    assert "keep.macs" not in str(caught.value)
    least = float(str(caught.value).split("the least is ")[1].split()[0])
    _, masks = chosen(model, Budget(parameters=least), round_to=8)
    assert {int(mask.sum()) for mask in masks.values()} == {8}


def test_latency_without_a_runtime_says_what_to_do(model: nn.Module) -> None:
    _, costs = groups_and_costs(model, EXAMPLE)
    with pytest.raises(StageError, match=r"keep\.latency.*nothing measures latency here.*limit macs"):
        BudgetUse(Budget(macs=0.5, latency=0.5), costs)({})


def test_a_cost_that_the_network_does_not_have_cannot_be_limited() -> None:
    def nothing(masks: Masks) -> int:
        return 0

    with pytest.raises(StageError, match=r"keep\.macs: the dense network has no multiply-accumulates"):
        BudgetUse(Budget(macs=0.5), Costs(nothing, nothing, nothing))({})


def test_a_model_without_channels_to_prune_says_why() -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    with pytest.raises(StageError, match=r"without channels to prune: 1\.weight: output of the network"):
        groups_and_costs(linear, EXAMPLE)
    with pytest.raises(StageError, match=r"without channels to prune: .*method: none"):
        groups_and_costs(nn.Sequential(nn.ReLU(), nn.Flatten()), EXAMPLE)


def test_only_the_first_reasons_are_named(model: nn.Module) -> None:
    (whole,) = [group for group in channel_groups(model, EXAMPLE) if group.reason == "output of the network"]
    with pytest.raises(StageError, match="; and 3 more; in a project") as caught:
        prunable([whole] * 6)
    assert str(caught.value).count("output of the network") == 3
