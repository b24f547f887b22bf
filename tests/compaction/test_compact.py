"""Masked against compact in float64, on networks, masks and inputs that the check inside did not see."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fairdeploy.compaction import ChannelGroup, CompactModel, apply_masks, channel_groups, compact, count_macs
from fairdeploy.compaction.dependence import dependence
from fairdeploy.compaction.macs import groups_and_macs
from fairdeploy.compaction.proof import prove
from fairdeploy.compaction.trace import trace
from fairdeploy.errors import CompactionError

from .networks import EXAMPLE, NETWORKS, ResNet, network, randomise

Style = Callable[[str, nn.Module, np.random.Generator], nn.Module]
ROWS = (torch.zeros(1, 3, 8, 8, dtype=torch.float64),)


@cache
def groups_of(name: str) -> tuple[ChannelGroup, ...]:
    return channel_groups(network(name).double(), ROWS)


def whole_groups(name: str, model: nn.Module, rng: np.random.Generator) -> nn.Module:
    groups = groups_of(name)
    return apply_masks(model, groups, {g.name: rng.random(g.size) < 0.5 for g in groups if g.prunable})


def producers_only(_: str, model: nn.Module, rng: np.random.Generator) -> nn.Module:
    """Zero rows and their gammas; biases and betas stay, so that every closed channel holds a constant."""
    masked = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in masked.parameters():
            if parameter.ndim > 1:
                parameter[torch.from_numpy(rng.random(len(parameter)) < 0.4)] = 0
    return masked


def unaligned(_: str, model: nn.Module, rng: np.random.Generator) -> nn.Module:
    """Zero rows, columns and vector elements at random, in no relation to the groups."""
    masked = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in masked.parameters():
            for dim in range(min(parameter.ndim, 2)):
                gone = np.flatnonzero(rng.random(parameter.shape[dim]) < 0.3)
                parameter.index_fill_(dim, torch.from_numpy(gone), 0)
    return masked


STYLES: dict[str, Style] = {"groups": whole_groups, "producers": producers_only, "unaligned": unaligned}


def assert_equal(masked: nn.Module, result: CompactModel) -> None:
    for rows in (1, 7):
        x = torch.randn(rows, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(rows))
        with torch.no_grad():
            want, module, graph = masked(x), result.module(x), result.graph_module(x)
        for got in (module, graph):
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9 * float(want.abs().max()))


def depends_on_input(model: nn.Module) -> bool:
    x = torch.randn(8, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(99))
    with torch.no_grad():
        return bool((model(x) != model(x.roll(1, 0))).any())


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_stay(name: str, style: str) -> None:
    rng = np.random.default_rng(5)
    model = network(name, 5).double()
    masked = next(m for m in (STYLES[style](name, model, rng) for _ in range(50)) if depends_on_input(m))
    weights = {key: value.clone() for key, value in masked.state_dict().items()}
    result = compact(masked, ROWS)
    assert result.not_own_class is None or "padded borders" in str(result.not_own_class)
    assert result.proof.max_difference <= 1e-9
    assert result.proof.sensitivity > 1e-6
    assert all(torch.equal(weights[key], value) for key, value in masked.state_dict().items())
    assert_equal(masked, result)
    assert result.parameters_after < result.parameters_before
    assert result.macs_after == count_macs(result.module, ROWS) < result.macs_before


@pytest.mark.parametrize("style", ["producers", "unaligned"])
@pytest.mark.parametrize("name", ["dense", "mobile", "plain", "squeeze"])
def test_what_stays_matters(name: str, style: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel that stayed changes the output when it is closed, unless the result says why it stayed.

    Activations that saturate would hide a channel that matters, so leaky ones take their place.
    """

    def leaky(x: Tensor, *_: object, **__: object) -> Tensor:
        return F.leaky_relu(x, 0.3)

    for saturating in ("relu", "relu6", "hardtanh", "hardswish"):
        monkeypatch.setattr(F, saturating, leaky)
    rng = np.random.default_rng(8)
    model = network(name, 8).double()
    masked = next(m for m in (STYLES[style](name, model, rng) for _ in range(50)) if depends_on_input(m))
    result = compact(masked, ROWS)
    x = torch.randn(64, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    groups = channel_groups(result.module, ROWS)
    with torch.no_grad():
        whole = result.module(x)
        for group in groups:
            if not group.prunable or group.name in result.kept_because or group.size == 1:
                continue
            for channel in range(group.size):
                closed = apply_masks(result.module, groups, {group.name: np.arange(group.size) != channel})
                assert not torch.equal(closed(x), whole), f"{group.name}[{channel}] could have gone"


@pytest.mark.parametrize("name", ["plain", "dense"])
def test_one_channel_alone_can_go(name: str) -> None:
    model, groups = network(name, 1).double(), groups_of(name)
    for group in groups:
        if group.prunable:
            masks = {group.name: np.arange(group.size) != group.size - 2}
            result = compact(model, ROWS, masks)
            assert result.removed[group.name] == (group.size, group.size - 1)
            assert_equal(apply_masks(model, groups, masks), result)


@pytest.mark.parametrize("name", NETWORKS)
def test_macs_foretold_for_masks_are_those_of_the_compacted_network(name: str) -> None:
    model = network(name, 2)
    groups, macs = groups_and_macs(model, EXAMPLE)
    rng = np.random.default_rng(1)
    masks = {g.name: np.arange(g.size) < rng.integers(2, g.size) for g in groups if g.prunable}
    result = compact(model, EXAMPLE, masks)
    assert macs({}) == result.macs_before == count_macs(model, EXAMPLE)
    assert macs(masks) == result.macs_after == count_macs(result.module, EXAMPLE)
    assert {name: after for name, (_, after) in result.removed.items()} == {n: int(m.sum()) for n, m in masks.items()}


def test_macs_and_parameters_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 9, 2))
    assert count_macs(model, (torch.zeros(4, 3, 8, 8),)) == 9 * 8 * 27 + 72 * 2
    keep = np.arange(8) < 5
    result = compact(randomise(model, 0), EXAMPLE, {"0.weight": keep})
    assert result.macs_after == 9 * 5 * 27 + 45 * 2
    assert result.parameters_after == 5 * 27 + 5 + 45 * 2 + 2
    record = result.record()
    assert (record.macs_before, record.macs_after) == (result.macs_before, result.macs_after)
    assert [(layer.group, layer.before, layer.after) for layer in record.layers] == [("0.weight", 8, 5)]
    assert record.output_sensitivity == result.proof.sensitivity
    assert record.batch_sizes == (1, 5)


