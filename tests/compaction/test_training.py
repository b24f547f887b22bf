"""Fine-tuning after removal: as the network's own class would be, statistics included; saved and loaded again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fairdeploy.compaction import CompactModel, apply_masks, channel_groups, compact
from fairdeploy.compaction.bake import private_copy
from fairdeploy.compaction.proof import check_inputs_for
from fairdeploy.compaction.training import is_trainable, training_graph
from fairdeploy.errors import CompactionError
from fairdeploy.graphs import load_graph

from .networks import EXAMPLE, network, randomise

Inputs = tuple[Tensor, ...]


def drop_path(x: Tensor, rate: float, training: bool) -> Tensor:
    """Stochastic depth: whole rows."""
    if not training:
        return x
    return x * x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(1 - rate).div_(1 - rate)


class Attention(nn.Module):
    """Its forward holds the number of heads, so that its class cannot hold fewer dimensions."""

    def __init__(self, fused: bool, rate: float = 0.3) -> None:
        super().__init__()
        self.fused, self.rate = fused, rate
        self.embed, self.norm, self.qkv, self.out = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.up, self.down, self.head = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        q, k, v = self.qkv(self.norm(x)).reshape(x.shape[0], -1, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        rate = self.rate if self.training else 0.0
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=rate)
        else:
            mixed = F.dropout((q @ k.mT / 2).softmax(-1), self.rate, self.training) @ v
        x = x + drop_path(self.out(mixed.transpose(1, 2).flatten(2)), self.rate, self.training)
        x = x + F.dropout(self.down(F.dropout(F.gelu(self.up(x)), self.rate, self.training)), self.rate, self.training)
        return self.head(x.mean(1))


class Shared(nn.Module):
    """One batch norm called twice, dropout of channels, instance norm with running statistics, a size in forward."""

    def __init__(self, rate: float = 0.2) -> None:
        super().__init__()
        self.rate = rate
        self.enter, self.inner = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1)
        self.norm, self.instance = nn.BatchNorm2d(6), nn.InstanceNorm2d(6, affine=True, track_running_stats=True)
        self.left, self.right = nn.Linear(4, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout2d(F.relu(self.norm(self.enter(x))), self.rate, self.training)
        left, right = self.instance(F.relu(self.norm(self.inner(x)))).split([4, 2], 1)
        return self.left(left.square().mean((2, 3))) + self.right(right.tanh().mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self, layers: int = 1, rate: float = 0.0) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(4, 6), nn.Linear(6, 2)
        self.lstm = nn.LSTM(6, 6, layers, dropout=rate, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.dropout(self.lstm(self.enter(x))[0][:, -1], 0.2, self.training))


class Tied(nn.Module):
    """One weight under two names, and a size in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.enter, self.left, self.right = nn.Linear(4, 10), nn.Linear(6, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(torch.tanh(self.first(x)))
        left, right = torch.relu(self.enter(x)).split([6, 4], 1)
        return self.left(left) + self.right(right)


def of(shape: tuple[int, ...], seed: int = 0) -> Inputs:
    return (torch.randn(4, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)),)


WHOLE: dict[str, tuple[Callable[[], nn.Module], Inputs]] = {
    "attention": (lambda: Attention(fused=False), of((5, 6))),
    "fused attention": (lambda: Attention(fused=True), of((5, 6))),
    "shared norm": (Shared, of((3, 8, 8))),
    "recurrent": (Recurrent, of((5, 4))),
    "stacked recurrent": (lambda: Recurrent(2, 0.3), of((5, 4))),
    "tied": (Tied, of((4,))),
}


def tuned(module: nn.Module, x: Inputs) -> nn.Module:
    """Three steps of SGD on a copy, always with the same random numbers."""
    copied = private_copy(module).train()
    torch.manual_seed(0)
    optimiser = torch.optim.SGD(copied.parameters(), lr=0.01)
    for step in range(3):
        optimiser.zero_grad()
        copied(*of(x[0].shape[1:], step)).square().mean().backward()
        optimiser.step()
    return copied


def assert_same(graph: nn.Module, module: nn.Module) -> None:
    """Parameters, gradients and running statistics."""
    state, gradients = (
        module.state_dict(),
        {name: p.grad for name, p in module.named_parameters(remove_duplicate=False)},
    )
    covered = {state[name].data_ptr() for name in graph.state_dict()}
    left_out = [name for name, tensor in state.items() if tensor.data_ptr() not in covered]
    assert all(name.endswith("num_batches_tracked") for name in left_out), left_out
    for name, tensor in graph.state_dict().items():
        torch.testing.assert_close(tensor, state[name], rtol=1e-12, atol=1e-12)
    for name, parameter in graph.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-12, atol=1e-12)


