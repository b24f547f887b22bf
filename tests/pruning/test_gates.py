"""Gates: ones change nothing, zeros are masks, and gradients flow through both, whatever the network is made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fairdeploy.compaction import ChannelGroup, apply_masks, channel_groups
from fairdeploy.errors import StageError
from fairdeploy.pruning.gates import Gated, closing_members
from tests.compaction import hard

# grouped, transposed and depthwise convolutions, shuffled channels; attention, apart and fused; recurrent layers;
# norms; tied weights; several inputs and outputs
NAMES = (
    "grouped", "grouped_transposed", "depthwise_multiplier", "channel_shuffle", "attention_unbind", "grouped_query",
    "multihead_attention", "recurrent", "group_norm", "embeddings", "tied_convolutions", "several_inputs",
)  # fmt: skip


def flat(outputs: object) -> Tensor:
    """All outputs of a network in one tensor."""
    return torch.cat([part.flatten().double() for part in pytree.tree_leaves(outputs)])


def subject(name: str) -> tuple[nn.Module, tuple[ChannelGroup, ...], tuple[Tensor, ...], Gated]:
    model, groups = hard.subject(name)
    rows = hard.rows_for(name, 8, 1)
    model, rows = model.double(), tuple(part.double() if part.is_floating_point() else part for part in rows)
    groups = tuple(group for group in groups if group.prunable)
    return model, groups, rows, Gated(model, groups, closing_members(model, groups, rows))


@pytest.mark.parametrize("name", NAMES)
def test_ones_change_nothing_zeros_are_masks_and_closed_gates_can_open(name: str) -> None:
    model, groups, rows, gated = subject(name)
    assert groups, name
    assert gated.gates.keys() == {group.name for group in groups}
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with torch.no_grad():
        whole = flat(model(*rows))
        torch.testing.assert_close(flat(gated(*rows)), whole, rtol=1e-12, atol=1e-12)
        parameters = dict(model.named_parameters())
        torch.testing.assert_close(flat(gated.apart(parameters, gated.gates, rows)), whole, rtol=1e-12, atol=1e-12)
    random = np.random.default_rng(0)
    stay = {group.name: hard.rectangular(group, random) for group in groups}
    gates = {key: torch.from_numpy(mask.astype(np.float64)).requires_grad_() for key, mask in stay.items()}
    gated.gates = gates
    outputs = flat(gated(*rows))
    with torch.no_grad():
        masked = flat(apply_masks(model, groups, stay)(*rows))
    torch.testing.assert_close(outputs.detach(), masked, rtol=1e-9, atol=1e-9 * float(masked.abs().max()))
    weights = torch.from_numpy(random.standard_normal(tuple(outputs.shape)))
    slopes = torch.autograd.grad((outputs * weights).sum(), list(gates.values()), allow_unused=True)
    for key, slope in zip(stay, slopes, strict=True):
        assert slope is not None, key
        assert bool(torch.isfinite(slope).all()), key
    closed = np.concatenate([slope.numpy()[~mask] for slope, mask in zip(slopes, stay.values(), strict=True)])  # type: ignore[union-attr]
    assert closed.size
    assert np.abs(closed).max() > 0, "a closed gate would never open again"
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def convolutions() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8),
            nn.ReLU(), nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2),
        ).eval()  # fmt: skip
        model[1].bias.data.normal_()
    return model.double()


@pytest.fixture(scope="module")
def small() -> tuple[nn.Module, tuple[ChannelGroup, ...], Tensor, dict[str, tuple[object, ...]]]:
    model, x = convolutions(), torch.randn(5, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    groups = tuple(group for group in channel_groups(model, (x,)) if group.prunable)
    return model, groups, x, closing_members(model, groups, (x,))  # type: ignore[return-value]


def test_the_fewest_members_are_multiplied(small: tuple) -> None:  # type: ignore[type-arg]
    """What reads channels closes them; a depthwise layer alone needs nothing of its own."""
    _, groups, _, closing = small
    assert len(groups) == 2
    assert [[member.parameter for member in members] for members in closing.values()] == [["5.weight"], ["8.weight"]]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 1), min_size=14, max_size=14))
def test_any_mask_is_the_network_with_zeros(small: tuple, bits: list[int]) -> None:  # type: ignore[type-arg]
    model, groups, x, closing = small
    masks = {groups[0].name: np.array(bits[:8], bool), groups[1].name: np.array(bits[8:], bool)}
    gated = Gated(model, groups, closing)
    gated.gates = {name: torch.from_numpy(mask) for name, mask in masks.items()}
    with torch.no_grad():
        torch.testing.assert_close(gated(x), apply_masks(model, groups, masks)(x))


def test_the_slope_of_a_gate_is_that_of_finite_differences(small: tuple) -> None:  # type: ignore[type-arg]
    model, groups, x, closing = small
    gated = Gated(model, groups, closing)
    name, at = groups[0].name, torch.linspace(0, 1, 8, dtype=torch.float64)

    def loss(gate: Tensor) -> Tensor:
        gated.gates = {**gated.gates, name: gate}
        return gated(x).square().mean()

    assert torch.autograd.gradcheck(loss, (at.requires_grad_(),))


def test_statistics_stay_when_outputs_are_asked_for_apart(small: tuple) -> None:  # type: ignore[type-arg]
    model, groups, x, closing = small
    gated = Gated(model, groups, closing).train()
    before = {name: tensor.clone() for name, tensor in model.named_buffers()}
    weights = {name: 2 * tensor for name, tensor in model.named_parameters()}
    apart = gated.apart(weights, gated.gates, (x,))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_buffers())
    gated.eval()
    assert not torch.allclose(apart, gated(x))


def test_weights_learn_under_gates(small: tuple) -> None:  # type: ignore[type-arg]
    """A weight behind a closed gate has no slope; the others have."""
    model, groups, x, closing = small
    gated = Gated(model, groups, closing)
    gated.gates[groups[1].name] = torch.tensor([0.0, 1, 1, 1, 1, 1], dtype=torch.float64)
    (slope,) = torch.autograd.grad(gated(x).square().sum(), [model.get_parameter("5.weight")])
    assert float(slope[0].abs().max()) == 0
    assert float(slope[1:].abs().amax(dim=(1, 2, 3)).min()) > 0


def test_weights_that_are_computed_are_refused() -> None:
    with pytest.raises(StageError, match=r"layers.2.weight is computed from other parameters, so no gate can"):
        subject("weight_norm")


def test_a_channel_that_only_a_second_output_reads_is_closed_there() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.one, self.other = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            hidden = self.stem(x).relu() + 1
            return self.one(hidden), self.other(hidden)

    torch.manual_seed(0)
    model, x = Two().double().eval(), torch.randn(3, 4, dtype=torch.float64)
    (group,) = (group for group in channel_groups(model, (x,)) if group.prunable)
    (closing,) = closing_members(model, [group], (x,)).values()
    assert {member.parameter for member in closing} >= {"one.weight", "other.weight"}


def test_an_example_of_zeros_is_enough() -> None:
    """Of a network without biases it shows nothing."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.Tanh(), nn.Linear(6, 2, bias=False)).eval()
    groups = channel_groups(model, (torch.zeros(2, 4),))
    (closing,) = closing_members(model, groups, (torch.zeros(2, 4),)).values()
    assert [member.parameter for member in closing] == ["2.weight"]
