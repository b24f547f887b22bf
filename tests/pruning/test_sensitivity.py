"""What channels are worth by the loss: against gates put into networks by hand, finite differences, and invariances."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fairdeploy.compaction import ChannelGroup, channel_groups
from fairdeploy.errors import StageError
from fairdeploy.pruning.gates import closing_members
from fairdeploy.pruning.problem import Batch, Objective, Problem
from fairdeploy.pruning.scores import Score, Subject
from fairdeploy.pruning.sensitivity import fairgrape, fisher, taylor

CROSS_ENTROPY = Objective(
    loss=lambda outputs, targets: functional.cross_entropy(outputs, targets, reduction="none"),
    right=lambda outputs, targets: outputs.argmax(1) == targets,
    distance=lambda outputs, teacher: (outputs - teacher).square().mean(1),
)
TONES = {"tone": ("light", "dark")}
BOTH = {"tone": ("light", "dark"), "age": ("young", "middle", "old")}
SCORES = pytest.mark.parametrize("score", [taylor, fisher, fairgrape])


@dataclass(frozen=True)
class Batches:
    """A stream of the same batches in every epoch."""

    batches: tuple[Batch, ...]

    @property
    def steps(self) -> int:
        return len(self.batches)

    def epoch(self, number: int) -> Iterator[Batch]:
        return iter(self.batches)


def problem_of(
    *batches: Batch,
    groups: Mapping[str, tuple[str, ...]] = BOTH,
    objective: Objective = CROSS_ENTROPY,
    classes: int = 2,
) -> Problem:
    stream = Batches(batches)
    return Problem(
        train=stream, upper=stream, prune=stream, recover=stream, objective=objective, groups=groups, classes=classes
    )


def batch(shape: tuple[int, ...], rows: int, seed: int, groups: Mapping[str, tuple[str, ...]] = BOTH) -> Batch:
    """Random rows; some do not say their group."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn((rows, *shape), generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 2, (rows,), generator=generator)
    levels = [torch.randint(-1, len(names), (rows,), generator=generator) for names in groups.values()]
    return Batch((inputs,), labels, torch.stack(levels), labels)


class Gateable(nn.Module):
    """A residual network that multiplies activations by gates where its channels run, if it is given any."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5)
        self.a, self.norm_a = nn.Conv2d(5, 7, 3, padding=1, bias=False), nn.BatchNorm2d(7)
        self.b = nn.Conv2d(7, 5, 1)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor, gates: dict[str, Tensor] | None = None) -> Tensor:
        stem, a = (1.0, 1.0) if gates is None else (gates["stem.weight"], gates["a.weight"])
        x = torch.relu(self.norm(self.stem(x)))
        y = self.b(torch.relu(self.norm_a(self.a(x * stem))) * a)
        return self.head(((x + y) * stem).mean((2, 3)))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm = nn.Linear(5, 6), nn.LayerNorm(6)
        self.packed, self.out, self.head = nn.Linear(6, 24), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        rows, tokens, _ = x.shape
        q, k, v = self.packed(self.norm(x)).reshape(rows, tokens, 3, 2, -1).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(rows, tokens, -1)
        return self.head((x + self.out(mixed)).mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(5, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def randomised(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]:
            tensor.copy_(0.2 + 0.7 * torch.rand(tensor.shape, generator=generator))
            tensor.mul_(torch.where(torch.rand(tensor.shape, generator=generator) < 0.5, -1.0, 1.0)).abs_() if (
                tensor.dim() == 1
            ) else tensor.sub_(0.55)
    return model.double().eval()


def subject(model: nn.Module, problem: Problem) -> Subject:
    example = tuple(part[:2] for part in next(problem.prune.epoch(0)).inputs)
    return Subject(model, tuple(g for g in channel_groups(model, example) if g.prunable), problem)


@pytest.fixture(scope="module")
def gateable() -> Subject:
    model = randomised(Gateable())
    return subject(model, problem_of(batch((3, 6, 6), 9, 0), batch((3, 6, 6), 8, 1), batch((3, 6, 6), 3, 2)))


def by_hand(one: Subject, losses_of: Callable[[Tensor], Tensor], rows: Batch) -> dict[str, NDArray[np.float64]]:
    """The derivative of a sum of losses with respect to gates on activations."""
    gates = {g.name: torch.ones(g.size, 1, 1, dtype=torch.float64, requires_grad=True) for g in one.groups}
    outputs = one.model(rows.inputs[0], gates)
    losses = CROSS_ENTROPY.loss(outputs, rows.targets)
    slopes = torch.autograd.grad(losses_of(losses), list(gates.values()))
    return {name: slope.flatten().numpy() for name, slope in zip(gates, slopes, strict=True)}


def row(rows: Batch, place: int) -> Batch:
    one = slice(place, place + 1)
    return Batch((rows.inputs[0][one],), rows.labels[one], rows.groups[:, one], rows.targets[one])


def assert_same(found: Mapping[str, Any], wanted: Mapping[str, NDArray[np.float64]]) -> None:
    assert set(found) == set(wanted) != set()
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values / values.mean(), rtol=1e-8)


def test_taylor_squares_the_slope_of_every_batch(gateable: Subject) -> None:
    assert gateable.problem is not None
    wanted = {group.name: np.zeros(group.size) for group in gateable.groups}
    for rows in gateable.problem.prune.epoch(0):
        for name, slope in by_hand(gateable, torch.mean, rows).items():
            wanted[name] += slope**2
    assert_same(taylor(gateable), wanted)


def test_fisher_squares_the_slope_of_every_row_and_counts_every_cell_the_same(gateable: Subject) -> None:
    assert gateable.problem is not None
    wanted = {group.name: np.zeros(group.size) for group in gateable.groups}
    for attribute, names in enumerate(BOTH.values()):
        for level in range(len(names)):
            for label in range(2):
                squares = [
                    {name: slope**2 for name, slope in by_hand(gateable, torch.sum, row(rows, place)).items()}
                    for rows in gateable.problem.prune.epoch(0)
                    for place in range(len(rows))
                    if rows.groups[attribute, place] == level and rows.labels[place] == label
                ]
                for name in wanted if squares else ():
                    wanted[name] += np.mean([one[name] for one in squares], axis=0)
    assert_same(fisher(gateable), wanted)


def test_fairgrape_selects_for_the_group_that_is_furthest_below_its_share(gateable: Subject) -> None:
    assert gateable.problem is not None
    importance = {group.name: np.zeros((5, group.size)) for group in gateable.groups}
    for rows in gateable.problem.prune.epoch(0):
        for place, (attribute, level) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]):
            own = rows.groups[attribute] == level
            if own.any():
                for name, slope in by_hand(gateable, lambda losses, own=own: losses[own].mean(), rows).items():
                    importance[name][place] += slope**2
    found = fairgrape(gateable)
    for name, of_group in importance.items():
        wanted = of_group.sum(1) / of_group.sum()
        order: list[int] = []
        for _ in range(of_group.shape[1]):
            share = of_group[:, order].sum(1) / of_group[:, order].sum() if order else np.full(5, 0.2)
            left = [channel for channel in range(of_group.shape[1]) if channel not in order]
            order.append(left[int(of_group[(share - wanted).argmin(), left].argmax())])
        assert np.argsort(-found[name]).tolist() == order


def shifted(one: Subject, members: Mapping[str, Any], group: ChannelGroup, channel: int, step: float) -> nn.Module:
    """The network with a channel's gate a step above one."""
    model = copy.deepcopy(one.model)
    with torch.no_grad():
        for member in members[group.name]:
            for index, owner in zip(member.indices, member.channels, strict=True):
                if owner == channel:
                    model.get_parameter(member.parameter).select(member.dim, index).mul_(1 + step)
    return model


