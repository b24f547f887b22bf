"""Recurrent layers: masked against compact in float64, and what may go of hidden units and what may not."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from fairdeploy.compaction import (
    ChannelGroup,
    CompactModel,
    apply_masks,
    channel_groups,
    compact,
    count_macs,
    groups_and_macs,
)
from fairdeploy.compaction.graph_file import load_graph, save_graph

STEPS, FEATURES, WORDS = 3, 5, 30
Inputs = tuple[Tensor, ...]


class Tagger(nn.Module):
    """A tag for each word."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 7)
        self.rnn = nn.LSTM(7, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.rnn(self.words(words))[0])


class Stacked(nn.Module):
    """Layers of any kind between two linear ones, read at the last step."""

    def __init__(
        self, kind: type[nn.RNNBase] = nn.LSTM, layers: int = 2, both_ways: bool = True, bias: bool = True
    ) -> None:
        super().__init__()
        self.stem = nn.Linear(FEATURES, 6)
        self.rnn = kind(6, 7, layers, bias=bias, bidirectional=both_ways, batch_first=True)
        self.head = nn.Linear(7 * (1 + both_ways), 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(torch.relu(self.stem(x)))[0][:, -1])


class Classifier(nn.Module):
    """Reads what the top layer is left with."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(FEATURES, 6, 3, padding=1)
        self.rnn = nn.GRU(6, 7, num_layers=2, dropout=0.5, batch_first=True)
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x.transpose(1, 2))).transpose(1, 2)
        return self.head(self.rnn(x)[1][-1])


class TimeMajor(nn.Module):
    """Time first, no biases, both states of both directions read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(FEATURES, 6)
        self.rnn = nn.LSTM(6, 7, bias=False, bidirectional=True)
        self.hidden, self.memory = nn.Linear(14, 3), nn.Linear(14, 3)

    def forward(self, x: Tensor) -> Tensor:
        _, (hidden, memory) = self.rnn(self.stem(x).transpose(0, 1))
        return self.hidden(torch.cat([hidden[-2], hidden[-1]], 1)) + self.memory(memory.transpose(0, 1).flatten(1))


class Decoder(nn.Module):
    """Starts from states that are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.memory = nn.Linear(FEATURES, 14), nn.Linear(FEATURES, 7)
        self.first = nn.GRU(FEATURES, 7, 2, batch_first=True)
        self.second = nn.LSTM(7, 7, batch_first=True)
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        start = self.hidden(x[:, 0])
        y, last = self.first(x, torch.stack([start[:, :7], start[:, 7:]]))
        y, _ = self.second(y, (last[-1:], torch.tanh(self.memory(x[:, 1]))[None]))
        return self.head(y)


class Twins(nn.Module):
    """One layer that reads two sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.rnn, self.head = nn.Linear(FEATURES, 6), nn.GRU(6, 7, batch_first=True), nn.Linear(14, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        ends = [self.rnn(x)[0][:, -1], self.rnn(x.flip(1))[0][:, -1]]
        return self.head(torch.cat(ends, 1))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "tagger": Tagger,
    "stacked": Stacked,
    "classifier": Classifier,
    "time_major": TimeMajor,
    "decoder": Decoder,
    "twins": Twins,
    "plain": lambda: Stacked(nn.RNN),
    "no_bias": lambda: Stacked(nn.GRU, 2, both_ways=False, bias=False),
}


