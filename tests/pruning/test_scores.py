"""What channels are worth by their weights: against loops over slices, and under permutations."""

from __future__ import annotations

import copy
import math
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from fairdeploy.compaction import ChannelGroup, channel_groups
from fairdeploy.errors import StageError
from fairdeploy.pruning.scores import Score, Subject, batch_norm_scale, chance, fpgm, l1, l2


class Residual(nn.Module):
    """Groups of a stem that a residual joins, and of a hidden layer; a depthwise convolution between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.a, self.deep = nn.Conv2d(6, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.b, self.norm_b = nn.Conv2d(8, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.head = nn.Linear(6 * 16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        return self.head((x + self.norm_b(self.b(torch.relu(self.deep(self.a(x)))))).flatten(1))


class Attention(nn.Module):
    """Two heads, whose channels own three indices each in a packed projection."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm = nn.Linear(5, 8), nn.LayerNorm(8)
        self.packed, self.out, self.head = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        rows, tokens, _ = x.shape
        q, k, v = self.packed(self.norm(x)).reshape(rows, tokens, 3, 2, -1).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(rows, tokens, -1)
        return self.head((x + self.out(mixed)).mean(1))


class Grouped(nn.Module):
    """A convolution of two groups, each of which reads channels of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 3, groups=2)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.second(torch.relu(self.first(x)))).mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(5, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


EXAMPLES = {Residual: (2, 3, 4, 4), Grouped: (2, 3, 4, 4), Attention: (2, 4, 5), Recurrent: (2, 4, 5)}
NETWORKS = list(EXAMPLES)


@cache
def subject(network: type[nn.Module]) -> Subject:
    generator = torch.Generator().manual_seed(0)
    model = network().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    groups = channel_groups(model, (torch.randn(EXAMPLES[network], generator=generator),))
    return Subject(model, tuple(group for group in groups if group.prunable))


def slices(model: nn.Module, group: ChannelGroup, channel: int) -> list[Tensor]:
    """Views of everything that is removed with a channel."""
    found = []
    for member in group.members:
        tensor = model.get_parameter(member.parameter).detach()
        for index, owner in zip(member.indices, member.channels, strict=True):
            if owner == channel and member.groups == 1:
                found.append(tensor.select(member.dim, index))
            elif owner == channel:
                outputs, (part, place) = tensor.shape[0] // member.groups, divmod(index, tensor.shape[1])
                found.append(tensor[part * outputs : (part + 1) * outputs, place])
    return found


def vector(model: nn.Module, group: ChannelGroup, channel: int) -> list[float]:
    return [float(value) for part in slices(model, group, channel) for value in part.flatten()]


def by_loops(name: str, model: nn.Module, group: ChannelGroup) -> np.ndarray:
    vectors = [vector(model, group, channel) for channel in range(group.size)]
    if name == "l1":
        values = [math.fsum(abs(value) for value in one) for one in vectors]
    elif name == "l2":
        values = [math.hypot(*one) for one in vectors]
    else:
        values = [math.fsum(math.dist(one, other) for other in vectors) for one in vectors]
    return np.array(values) / np.mean(values)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("name", "score"), [("l1", l1), ("l2", l2), ("fpgm", fpgm)])
def test_scores_are_what_loops_over_slices_give(network: type[nn.Module], name: str, score: Score) -> None:
    one = subject(network)
    found = score(one)
    assert set(found) == {group.name for group in one.groups} != set()
    for group in one.groups:
        np.testing.assert_allclose(found[group.name], by_loops(name, one.model, group), rtol=1e-6)


def test_batch_norms_scale_channels_and_other_groups_have_their_norm() -> None:
    one = subject(Residual)
    gammas = (one.model.norm.weight.abs() + one.model.norm_b.weight.abs()).detach().double().numpy()
    found = batch_norm_scale(one)
    np.testing.assert_allclose(found["stem.weight"], gammas / gammas.mean(), rtol=1e-6)
    np.testing.assert_array_equal(found["a.weight"], l2(one)["a.weight"])


def test_a_network_that_is_a_batch_norm_away_is_understood() -> None:
    network = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([-4.0, 1.0, 0.0, 3.0]))
    groups = tuple(group for group in channel_groups(network, (torch.randn(2, 5),)) if group.prunable)
    assert batch_norm_scale(Subject(network, groups))["0.weight"].tolist() == [2.0, 0.5, 0.0, 1.5]


@pytest.mark.parametrize("network", [Attention, Grouped, Recurrent])
def test_without_batch_norms_there_is_no_scale(network: type[nn.Module]) -> None:
    with pytest.raises(StageError, match="batch-norm-scale needs batch norms .* the network has none"):
        batch_norm_scale(subject(network))


def test_a_channel_that_others_can_replace_goes_first() -> None:
    network = nn.Sequential(nn.Linear(2, 4, bias=False), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[9.0, 0], [0, 9.0], [1.0, 1.0], [9.0, 9.0]]))
        network[1].weight.fill_(1.0)
    groups = tuple(group for group in channel_groups(network, (torch.randn(3, 2),)) if group.prunable)
    one = Subject(network, groups)
    assert int(fpgm(one)["0.weight"].argmin()) == 2
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[9.0, 9.0], [9.0, 9.0], [0, 0], [9.0, 8.0]]))
    assert int(fpgm(one)["0.weight"].argmax()) == 2, "the smallest norm is the hardest to replace"
    assert int(l2(one)["0.weight"].argmin()) == 2


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(8)))
def test_scores_move_with_their_channels(order: list[int]) -> None:
    one = subject(Residual)
    moved = copy.deepcopy(one.model)
    with torch.no_grad():
        for part in (moved.a.weight, moved.a.bias, moved.deep.weight, moved.deep.bias):
            part.copy_(part[order])
        moved.b.weight.copy_(moved.b.weight[:, order])
    other = Subject(moved, one.groups)
    for score in (l1, l2, fpgm, batch_norm_scale):
        before, after = score(one), score(other)
        np.testing.assert_allclose(after["a.weight"], before["a.weight"][order], rtol=1e-9)
        np.testing.assert_allclose(after["stem.weight"], before["stem.weight"], rtol=1e-9)


def test_chance_is_the_seeds() -> None:
    one = subject(Residual)
    first, again, other = (chance(Subject(one.model, one.groups, seed=seed)) for seed in (1, 1, 2))
    for group in one.groups:
        assert first[group.name].shape == (group.size,)
        assert first[group.name].tobytes() == again[group.name].tobytes() != other[group.name].tobytes()
    assert not np.array_equal(first["stem.weight"], first["a.weight"][:6])


def test_every_group_has_a_mean_of_one_and_a_dead_one_of_zero() -> None:
    dead = copy.deepcopy(subject(Residual).model)
    with torch.no_grad():
        for part in (dead.a, dead.deep, dead.b):
            for parameter in part.parameters():
                parameter.zero_()
    one = Subject(dead, subject(Residual).groups)
    for score in (l1, l2, fpgm):
        found = score(one)
        assert found["stem.weight"].mean() == pytest.approx(1)
        assert not found["a.weight"].any()


@pytest.mark.parametrize("score", [l1, l2, fpgm, batch_norm_scale])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_refused(score: Score, value: float) -> None:
    broken = copy.deepcopy(subject(Residual).model)
    with torch.no_grad():
        broken.a.weight[3] = value
    with pytest.raises(StageError, match=r"channels of '.*' have no finite score"):
        score(Subject(broken, subject(Residual).groups))


def test_what_a_parametrisation_computes_is_scored() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    computed = copy.deepcopy(plain)
    nn.utils.parametrizations.weight_norm(computed[0])
    found = []
    for network in (plain, computed):
        groups = tuple(group for group in channel_groups(network, (torch.randn(2, 5),)) if group.prunable)
        found.append(l2(Subject(network, groups)))
    np.testing.assert_allclose(found[1]["0.weight"], found[0]["0.weight"], rtol=1e-6)


def test_the_network_stays_as_it_is() -> None:
    one = subject(Residual)
    before = {name: tensor.clone() for name, tensor in one.model.state_dict().items()}
    for score in (l1, l2, fpgm, batch_norm_scale, chance):
        score(one)
    assert all(torch.equal(tensor, before[name]) for name, tensor in one.model.state_dict().items())