@pytest.mark.parametrize("network", [Attention, Recurrent])
def test_slopes_are_finite_differences_of_gates_in_any_architecture(network: type[nn.Module]) -> None:
    rows = batch((4, 5), 6, 3, TONES)
    model = randomised(network())
    one = subject(model, problem_of(rows, groups=TONES))
    members, step = closing_members(model, one.groups, rows.inputs), 1e-5
    by_mean, by_row = {}, {}
    cells = torch.where(rows.groups[0] >= 0, rows.groups[0] * 2 + rows.labels, -1)
    for group in one.groups:
        slopes = np.zeros((group.size, len(rows)))
        for channel in range(group.size):
            with torch.no_grad():
                up, down = (
                    CROSS_ENTROPY.loss(shifted(one, members, group, channel, sign * step)(*rows.inputs), rows.targets)
                    for sign in (1, -1)
                )
            slopes[channel] = (up - down).numpy() / (2 * step)
        by_mean[group.name] = slopes.mean(1) ** 2
        by_row[group.name] = sum(
            (slopes[:, (cells == cell).numpy()] ** 2).mean(1) for cell in range(4) if (cells == cell).any()
        )
    for found, wanted in ((taylor(one), by_mean), (fisher(one), by_row)):
        assert set(found) == set(wanted) != set()
        for name, values in wanted.items():
            np.testing.assert_allclose(found[name], values / values.mean(), rtol=1e-4, atol=1e-7)


