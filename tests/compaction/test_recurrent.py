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
from fairdeploy.graphs import load_graph, save_graph

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
    """Zero the rows of matrices; biases stay, so that what is closed holds a constant, at every step another."""
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


class Small(nn.Module):
    """One layer between a linear one and a head that reads the last step."""

    def __init__(self, kind: type[nn.RNNBase], *, bias: bool = True, shifted: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Linear(FEATURES, 4), nn.Linear(5, 2)
        self.rnn = kind(4, 5, bias=bias, batch_first=True)
        self.register_buffer("shift", torch.randn(STEPS, 4) if shifted else torch.zeros(STEPS, 4))
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.stem(x) + self.shift)[0][:, -1])

    def close(self, unit: int, *, gates: range | None = None, biases: bool = True, columns: bool = False) -> None:
        rows = [5 * gate + unit for gate in gates or range(self.rnn.weight_hh_l0.shape[0] // 5)]
        for name, parameter in self.rnn.named_parameters():
            if biases or not name.startswith("bias"):
                parameter.data[rows] = 0
        if columns:
            self.rnn.weight_hh_l0.data[:, unit] = 0


KINDS = pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
SMALL = inputs("", 2)


def units_left(model: nn.Module) -> tuple[int, CompactModel]:
    result = compact(model, SMALL)
    assert_equal(model, result, "")
    return result.removed["rnn.weight_ih_l0"][1], result


@KINDS
def test_a_unit_that_is_always_zero_goes(kind: type[nn.RNNBase]) -> None:
    model = Small(kind)
    model.close(2)
    assert units_left(model)[0] == 4


@KINDS
def test_a_unit_whose_candidate_is_zero_is_zero_whatever_its_other_gates_read(kind: type[nn.RNNBase]) -> None:
    model = Small(kind)
    candidate = {nn.LSTM: 2, nn.GRU: 2, nn.RNN: 0}[kind]
    model.close(2, gates=range(candidate, candidate + 1))
    assert units_left(model)[0] == 4
    if kind is not nn.RNN:
        model = Small(kind)
        model.close(2, gates=range(candidate))
        assert units_left(model)[0] == 5


@KINDS
def test_a_constant_unit_goes_into_the_head_unless_it_is_fed_back(kind: type[nn.RNNBase]) -> None:
    model = Small(kind)
    model.close(2, biases=False)
    left, result = units_left(model)
    assert left == 5
    assert "fed back" in result.kept_because["rnn.weight_ih_l0"]
    model.close(2, biases=False, columns=True)
    assert units_left(model)[0] == 4


@KINDS
def test_a_unit_that_only_feeds_others_stays(kind: type[nn.RNNBase]) -> None:
    model = Small(kind)
    model.head.weight.data[:, 2] = 0
    assert units_left(model)[0] == 5
    model.rnn.weight_hh_l0.data[:, 2] = 0
    assert units_left(model)[0] == 4


@KINDS
def test_a_unit_between_two_others_stays(kind: type[nn.RNNBase]) -> None:
    """It reads another unit alone and is read by another alone."""
    model = Small(kind)
    model.rnn.weight_ih_l0.data[2::5] = 0
    model.head.weight.data[:, 2] = 0
    assert units_left(model)[0] == 5


@KINDS
def test_constants_of_removed_inputs_go_into_the_bias(kind: type[nn.RNNBase]) -> None:
    model = Small(kind)
    model.stem.weight.data[1:3] = 0
    result = compact(model, SMALL)
    assert result.removed["stem.weight"] == (4, 2)
    assert result.not_own_class is None
    assert_equal(model, result, "")


@pytest.mark.parametrize(
    ("bias", "shifted", "why"), [(False, False, "no bias of its own"), (True, True, "differs from step to step")]
)
def test_constants_that_no_bias_takes_stay_and_the_result_says_why(bias: bool, shifted: bool, why: str) -> None:
    model = Small(nn.LSTM, bias=bias, shifted=shifted)
    model.stem.weight.data[1:3] = 0
    model.rnn.weight_ih_l0.data[:, 2] = 0
    result = compact(model, SMALL)
    assert result.removed["stem.weight"] == (4, 3)
    assert why in result.kept_because["stem.weight"]
    assert_equal(model, result, "")


@KINDS
def test_the_users_class_comes_back_with_its_sizes_and_trains(kind: type[nn.RNNBase]) -> None:
    model = Small(kind)
    result = compact(model, SMALL, {"rnn.weight_ih_l0": np.arange(5) < 3, "stem.weight": np.arange(4) > 0})
    assert isinstance(result.module, Small)
    assert (result.module.rnn.input_size, result.module.rnn.hidden_size) == (3, 3)
    result.module.train()(*SMALL).sum().backward()
    assert all(parameter.grad is not None for parameter in result.module.rnn.parameters())


def test_layers_of_unlike_widths_are_a_graph_and_it_says_so() -> None:
    result = compact(network("stacked"), inputs("stacked", 2), {"rnn.weight_ih_l1": np.arange(7) < 3})
    assert result.not_own_class is not None
    assert result.removed["rnn.weight_ih_l0"] == (7, 7)


def test_a_graph_of_unlike_widths_trains_with_dropout_between_its_layers() -> None:
    masks = {"rnn.weight_ih_l1": np.arange(7) < 3}
    tuned = compact(network("classifier"), inputs("classifier", 2), masks).trainable()
    x = inputs("classifier", 4)
    masked = apply_masks(network("classifier"), groups_of("classifier"), masks)
    torch.testing.assert_close(tuned.eval()(*x), masked(*x), rtol=1e-9, atol=1e-9)
    tuned.train()
    assert not torch.equal(tuned(*x), tuned(*x))


def test_projections_have_no_rule_and_stay() -> None:
    model = nn.Sequential(nn.Linear(FEATURES, 6), nn.LSTM(6, 7, 2, proj_size=3, batch_first=True)).double()
    (group, *_) = [g for g in channel_groups(model, SMALL) if g.name == "0.weight"]
    assert group.reason == "lstm has no rule"
    result = compact(model, SMALL)
    assert result.unknown_ops == ("lstm",)
    assert result.not_own_class is None


def test_states_from_outside_keep_their_units() -> None:
    class Outside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.GRU(FEATURES, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x: Tensor, start: Tensor) -> Tensor:
            return self.head(self.rnn(x, start[None])[0])

    rows = (*SMALL, torch.randn(2, 4, dtype=torch.float64))
    groups = {group.name: group.reason for group in channel_groups(Outside().double(), rows)}
    assert groups["rnn.weight_ih_l0"] == "its initial state is not made of channels"


@pytest.mark.parametrize("name", ["tagger", "stacked", "classifier"])
def test_it_is_saved_loaded_and_runs_in_onnx_runtime(name: str, tmp_path: Path) -> None:
    model = network(name).float()
    example = tuple(value.float() if value.is_floating_point() else value for value in inputs(name, 2))
    masks = random_masks(name, np.random.default_rng(5))
    save_graph(compact(model, example, masks).graph_module, tmp_path)
    masked, loaded = apply_masks(model, groups_of(name), masks), load_graph(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch = ({0: torch.export.Dim("batch", min=1)},)
        program = torch.onnx.export(loaded, example, dynamic_shapes=batch, dynamo=True, verbose=False)
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for rows in (1, 5):
        (x,) = inputs(name, rows, 7)
        x = x.float() if x.is_floating_point() else x
        want = masked(x).detach()
        torch.testing.assert_close(loaded(x), want, rtol=1e-5, atol=1e-5)
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)