def test_the_result_is_the_users_class_in_its_own_dtype_and_trains() -> None:
    model = randomise(ResNet(), 0).train()
    groups = channel_groups(model, EXAMPLE)
    result = compact(model, EXAMPLE, {g.name: np.arange(g.size) % 2 == 0 for g in groups if g.prunable})
    assert model.training
    assert isinstance(result.module, ResNet)
    assert result.module.blocks[2].second[0].out_channels == 32
    assert result.module.stem[1].num_features == 8
    tensors = [*result.module.parameters(), *result.graph_module.parameters()]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}
    before = [parameter.clone() for parameter in result.module.parameters()]
    optimiser = torch.optim.SGD(result.module.parameters(), lr=0.1)
    result.module.train()(torch.randn(4, 3, 8, 8)).square().sum().backward()
    optimiser.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, result.module.parameters(), strict=True))


def test_a_class_that_holds_its_sizes_gives_the_graph_and_says_so() -> None:
    class Holds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.left, self.right = nn.Linear(4, 10), nn.Linear(6, 2), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            left, right = torch.relu(self.enter(x)).split([6, 4], 1)
            return self.left(left) + self.right(right)

    model, x = randomise(Holds(), 0).double(), torch.randn(6, 4, dtype=torch.float64)
    keep = np.ones(10, bool)
    keep[[1, 2, 8]] = False
    result = compact(model, (x,), {"enter.weight": keep})
    assert result.module is result.graph_module
    assert "Holds.forward does not run" in str(result.not_own_class)
    masked = apply_masks(model, channel_groups(model, (x,)), {"enter.weight": keep})
    with torch.no_grad():
        torch.testing.assert_close(result.module(x), masked(x), rtol=1e-10, atol=1e-10)
    assert result.removed == {"enter.weight": (10, 7)}


