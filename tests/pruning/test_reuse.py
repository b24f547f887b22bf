"""Parts that stand before what was changed are computed once, and the outputs are the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from fairdeploy.pruning.reuse import Reuse


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        yield


class Awkward(nn.Module):
    """Changes tensors in place, calls one part twice, and shares a parameter between two."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
        self.twice = nn.Linear(4, 4)
        self.side = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.twice.weight
        self.last = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = self.twice(x)
        y += self.side(x)
        y = self.twice(y)
        y *= 2
        return self.last(y + self.tied(y))


class Counted(nn.Linear):
    """Counts its calls."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        type(self).calls += 1
        return super().forward(x)


def test_whichever_parameter_changes_the_outputs_are_those_of_the_network_alone() -> None:
    network, alone, x = Awkward().eval(), Awkward().eval(), torch.randn(8, 4)
    alone.load_state_dict(network.state_dict())
    reuse = Reuse(network)
    torch.testing.assert_close(reuse.record(x), alone(x), rtol=0, atol=0)
    for name, parameter in network.named_parameters():
        other = {name: parameter * 0.5}
        wanted = functional_call(alone, other, (x,))
        reuse.changed([parameter])
        for _ in range(2):
            torch.testing.assert_close(functional_call(network, other, (x,)), wanted, rtol=0, atol=0)
        assert not torch.equal(wanted, alone(x))


def test_what_stands_before_the_change_is_not_computed_again() -> None:
    Counted.calls = 0
    network = nn.Sequential(Counted(4, 4), nn.Sequential(Counted(4, 4)), nn.Linear(4, 4), Counted(4, 4)).eval()
    reuse, x = Reuse(network), torch.randn(8, 4)
    reuse.record(x)
    assert Counted.calls == 3
    weight = network[2].weight
    reuse.changed([weight])
    functional_call(network, {"2.weight": weight * 2}, (x,))
    assert Counted.calls == 4
    network(x + 1)
    assert Counted.calls == 7
    reuse.forget()
    network(x)
    assert Counted.calls == 10


def test_other_rows_are_never_given_the_recorded_ones() -> None:
    network, alone = Awkward().eval(), Awkward().eval()
    alone.load_state_dict(network.state_dict())
    reuse = Reuse(network)
    first, second = torch.randn(8, 4), torch.randn(5, 4)
    reuse.record(first)
    torch.testing.assert_close(network(second), alone(second), rtol=0, atol=0)
    torch.testing.assert_close(reuse.record(second), alone(second), rtol=0, atol=0)
    torch.testing.assert_close(network(first), alone(first), rtol=0, atol=0)


def test_no_more_is_kept_than_may_be() -> None:
    Counted.calls = 0
    network = nn.Sequential(*(Counted(4, 4) for _ in range(4))).eval()
    x = torch.randn(8, 4)
    reuse = Reuse(network, most_bytes=2 * 2 * x.numel() * 4)  # inputs and outputs of two of the four
    reuse.record(x)
    wanted = network(x)
    assert Counted.calls == 4 + 2
    torch.testing.assert_close(wanted, Reuse(network, most_bytes=0).record(x), rtol=0, atol=0)
