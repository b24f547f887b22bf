"""Iterative levels: each goes on from the recovered network of the level before it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fairdeploy
from fairdeploy.compaction import CompactModel, compact, count_macs
from fairdeploy.errors import ConfigError
from fairdeploy.pruning import api
from fairdeploy.pruning.api import Result
from tests.pruning import own

SHARES = (0.7, 0.5, 0.3)


def pruned(network: nn.Module, **changes: Any) -> Result:
    options: dict[str, Any] = {
        "train": own.loader(0),
        "prune": own.loader(1, batch_size=32),
        "groups": own.GROUPS,
        "keep": {"macs": list(SHARES)},
        "iterative": True,
        "round_to": 1,
        "epochs": 1,
        "learning_rate": 1e-2,
        "threads": 1,
    }
    return fairdeploy.prune(network, own.EXAMPLE, **(options | changes))


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The states of the networks that channels are removed from, in their order."""
    seen: list[str] = []

    def watched(module: nn.Module, *arguments: Any) -> CompactModel:
        seen.append(own.state(module))
        return compact(module, *arguments)

    monkeypatch.setattr(api, "compact", watched)
    return seen


def test_each_level_prunes_what_the_level_above_recovered_to(given: list[str]) -> None:
    found = pruned(own.net(), method="magnitude")
    assert given == [own.state(own.net()), *(own.state(one.module) for one in found.candidates[:-1])]
    given.clear()
    apart = pruned(own.net(), method="magnitude", iterative=False)
    assert given == [own.state(own.net())] * 3
    first, other = found.candidates[0], apart.candidates[0]
    assert own.state(first.module) == own.state(other.module)
    assert own.state(found.candidates[1].module) != own.state(apart.candidates[1].module)


@pytest.mark.parametrize("method", ["magnitude", "taylor", "bilevel"])
def test_budgets_and_records_are_those_of_the_dense_network(method: str) -> None:
    dense = own.net()
    found = pruned(dense, method=method, constraints={"accuracy_difference": 0.2})
    widths = {name: before for name, (before, _) in found.candidates[0].model.removed.items()}
    macs = [count_macs(one.module, (own.EXAMPLE,)) for one in found.candidates]
    assert macs == sorted(macs, reverse=True)
    for one, share, left in zip(found.candidates, SHARES, macs, strict=True):
        record = one.model.record()
        assert record.macs_before == count_macs(dense, (own.EXAMPLE,))
        assert share * 0.7 * record.macs_before < left == record.macs_after <= share * record.macs_before
        assert {layer.group: layer.before for layer in record.layers} == widths
        assert one.decisions[-1].station == f"front[{one.name}]"


def test_the_same_seed_gives_the_same_bytes() -> None:
    one, other = (pruned(own.net(), constraints={"accuracy_difference": 0.05}) for _ in range(2))
    assert own.state(one.candidates[-1].module) == own.state(other.candidates[-1].module)


class Fixed(nn.Module):
    """A network whose code holds its width, so that only a graph can be smaller."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 2)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(image)))
        x = torch.relu(self.second(x.reshape(-1, 8, *image.shape[2:])))
        out: Tensor = self.head(x.mean((2, 3)))
        return out


@pytest.mark.parametrize("method", ["magnitude", "bilevel"])
def test_a_graph_goes_on_as_well(method: str) -> None:
    found = pruned(Fixed(), method=method)
    dense = count_macs(Fixed(), (own.EXAMPLE,))
    for one, share in zip(found.candidates, SHARES, strict=True):
        assert one.model.not_own_class is not None
        assert count_macs(one.module, (own.EXAMPLE,)) <= share * dense
        assert one.module.training is False


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"keep": {"macs": [0.3, 0.5]}}, "macs-0.5 follows macs-0.3: give the largest first"),
        ({"keep": {"macs": [0.5, 0.3], "parameters": [0.4, 0.6]}}, "give the largest first"),
        ({"keep": {"macs": 0.5}}, "give keep two levels or more"),
        ({"epochs": 0}, "give keep two levels or more, and recover.epochs"),
        (
            {"keep": {"latency": [0.5, 0.3]}, "latency": lambda masks: [1.0] * len(masks)},
            "iterative levels prune others",
        ),
        ({"iterative": "yes"}, "prune: 'iterative': Input should be a valid boolean"),
    ],
)
def test_levels_that_do_not_go_down_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        pruned(own.net(), **changes)
