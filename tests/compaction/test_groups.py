"""Coupled channel groups against what a person reads off each network; masks that fit and masks that do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairdeploy.compaction import ChannelGroup, apply_masks, channel_groups, compact
from fairdeploy.errors import CompactionError

from .networks import EXAMPLE, network, randomise


def by_name(model: nn.Module, example: tuple[Tensor, ...] = EXAMPLE) -> dict[str, ChannelGroup]:
    groups = channel_groups(model, example)
    named = {group.name: group for group in groups}
    assert len(named) == len(groups)
    return named


def places(group: ChannelGroup) -> set[tuple[str, int]]:
    return {(member.parameter, member.dim) for member in group.members}


def test_a_residual_stream_is_one_group_named_after_its_producer() -> None:
    groups = by_name(network("resnet"))
    assert places(groups["stem.0.weight"]) == {
        ("stem.0.weight", 0), ("stem.1.weight", 0), ("stem.1.bias", 0),
        ("blocks.0.first.0.weight", 1), ("blocks.0.second.0.weight", 0), ("blocks.0.second.1.weight", 0),
        ("blocks.0.second.1.bias", 0), ("blocks.1.first.0.weight", 1), ("blocks.1.shortcut.0.weight", 1),
    }  # fmt: skip
    assert places(groups["blocks.2.first.0.weight"]) == {
        ("blocks.2.first.0.weight", 0), ("blocks.2.first.1.weight", 0), ("blocks.2.first.1.bias", 0),
        ("blocks.2.second.0.weight", 1),
    }  # fmt: skip
    assert {name for name, group in groups.items() if not group.prunable} == {"head.weight", "stem.0.weight:1"}
    assert groups["head.weight"].reason == "output of the network"
    assert groups["stem.0.weight:1"].reason == "input of the network"


def test_concatenation_keeps_groups_apart_and_shifts_their_indices() -> None:
    groups = by_name(network("dense"))
    (member,) = (m for m in groups["convs.1.weight"].members if m.parameter == "reduce.weight")
    assert (member.dim, member.indices, member.channels) == (1, (10, 11, 12, 13), (0, 1, 2, 3))
    assert ("norms.2.bias", 0) in places(groups["convs.0.weight"])
    assert ("norms.0.bias", 0) not in places(groups["convs.0.weight"])


def test_a_depthwise_convolution_goes_with_its_inputs() -> None:
    groups = by_name(network("mobile"))
    assert ("blocks.0.layers.2.0.weight", 0) in places(groups["blocks.0.layers.0.0.weight"])
    assert "blocks.0.layers.2.0.weight" not in groups


def test_a_depthwise_convolution_with_a_multiplier_owns_several_outputs() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 3, groups=4), nn.Conv2d(8, 2, 1))
    group = by_name(model)["0.weight"]
    (member,) = (m for m in group.members if m.parameter == "2.weight")
    assert member.channels == (0, 0, 1, 1, 2, 2, 3, 3)


def test_after_flattening_a_channel_owns_a_column_for_each_place() -> None:
    (member,) = (m for m in by_name(network("plain"))["3.weight"].members if m.parameter == "7.weight")
    assert member.indices == tuple(range(28))
    assert member.channels == tuple(np.repeat(np.arange(7), 4))


def test_a_gate_couples_what_makes_it_with_what_it_multiplies() -> None:
    groups = by_name(network("squeeze"))
    assert {("up.weight", 0), ("up.bias", 0), ("down.weight", 1), ("out.weight", 1)} < places(groups["stem.0.weight"])


def test_tied_weights_are_one_member() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.once, self.leave = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)
            self.twice = nn.Linear(6, 6)
            self.twice.weight = self.once.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.leave(F.relu(self.twice(F.relu(self.once(F.relu(self.enter(x)))))))

    group = by_name(Tied(), (torch.zeros(1, 4),))["enter.weight"]
    assert {("once.weight", 0), ("once.weight", 1), ("twice.bias", 0), ("leave.weight", 1)} < {
        (name.replace("twice.weight", "once.weight"), dim) for name, dim in places(group)
    }


class Around(nn.Module):
    """Two linear layers around any function of the hidden units [n, 8]."""

    def __init__(self, between: object) -> None:
        super().__init__()
        self.enter, self.leave, self.between = nn.Linear(4, 8), nn.Linear(8, 2), between

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.between(self.enter(x)))


@pytest.mark.parametrize(
    ("between", "said"),
    [
        (lambda x: F.layer_norm(x, (8,)), "layer_norm"),
        (lambda x: x.cumsum(1), "cumsum"),
        (lambda x: F.group_norm(x, 1), "group_norm"),
        (lambda x: x.sort(1)[0], "sort"),
        (lambda x: x.softmax(1), "softmax"),
        (lambda x: x / (x - x.mean(1, keepdim=True)).square().mean(1, keepdim=True), "mean"),
        (lambda x: x / (x - x.sum(1, keepdim=True) / 8).square().sum(1, keepdim=True), "sum"),
    ],
)
def test_what_has_no_rule_pins_what_it_touches_and_says_its_name(between: object, said: str) -> None:
    group = by_name(Around(between), (torch.zeros(1, 4),))["enter.weight"]
    assert not group.prunable
    assert said in str(group.reason)
    assert said in str(group)


def test_channels_that_are_also_an_output_are_pinned_and_the_others_are_not() -> None:
    class Peek(Around):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            hidden = self.enter(x)
            return self.leave(hidden), hidden[:, :3]

    groups = by_name(Peek(None), (torch.zeros(1, 4),))
    parts = {
        group.reason: group.size
        for name, group in groups.items()
        if name.startswith("enter.weight") and ":" not in name
    }
    assert parts == {"output of the network": 3, None: 5}


@pytest.mark.parametrize(
    "between",
    [
        lambda x: x.flip(1),
        lambda x: x[:, ::2].repeat(1, 2),
        lambda x: x.view(-1, 4, 2).transpose(1, 2).reshape(-1, 8),
        lambda x: F.pad(x, (1, 0), value=1.0)[:, :8],
        lambda x: F.group_norm(x, 2),
        lambda x: x.roll(3, 1),
        lambda x: x - x.mean(1, keepdim=True),
    ],
)
def test_what_only_moves_keeps_channels_apart(between: object) -> None:
    model, x = randomise(Around(between), 0).double(), torch.randn(5, 4, dtype=torch.float64)
    groups = channel_groups(model, (x,))
    group = next(group for group in groups if group.name == "enter.weight")
    assert group.prunable
    masks = {"enter.weight": np.arange(group.size) < group.size // 2}
    result = compact(model, (x,), masks)
    before, after = result.removed["enter.weight"]
    assert after <= before // 2, result.kept_because
    with torch.no_grad():
        want = apply_masks(model, groups, masks)(x)
        torch.testing.assert_close(result.graph_module(x), want, rtol=1e-10, atol=1e-10)


def test_channels_of_a_grouped_convolution_form_rows() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 2, 1))
    groups = by_name(model)
    assert groups["0.weight"].shape == groups["1.weight"].shape == (2, 4)
    (member,) = (m for m in groups["0.weight"].members if m.parameter == "1.weight")
    assert (member.dim, member.groups, member.indices) == (1, 2, tuple(range(8)))


def test_a_standardised_weight_follows_its_rows_only() -> None:
    class Standardised(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            rows = self.weight.reshape(1, self.out_channels, -1)
            weight = F.batch_norm(rows, None, None, training=True).reshape_as(self.weight)
            return F.conv2d(x, weight, self.bias)

    model = nn.Sequential(nn.Conv2d(3, 8, 1), Standardised(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1))
    groups = by_name(model)
    assert ("1.weight", 0) in places(groups["1.weight"])
    assert ("1.weight", 1) not in places(groups["0.weight"])


def test_a_batch_size_written_into_the_network_is_refused() -> None:
    model = Around(lambda x: x.view(2, 8))
    with pytest.raises(CompactionError, match="free batch size"):
        channel_groups(model, (torch.zeros(2, 4),))


@pytest.mark.parametrize("example", [(), torch.zeros(1, 4), (torch.zeros(0, 4),), (torch.tensor(1.0),), ([1.0],)])
def test_example_inputs_must_be_tensors_with_rows(example: object) -> None:
    with pytest.raises(CompactionError, match="example inputs"):
        channel_groups(Around(F.relu), example)  # type: ignore[arg-type]


def test_masks_close_producers_norms_biases_and_consumers_and_nothing_else() -> None:
    model = network("resnet").double()
    groups = channel_groups(model, EXAMPLE)
    keep = np.array([True, False, True, True, False, True])
    masked = apply_masks(model, groups, {"stem.0.weight": keep})
    before, after = model.state_dict(), masked.state_dict()
    closed = [1, 4]
    for name in ("stem.0.weight", "stem.1.weight", "stem.1.bias", "blocks.0.second.1.bias"):
        assert not after[name][closed].any()
        assert torch.equal(after[name][torch.from_numpy(keep)], before[name][torch.from_numpy(keep)])
        assert before[name][closed].any()
    assert not after["blocks.1.shortcut.0.weight"][:, closed].any()
    assert torch.equal(after["stem.1.running_var"], before["stem.1.running_var"])
    activation = F.relu(masked.stem(torch.randn(2, 3, 8, 8, dtype=torch.float64)))
    assert not activation[:, closed].any()
    assert activation[:, torch.from_numpy(keep)].any()


@pytest.mark.parametrize(
    ("masks", "said"),
    [
        ({"stem": np.ones(6, bool)}, "no channel group 'stem'"),
        ({"stem.0.weight": np.ones(5, bool)}, "needs a numpy array of 6 booleans"),
        ({"stem.0.weight": np.ones(6)}, "needs a numpy array of 6 booleans"),
        ({"stem.0.weight": [True] * 6}, "needs a numpy array of 6 booleans"),
        ({"head.weight": np.array([True, False])}, "must stay whole"),
    ],
)
def test_masks_that_do_not_fit_are_refused(masks: object, said: str) -> None:
    model = network("resnet")
    with pytest.raises(CompactionError, match=said):
        apply_masks(model, channel_groups(model, EXAMPLE), masks)  # type: ignore[arg-type]


def test_a_pin_reaches_channels_that_are_united_later() -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.leave = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            second = self.second(x)
            return self.leave(second.cumsum(1)) + self.leave(self.first(x) + second)

    assert "cumsum" in str(by_name(Late(), (torch.zeros(1, 4),))["first.weight"].reason)