def graph_of(model: nn.Module, x: Inputs) -> fx.GraphModule:
    return training_graph(model, x, check_inputs_for(x, None))[0]


def some(model: nn.Module, x: Inputs, seed: int = 1) -> tuple[nn.Module, CompactModel]:
    """Return a network with some channels of every group closed, and its compaction."""
    groups, rng = channel_groups(model, x), np.random.default_rng(seed)
    masks = {g.name: (rng.random(g.size) < 0.6) | (np.arange(g.size) == 0) for g in groups if g.prunable}
    masked = apply_masks(model, groups, masks)
    return masked, compact(masked, x)


@pytest.mark.parametrize("name", ["dense", "squeeze", "plain"])
def test_the_graph_trains_as_the_smaller_class(name: str) -> None:
    x = of((3, 8, 8))
    masked, result = some(network(name, 3).double(), x)
    assert result.not_own_class is None
    graph = graph_of(masked, x)
    assert sum(p.numel() for p in graph.parameters()) == result.parameters_after
    assert_same(tuned(graph, x), tuned(result.trainable(), x))


@pytest.mark.parametrize("name", WHOLE)
def test_the_graph_of_a_whole_network_trains_as_its_class(name: str) -> None:
    make, x = WHOLE[name]
    model = randomise(make(), 3).double()
    own = tuned(model, x)
    assert_same(tuned(graph_of(model, x), x), own)
    assert any(not torch.equal(p, q) for p, q in zip(own.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize(
    "make", [lambda: Attention(True, 0.0), lambda: Attention(False, 0.0), lambda: Shared(0.0), Tied]
)
def test_what_stays_of_a_refused_class_trains_as_in_the_masked_network(make: Callable[[], nn.Module]) -> None:
    """Closed channels hold zero, so that what stays has the same gradients and the same statistics."""
    model = randomise(make(), 3).double()
    x = next(x for known, x in WHOLE.values() if type(known()) is type(model))
    masked, result = some(model, x)
    assert result.not_own_class is not None
    graph = result.trainable()
    with torch.no_grad():
        torch.testing.assert_close(graph(*x), masked(*x), rtol=1e-12, atol=1e-12)
    shapes = {name: tensor.shape for name, tensor in result.graph_module.state_dict().items()}
    assert {name: tensor.shape for name, tensor in graph.state_dict().items()} == shapes
    for module in (graph.train(), masked.train()):
        module(*of(x[0].shape[1:], 7)).square().mean().backward()
    whole = dict(masked.named_parameters(remove_duplicate=False)) | dict(masked.named_buffers())
    smaller = 0
    for name, tensor in (*graph.named_parameters(), *graph.named_buffers()):
        before = whole[name]
        for of_graph, of_masked in ((tensor, before), (tensor.grad, before.grad)):
            if of_graph is not None:
                assert of_masked is not None
                assert_within(of_graph.detach(), of_masked.detach())
        smaller += tensor.numel() < before.numel()
    assert smaller > 3


def assert_within(small: Tensor, whole: Tensor) -> None:
    """Every number of the small tensor stands in the whole one."""
    distance = (small.reshape(-1, 1) - whole.reshape(1, -1)).abs().amin(1)
    assert float(distance.max()) <= 1e-12 * float(whole.abs().max() + 1)


def test_it_follows_train_and_eval() -> None:
    model = randomise(Shared(), 0).double()
    x = of((3, 8, 8))
    _, result = some(model, x)
    graph = result.trainable()
    assert graph is result.trainable()
    assert not graph.training
    before = {name: buffer.clone() for name, buffer in graph.named_buffers()}
    assert torch.equal(graph(*x), graph(*x))
    assert all(torch.equal(before[name], buffer) for name, buffer in graph.named_buffers())
    graph.train()
    assert not torch.equal(graph(*x), graph(*x)), "dropout"
    assert all(not torch.equal(before[name], buffer) for name, buffer in graph.named_buffers())
    graph.eval()
    torch.testing.assert_close(graph(x[0][:1]), graph(*x)[:1])


def test_it_has_the_networks_dtypes_and_frozen_parameters() -> None:
    model = randomise(Shared(), 0)
    model.enter.weight.requires_grad_(False)
    x = (torch.zeros(2, 3, 8, 8),)
    _, result = some(model, x)
    graph = result.trainable()
    assert {tensor.dtype for tensor in graph.state_dict().values()} == {torch.float32}
    assert [name for name, parameter in graph.named_parameters() if not parameter.requires_grad] == ["enter.weight"]
    rows = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(graph(rows), result.graph_module(rows))


def test_a_constant_at_a_padded_border_stays_while_the_rest_trains() -> None:
    layers = [nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 2, 1), nn.Flatten()]
    model = randomise(nn.Sequential(*layers), 4).double()
    with torch.no_grad():
        model[0].weight[1] = 0
    x = of((3, 8, 8))
    result = compact(model, x)
    assert result.not_own_class is not None
    graph = result.trainable()
    maps = {name: buffer for name, buffer in graph.named_buffers() if name.startswith("_constant")}
    after = tuned(graph, x)
    assert maps
    assert all(torch.equal(after.get_buffer(name), buffer) for name, buffer in maps.items())
    for module in (graph.train(), model.train()):
        module(*x).square().mean().backward()
    torch.testing.assert_close(graph.get_parameter("2.bias").grad, model[2].bias.grad)


class Standardised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.conv.weight - self.conv.weight.mean((1, 2, 3), keepdim=True)
        return self.head(F.relu(F.conv2d(x, weight, self.conv.bias)).mean((2, 3)))


class Averaging(Standardised):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("level", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.training:
            self.level.mul_(0.9).add_(x.detach().mean((0, 2, 3)))
        return self.head(F.relu(x - self.level[:, None, None]).mean((2, 3)))


class TwoFaced(Standardised):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.head((x.abs() if self.training else F.relu(x)).mean((2, 3)))


def averaging_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=None), nn.Flatten(), nn.Linear(144, 2))