def test_tied_weights_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.once, self.leave = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)
            self.twice = nn.Linear(6, 6)
            self.twice.weight = self.once.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.leave(torch.relu(self.twice(torch.relu(self.once(torch.relu(self.enter(x)))))))

    model, x = randomise(Tied(), 0).double(), torch.randn(6, 4, dtype=torch.float64)
    masks = {"enter.weight": np.arange(6) > 1}
    result = compact(model, (x,), masks)
    assert isinstance(result.module, Tied)
    assert result.module.twice.weight is result.module.once.weight
    assert result.module.once.weight.shape == (4, 4)
    with torch.no_grad():
        want = apply_masks(model, channel_groups(model, (x,)), masks)(x)
        torch.testing.assert_close(result.module(x), want, rtol=1e-10, atol=1e-10)


def test_several_inputs_and_outputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(3, 5), nn.Linear(2, 4), nn.Linear(9, 2)

        def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
            hidden = torch.cat([torch.relu(self.a(a)), torch.tanh(self.b(b))], 1)
            return {"logits": self.out(hidden), "norm": hidden.square().sum(1)}

    model = randomise(Two(), 0)
    result = compact(model, (torch.randn(3, 3), torch.randn(3, 2)))
    assert result.removed == {"a.weight": (5, 5), "b.weight": (4, 4)}
    assert result.macs_after == result.macs_before
    with torch.no_grad():
        model.a.weight[1], model.a.bias[1] = 0, 0.5
    result = compact(model, (torch.randn(3, 3), torch.randn(3, 2)))
    assert result.removed == {"a.weight": (5, 4), "b.weight": (4, 4)}, "the norm gets its constant back"