def network(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return NETWORKS[name]().double().eval()


def inputs(name: str, rows: int, seed: int = 1) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    if name == "tagger":
        return (torch.randint(WORDS, (rows, STEPS), generator=generator),)
    return (torch.randn(rows, STEPS, FEATURES, dtype=torch.float64, generator=generator),)


@cache
def groups_of(name: str) -> tuple[ChannelGroup, ...]:
    return channel_groups(network(name), inputs(name, 2))


def random_masks(name: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    masks = {group.name: rng.random(group.size) < 0.6 for group in groups_of(name) if group.prunable}
    for mask in masks.values():
        mask[rng.integers(len(mask))] = True
    return masks


def whole_groups(name: str, model: nn.Module, rng: np.random.Generator) -> nn.Module:
    return apply_masks(model, groups_of(name), random_masks(name, rng))


def producers_only(name: str, model: nn.Module, rng: np.random.Generator) -> nn.Module:
    """Zero the rows of matrices; biases stay, so that what is closed holds a constant that may differ from step to step."""
    masks, masked = random_masks(name, rng), copy.deepcopy(model)
    parameters = dict(masked.named_parameters())
    with torch.no_grad():
        for group in groups_of(name):
            for member in group.members:
                if group.name in masks and member.dim == 0 and parameters[member.parameter].ndim > 1:
                    closed = [
                        i for i, c in zip(member.indices, member.channels, strict=True) if not masks[group.name][c]
                    ]
                    member.close(parameters[member.parameter], closed)
    return masked


def unaligned(name: str, model: nn.Module, rng: np.random.Generator) -> nn.Module:
    """Zero rows, columns and vector elements at random, in no relation to the groups or the gates."""
    masked = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in masked.parameters():
            for dim in range(parameter.ndim):
                parameter.index_fill_(dim, torch.from_numpy(np.flatnonzero(rng.random(parameter.shape[dim]) < 0.4)), 0)
    return masked


STYLES = {"groups": whole_groups, "producers": producers_only, "unaligned": unaligned}


def masked_network(name: str, style: str, seed: int) -> nn.Module:
    """Return a masked network whose output still depends on its input."""
    rng = np.random.default_rng(seed)
    model = network(name, seed)
    for _ in range(50):
        masked = STYLES[style](name, model, rng)
        x = inputs(name, 8, 99)
        with torch.no_grad():
            if (masked(*x) - masked(*(value.roll(1, 0) for value in x))).abs().max() > 1e-4:
                return masked
    raise AssertionError("every mask cuts the network through")


def assert_equal(masked: nn.Module, result: CompactModel, name: str) -> None:
    for rows in (1, 7):
        x = inputs(name, rows, rows)
        with torch.no_grad():
            want, module, graph = masked(*x), result.module(*x), result.graph_module(*x)
        for got in (module, graph):
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9 * float(want.abs().max()))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_stay(name: str, style: str) -> None:
    masked = masked_network(name, style, 1)
    result = compact(masked, inputs(name, 2))
    assert not result.unknown_ops
    assert_equal(masked, result, name)
    assert style != "groups" or result.parameters_after < result.parameters_before


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_asked_for_is_removed(name: str) -> None:
    model, masks = network(name), random_masks(name, np.random.default_rng(5))
    result = compact(model, inputs(name, 2), masks)
    assert {group: after for group, (_, after) in result.removed.items()} == {g: int(m.sum()) for g, m in masks.items()}
    members = [member.parameter for group in groups_of(name) if group.name in masks for member in group.members]
    assert {n for n, _ in model.named_parameters() if "weight_hh" in n} <= set(members)
    assert not result.kept_because
    _, macs = groups_and_macs(model, inputs(name, 2))
    assert macs({}) == result.macs_before
    assert macs(masks) == result.macs_after == count_macs(result.module, inputs(name, 2))


@pytest.mark.parametrize("style", ["producers", "unaligned"])
@pytest.mark.parametrize("name", ["stacked", "classifier", "time_major"])
def test_what_stays_matters(name: str, style: str) -> None:
    """A channel that stayed changes the output when it is closed, unless the result says why it stayed."""
    result = compact(masked_network(name, style, 3), inputs(name, 2))
    x = inputs(name, 64, 3)
    groups = channel_groups(result.module, inputs(name, 2))
    with torch.no_grad():
        whole = result.module(*x)
        for group in groups:
            if not group.prunable or group.name in result.kept_because or group.size == 1:
                continue
            for channel in range(group.size):
                closed = apply_masks(result.module, groups, {group.name: np.arange(group.size) != channel})
                assert not torch.equal(closed(*x), whole), f"{group.name}[{channel}] could have gone"