def alpha() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.SELU(), nn.AlphaDropout(0.2), nn.Linear(6, 2))


REFUSED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "weights computed anew": (Standardised, (3, 8, 8), "computes from 'conv.weight' anew in every pass"),
    "another buffer": (Averaging, (3, 8, 8), "writes to 'level' in training"),
    "another function": (TwoFaced, (3, 8, 8), "TwoFaced does other things in training: .*differ"),
    "cumulative average": (averaging_norm, (3, 8, 8), r"'1' averages all batches \(momentum=None\)"),
    "other noise": (alpha, (3, 8, 8), "draws random numbers in training by bernoulli"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_graph_cannot_do_in_training_is_refused(name: str) -> None:
    make, shape, said = REFUSED[name]
    with pytest.raises(CompactionError, match=said):
        graph_of(randomise(make(), 1).double(), of(shape))


def test_an_exported_graph_has_no_training_mode(tmp_path: Path) -> None:
    result = compact(network("mlp"), EXAMPLE)
    result.save(tmp_path)
    loaded = load_graph(tmp_path)
    assert not is_trainable(loaded)
    rows = torch.zeros(2, 3, 8, 8)
    exported = torch.export.export(network("mlp"), (rows,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for network_given in (loaded, exported):
        with pytest.raises(CompactionError, match="no training mode; give compact the module it came from"):
            compact(network_given, EXAMPLE).trainable()


@pytest.mark.parametrize("make", [Shared, lambda: network("mlp", 2), lambda: Attention(True)])
def test_saved_before_and_after_fine_tuning_it_loads_bit_for_bit(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    model = randomise(make(), 2)
    x = (torch.zeros(2, 5, 6),) if isinstance(model, Attention) else (torch.zeros(2, 3, 8, 8),)
    _, result = some(model, x)
    rows = torch.randn(6, *x[0].shape[1:], generator=torch.Generator().manual_seed(3))
    result.save(tmp_path / "before")
    network_trained = result.trainable().train()
    torch.manual_seed(0)
    optimiser = torch.optim.SGD(network_trained.parameters(), lr=0.01)
    for _ in range(2):
        optimiser.zero_grad()
        network_trained(rows).square().mean().backward()
        optimiser.step()
    network_trained.eval()
    result.save(tmp_path / "after")
    with torch.no_grad():
        assert torch.equal(load_graph(tmp_path / "before")(rows), result.graph_module(rows))
        assert torch.equal(load_graph(tmp_path / "after")(rows), network_trained(rows))
        assert (
            not torch.equal(network_trained(rows), result.graph_module(rows))
            or result.module is not result.graph_module
        )
    assert json.loads((tmp_path / "after" / "compaction.json").read_text())["macs_after"] == result.macs_after
    assert sorted(path.name for path in (tmp_path / "after").iterdir()) == [
        "compaction.json", "graph.json", "weights.safetensors",
    ]  # fmt: skip
    result.save(tmp_path / "again")
    for name in ("graph.json", "weights.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "after" / name).read_bytes()