def two_layers(padding: int, kernel: int = 3) -> nn.Sequential:
    """A batch norm whose closed channel holds relu(beta), read by a second convolution without a bias."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, kernel, padding=padding, bias=False),
        nn.BatchNorm2d(5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2),
    )  # fmt: skip


def closed_before_the_norm(model: nn.Sequential, beta: float) -> nn.Sequential:
    model = randomise(model, 4).double()  # type: ignore[assignment]
    with torch.no_grad():
        model[1].weight[2], model[1].bias[2] = 0, beta
    return model


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_constant_is_folded_where_no_border_is_padded(kernel: int) -> None:
    model = closed_before_the_norm(two_layers(0, kernel), 0.7)
    result = compact(model, ROWS)
    assert result.removed["0.weight"] == (4, 3)
    assert result.module[3].bias is not None
    assert result.module[3].bias.any()
    assert_equal(model, result)


@pytest.mark.parametrize("kernel", [1, 3])
def test_one_constant_carries_the_others_to_a_padded_border(kernel: int) -> None:
    model = closed_before_the_norm(two_layers(1, kernel), 0.7)
    with torch.no_grad():
        model[1].weight[0], model[1].bias[0] = 0, 1.1
    result = compact(model, ROWS)
    assert result.removed["0.weight"] == (4, 3)
    assert "1 of 4: it carries the constants" in result.kept_because["0.weight"]
    assert result.not_own_class is None
    assert_equal(model, result)


def test_the_constant_zero_goes_whatever_the_padding() -> None:
    model = closed_before_the_norm(two_layers(1), -0.7)
    result = compact(model, ROWS)
    assert result.removed["0.weight"] == (4, 3)
    assert result.module[3].bias is None
    assert_equal(model, result)


def test_a_constant_that_a_depthwise_border_made_uneven_becomes_a_map() -> None:
    layers = [nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 2, 1), nn.Flatten()]
    model = randomise(nn.Sequential(*layers), 4).double()
    with torch.no_grad():
        model[0].weight[1] = 0
    result = compact(model, ROWS)
    assert result.removed["0.weight"] == (4, 3)
    assert "padded borders" in str(result.not_own_class)
    assert_equal(model, result)
    with torch.no_grad():
        model[0].bias[1] = 0
    result = compact(model, ROWS)
    assert result.removed["0.weight"] == (4, 3)
    assert result.module[1].groups == 3
    assert_equal(model, result)


def test_a_closed_gate_behind_the_norm_frees_its_producers() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.out = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 2, 3, padding=1)
            self.gate = nn.Parameter(torch.ones(6))

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.sigmoid(self.norm(self.conv(x))) * self.gate.view(1, -1, 1, 1)).mean((2, 3))

    model = randomise(Gated(), 0).double()
    with torch.no_grad():
        model.gate[[1, 4]] = 0
    result = compact(model, ROWS)
    assert result.removed == {"conv.weight": (6, 4)}
    assert_equal(model, result)


def test_a_shared_layer_gets_its_constants_back_behind_it() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.both = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.both(torch.sigmoid(self.a(x))) * self.both(torch.sigmoid(self.b(x)))

    model, x = randomise(Shared(), 0).double(), torch.randn(5, 3, dtype=torch.float64)
    with torch.no_grad():
        model.a.weight[1] = 0
        model.b.weight[1] = 0
    result = compact(model, (x,))
    assert result.removed["a.weight"] == (4, 3)
    with torch.no_grad():
        torch.testing.assert_close(result.module(x), model(x), rtol=1e-10, atol=1e-10)


def test_a_branch_that_is_closed_altogether_is_gone() -> None:
    model = network("resnet").double()
    groups = groups_of("resnet")
    masks = {"blocks.0.first.0.weight": np.zeros(6, bool)}
    result = compact(model, ROWS, masks)
    assert result.removed["blocks.0.first.0.weight"] == (6, 0)
    assert not any(name.startswith("blocks.0.first") for name, _ in result.graph_module.named_parameters())
    assert_equal(apply_masks(model, groups, masks), result)


def test_a_network_cut_through_proves_nothing_and_is_refused() -> None:
    with pytest.raises(CompactionError, match="prove nothing"):
        compact(network("plain"), EXAMPLE, {"0.weight": np.zeros(8, bool)})


def test_an_output_that_is_not_finite_is_refused() -> None:
    model = network("mlp")
    with torch.no_grad():
        model[1].bias[0] = torch.nan
    with pytest.raises(CompactionError, match="not finite"):
        compact(model, EXAMPLE)


def test_a_difference_is_refused() -> None:
    model, x = network("mlp").double(), torch.randn(3, 3, 8, 8, dtype=torch.float64)
    other = copy.deepcopy(model)
    assert prove(model, other, (x,)).max_difference == 0
    with torch.no_grad():
        other[-1].bias[0] += 1e-7
    with pytest.raises(CompactionError, match="differ"):
        prove(model, other, (x,))
    with torch.no_grad():
        other[-1].bias[0] = torch.nan
    with pytest.raises(CompactionError, match="differ"):
        prove(model, other, (x,))


def test_surgery_that_loses_a_constant_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = closed_before_the_norm(two_layers(0), 0.7)
    monkeypatch.setattr(sys.modules["fairdeploy.compaction.folds"], "_add", lambda *_: None)
    with pytest.raises(CompactionError, match="differ"):
        compact(model, ROWS)


def test_given_rows_are_checked() -> None:
    model = network("mlp")
    rows = torch.rand(3, 3, 8, 8)
    assert compact(model, EXAMPLE, check_inputs=(rows,)).proof.sensitivity > 0
    with pytest.raises(CompactionError, match="check_inputs"):
        compact(model, EXAMPLE, check_inputs=(torch.rand(3, 3, 4, 4),))


def test_no_masks_and_no_zeros_change_nothing() -> None:
    model = network("squeeze")
    result = compact(model, EXAMPLE)
    assert all(before == after for before, after in result.removed.values())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), result.module.parameters(), strict=True))


@pytest.mark.parametrize("name", ["dense", "squeeze"])
def test_constants_do_not_move_and_dead_elements_are_not_read(name: str) -> None:
    rng = np.random.default_rng(3)
    masked = next(
        m for m in (unaligned(name, network(name, 3).double(), rng) for _ in range(50)) if depends_on_input(m)
    )
    traced = trace(masked, ROWS)
    first = replace(traced, inputs=(torch.randn(2, 3, 8, 8, dtype=torch.float64),)).run()
    second = replace(traced, inputs=(torch.randn(2, 3, 8, 8, dtype=torch.float64),)).run()
    known = dependence(traced.graph_module.graph, first)
    for node, taint in known.taint.items():
        assert torch.equal(first[node][taint == 0], second[node][taint == 0]), node
    assert any(bool((taint == 0).any()) for node, taint in known.taint.items() if node.op == "call_function")

    class Noisy(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if n.op == "call_function" and n in known.live:
                value = value + torch.randn(value.shape, dtype=value.dtype) * (1 - known.live[n])
            return value

    assert any(bool((known.live[n] == 0).any()) for n in known.live if n.op == "call_function")
    with torch.no_grad():
        x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
        want = traced.graph_module(x)
        torch.testing.assert_close(Noisy(traced.graph_module).run(x), want, rtol=1e-12, atol=1e-12)