def served(minority: int, majority: int) -> Problem:
    """The light show their label in the first two inputs, the dark in the last."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (minority + majority,), generator=generator)
    dark = torch.arange(len(labels)) < minority
    inputs = 0.1 * torch.randn((len(labels), 3), generator=generator, dtype=torch.float64)
    sign = (2.0 * labels - 1)[:, None]
    inputs += torch.where(dark[:, None], sign * torch.tensor([0, 0, 1.0]), sign * torch.tensor([1.0, 1.0, 0]))
    return problem_of(Batch((inputs,), labels, dark.long()[None], labels), groups=TONES)


def servants() -> nn.Module:
    """Two hidden channels for each input; those of the last one serve the dark alone."""
    network = nn.Sequential(nn.Linear(3, 6, bias=False), nn.ReLU(), nn.Linear(6, 2, bias=False)).double().eval()
    with torch.no_grad():
        network[0].weight.copy_(torch.eye(3).repeat_interleave(2, 0) * torch.tensor([1.0, -1.0] * 3)[:, None])
        network[2].weight.copy_(torch.tensor([[-1.0, 1.0] * 3, [1.0, -1.0] * 3]))
    return network


def test_channels_that_serve_a_minority_alone_are_dropped_by_taylor_and_kept_by_fisher_and_fairgrape() -> None:
    one = subject(servants(), served(minority=12, majority=400))
    ranks = {score: np.argsort(np.argsort(-score(one)["0.weight"])) for score in (taylor, fisher, fairgrape)}
    assert set(ranks[taylor][4:]) == {4, 5}
    assert set(ranks[fisher][4:]) == {0, 1}
    assert min(ranks[fairgrape][4:]) < 2, "one of them alone holds the share of the dark"


def test_a_cell_counts_the_same_however_many_rows_it_has() -> None:
    few = served(12, 60)
    (rows,) = few.prune.epoch(0)
    light = rows.groups[0] == 0
    more = Batch(
        (torch.cat([rows.inputs[0], rows.inputs[0][light]]),), torch.cat([rows.labels, rows.labels[light]]),
        torch.cat([rows.groups, rows.groups[:, light]], 1), torch.cat([rows.targets, rows.targets[light]]),
    )  # fmt: skip
    once, twice = (fisher(subject(servants(), one)) for one in (few, problem_of(more, groups=TONES)))
    np.testing.assert_allclose(twice["0.weight"], once["0.weight"], rtol=1e-9)


def test_rows_without_a_group_do_not_count_where_groups_do(gateable: Subject) -> None:
    rows = batch((3, 6, 6), 9, 0)
    known = batch((3, 6, 6), 9, 5)
    known.groups.clamp_(min=0)
    unknown = replace(rows, groups=torch.full_like(rows.groups, -1))
    for score in (fisher, fairgrape):
        without = score(replace(gateable, problem=problem_of(known)))
        beside = score(replace(gateable, problem=problem_of(known, unknown)))
        assert all(np.array_equal(beside[name], without[name]) for name in without)
        with pytest.raises(StageError, match="no row of the prune split says its group"):
            score(replace(gateable, problem=problem_of(unknown)))
        with pytest.raises(StageError, match="no row of the prune split says its group"):
            score(replace(gateable, problem=problem_of(replace(rows, groups=rows.groups[:0]), groups={})))
    taylor(replace(gateable, problem=problem_of(unknown)))


@SCORES
def test_the_same_network_and_rows_give_the_same_bytes_and_stay_as_they_are(gateable: Subject, score: Score) -> None:
    model = copy.deepcopy(gateable.model).train()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    frozen, first = score(replace(gateable, model=model)), score(gateable)
    assert all(frozen[name].tobytes() == first[name].tobytes() for name in first)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(part.training for part in model.modules())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.parameters())


@SCORES
def test_scores_are_found_where_gradients_are_switched_off(gateable: Subject, score: Score) -> None:
    with torch.no_grad():
        found = score(gateable)
    assert all(values.any() for values in found.values())


@SCORES
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_names_its_batch(gateable: Subject, score: Score, value: float) -> None:
    broken = batch((3, 6, 6), 4, 6)
    broken.inputs[0][2, 0, 3, 3] = value
    problem = problem_of(batch((3, 6, 6), 4, 7), broken)
    with pytest.raises(StageError, match="the loss is not finite at batch 2 of the prune split"):
        score(replace(gateable, problem=problem))


@SCORES
@pytest.mark.parametrize("problem", [None, problem_of()])
def test_no_rows_are_asked_for(gateable: Subject, score: Score, problem: Problem | None) -> None:
    with pytest.raises(StageError, match=f"{score.__name__} learns from the prune split, which has no rows"):
        score(replace(gateable, problem=problem))


@pytest.mark.parametrize(
    "targets_of",
    [
        lambda labels: [{"class": label} for label in labels],
        lambda labels: (labels, {"weights": torch.ones(len(labels))}, "a word"),
        lambda labels: [labels, torch.ones(len(labels))],
    ],
)
def test_rows_are_told_apart_whatever_their_targets_are(gateable: Subject, targets_of: Callable[[Tensor], Any]) -> None:
    def labels_in(targets: Any) -> Tensor:
        first = targets[0]
        return torch.stack([one["class"] for one in targets]) if isinstance(first, dict) else first

    own = replace(CROSS_ENTROPY, loss=lambda outputs, targets: CROSS_ENTROPY.loss(outputs, labels_in(targets)))
    rows = batch((3, 6, 6), 9, 0)
    plain = fisher(replace(gateable, problem=problem_of(rows)))
    nested = replace(rows, targets=targets_of(rows.labels))
    other = fisher(replace(gateable, problem=problem_of(nested, objective=own)))
    assert all(np.array_equal(other[name], plain[name]) for name in plain)
