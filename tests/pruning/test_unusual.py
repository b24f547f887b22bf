"""Networks, rows and outputs that are less common: what they need works, and what cannot work is said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import fairdeploy
from fairdeploy.errors import ConfigError, StageError
from fairdeploy.project import Budget
from fairdeploy.pruning import Bilevel, Schedule
from fairdeploy.pruning.front import Measured, Option, decide
from fairdeploy.pruning.gates import closing_members
from fairdeploy.pruning.objectives import custom
from tests.pruning import own
from tests.pruning.problems import listed, problem_of

GROUPS = {"tone": ("light", "dark")}


class Attention(nn.Module):
    """One layer of fused attention over four places."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(8, 16) for _ in range(3))
        self.out = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        heads = [part(x).view(-1, 4, 2, 8).transpose(1, 2) for part in (self.query, self.key, self.value)]
        mixed = functional.scaled_dot_product_attention(*heads)
        return self.out(mixed.transpose(1, 2).reshape(-1, 4, 16).mean(1))


def problem(shape: tuple[int, ...], rows: int = 64, length: int = 16) -> Any:
    torch.manual_seed(0)
    inputs, labels, tone = torch.randn(rows, *shape), torch.arange(rows) % 2, (torch.arange(rows) // 2 % 2).view(1, -1)
    stream = listed(inputs, labels, tone, length=length)
    return problem_of(stream, stream, GROUPS)


def test_fused_attention_has_an_upper_gradient() -> None:
    torch.manual_seed(1)
    (found,) = Bilevel(Schedule(1, 1e-3), round_to=1).prune(
        Attention().eval(), (torch.randn(4, 4, 8),), budgets=[Budget(macs=0.6)], problem=problem((4, 8)), seed=0
    )
    assert any(not mask.all() for mask in found.masks.values())


def test_a_last_batch_of_one_row_is_no_obstacle_to_batch_norms() -> None:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2)).eval()
    whole, odd = problem((6,)), problem((6,), rows=65)
    uneven = problem_of(whole.train, odd.prune, GROUPS)
    (found,) = Bilevel(Schedule(6, 1e-3), round_to=1).prune(
        network, (torch.randn(4, 6),), budgets=[Budget(macs=0.5)], problem=uneven, seed=0
    )
    assert sum(mask.sum() for mask in found.masks.values()) < 16


def test_token_ids_that_say_nothing_are_refused() -> None:
    network = nn.Sequential(nn.Embedding(5, 8, padding_idx=0), nn.Flatten(), nn.Linear(24, 6, bias=False), nn.ReLU())
    network.append(nn.Linear(6, 2))
    ids = torch.zeros(4, 3, dtype=torch.int64)
    groups = fairdeploy.channel_groups(network.eval(), (ids,))
    with pytest.raises(StageError, match="changes no output on the example inputs"):
        closing_members(network, groups, (ids,))


@pytest.mark.parametrize("extra", [torch.zeros(7, 2), torch.tensor(1.0)], ids=["anchors", "scalar"])
def test_outputs_of_other_lengths_have_no_distance(extra: Tensor) -> None:
    objective = custom(lambda outputs, targets: outputs[0].sum(1), lambda outputs, targets: targets > 0)
    both = (torch.zeros(3, 4), extra)
    with pytest.raises(StageError, match="teacher=False"):
        objective.distance(both, both)
    counted = (torch.zeros(3, 4), torch.arange(7))  # whole numbers are no part of it
    assert objective.distance(counted, counted).tolist() == [0, 0, 0]


def test_a_network_that_costs_less_of_anything_is_not_dropped_for_one_that_costs_more() -> None:
    def option(name: str, size: float, accuracy: float) -> Option:
        measured = Measured(accuracy=accuracy, groups=(), cells=(), missed=())
        return Option(name, (100.0, 100.0, size, 1.0), measured)

    kept = [entry.decision for entry in decide([option("large", 50, 0.9), option("small", 30, 0.89)])]
    assert kept == ["kept", "kept"]
    kept = [entry.decision for entry in decide([option("large", 50, 0.89), option("small", 30, 0.9)])]
    assert kept == ["dropped", "kept"]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"keep": 0.5}, "keep is a mapping"),
    ({"groups": {"tone": "light"}}, "groups are a mapping"),
    ({"seed": -1}, "seed must be at least 0"),
    ({"checkpoint_every": 0}, "checkpoint_every must be at least 1"),
    ({"round_to": "latency"}, "round_to"),
]


@pytest.mark.parametrize(("change", "said"), WRONG, ids=[said for _, said in WRONG])
def test_arguments_of_another_kind_are_refused(change: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"groups": own.GROUPS, "keep": {"macs": 0.5}, **change}
    with pytest.raises(ConfigError, match=said):
        fairdeploy.prune(own.net(), own.EXAMPLE, train=own.loader(0), prune=own.loader(1), **given)


def test_a_loss_that_is_no_tensor_is_named() -> None:
    wrong: Callable[[Any, Any], Any] = lambda outputs, targets: 1.0  # noqa: E731
    objective = custom(wrong, wrong)
    with pytest.raises(StageError, match="loss gave float"):
        objective.loss(torch.zeros(2, 2), torch.zeros(2))
