"""Which channels serve whom: closing one by one, by hand and at once; and the regulariser against lonely ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fairdeploy.bundle import ContributionsRecord
from fairdeploy.compaction import ChannelGroup, apply_masks, channel_groups
from fairdeploy.errors import StageError
from fairdeploy.pruning.concentration import Concentration
from fairdeploy.pruning.gates import closing_members
from fairdeploy.pruning.problem import Batch, Problem
from fairdeploy.pruning.slices import contributions
from tests.pruning.problems import OBJECTIVE, Listed

GROUPS = {"tone": ("light", "dark"), "age": ("young", "old", "oldest")}


def split(rows: int = 600, shape: tuple[int, ...] = (4,), length: int = 100) -> list[Batch]:
    """A tenth is dark; of a sixth the age is not known; nobody is oldest."""
    random = np.random.default_rng(0)
    labels = torch.from_numpy(random.integers(0, 2, rows))
    tone = torch.from_numpy((random.random(rows) < 0.1).astype(np.int64))
    age = torch.from_numpy(random.integers(0, 2, rows))
    age[random.random(rows) < 1 / 6] = -1
    inputs = torch.from_numpy(random.standard_normal((rows, *shape)).astype(np.float32))
    parts = (torch.arange(rows)[start : start + length] for start in range(0, rows, length))
    return [Batch((inputs[at],), labels[at], torch.stack([tone, age])[:, at], labels[at]) for at in parts]


def problem(batches: Sequence[Batch], **changes: Any) -> Problem:
    stream = Listed(batches)
    whole = Problem(
        train=stream, upper=stream, prune=stream, recover=stream, objective=OBJECTIVE, groups=GROUPS, classes=2
    )
    return replace(whole, **changes)


class Residual(nn.Module):
    """A coupled group of two producers, a batch norm, and a grouped convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.ReLU())
        self.point = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.point(self.deep(x))
        return self.head(x.mean((2, 3)))


def built(make: Callable[[], nn.Module], *shape: int) -> tuple[nn.Module, tuple[ChannelGroup, ...]]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make().eval()
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.weight.data.uniform_(0.5, 1.5)
                part.bias.data.normal_(std=0.3)
        return model, channel_groups(model, (torch.randn(4, *shape),))


def residual() -> tuple[nn.Module, tuple[ChannelGroup, ...]]:
    return built(Residual, 2, 6, 6)


def lonely() -> nn.Sequential:
    """Channels 0 and 1 follow what shows the label of light people, 2 and 3 of dark ones; 4 nobody reads."""
    model = nn.Sequential(nn.Linear(2, 5, bias=False), nn.Tanh(), nn.Linear(5, 2, bias=False)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0], [1.0, 0], [0, 1.0], [0, 1.0], [1.0, 1.0]]))
        model[2].weight.copy_(torch.tensor([[-1.0, -1, -1, -1, 0], [1, 1, 1, 1, 0]]))
    return model


def two_directions(rows: int = 512, wrong: float = 0.0) -> Batch:
    """The label of each group shows in its own direction, and there is nothing in the other; some labels are wrong."""
    random = np.random.default_rng(1)
    dark, labels = random.integers(0, 2, rows), random.integers(0, 2, rows)
    x = np.zeros((rows, 2), np.float32)
    x[np.arange(rows), dark] = (2 * labels - 1) * random.uniform(0.5, 1.5, rows)
    labels = np.where(random.random(rows) < wrong, 1 - labels, labels)
    labels_, dark_ = torch.from_numpy(labels), torch.from_numpy(dark)
    return Batch((torch.from_numpy(x),), labels_, dark_[None], labels_)


def two_groups(batch: Batch) -> Problem:
    return problem([batch], groups={"tone": ("light", "dark")})


def lonely_groups(model: nn.Module) -> tuple[ChannelGroup, ...]:
    return channel_groups(model, (torch.randn(4, 2),))


def test_rises_are_those_of_masks_put_on_by_hand() -> None:
    model, groups = residual()
    batches = split(shape=(2, 6, 6))
    found = contributions(model, groups, problem(batches), rows=10_000)
    inputs, labels, of_rows = (torch.cat(parts, dim) for parts, dim in (
        ([b.inputs[0] for b in batches], 0), ([b.labels for b in batches], 0), ([b.groups for b in batches], 1)
    ))  # fmt: skip

    def by_slice(network: nn.Module) -> list[float]:
        with torch.no_grad():
            losses = OBJECTIVE.loss(network(inputs), labels).double()
        means = []
        for of_row, levels in zip(of_rows, GROUPS.values(), strict=True):
            for level in range(len(levels)):
                means.append(np.mean([losses[(of_row == level) & (labels == y)].mean() for y in range(2)]))
        return means

    assert found.rows == 600
    assert set(found.rises) == {group.name for group in groups if group.prunable}
    whole = by_slice(model)
    for group in groups:
        if not group.prunable:
            continue
        for channel in range(group.size):
            masked = apply_masks(model, [group], {group.name: np.arange(group.size) != channel})
            by_hand = np.subtract(by_slice(masked), whole)
            np.testing.assert_allclose(found.of_slices(group.name)[channel], by_hand, atol=2e-6)
    assert np.isnan(found.of_slices(groups[0].name)[:, -1]).all()  # nobody is oldest


def test_a_channel_that_serves_one_group_alone_is_found() -> None:
    model = lonely()
    groups = lonely_groups(model)
    found = contributions(model, groups, two_groups(two_directions()))
    levels, share = found.leaning("0.weight", "tone")
    assert [GROUPS["tone"][level] for level in levels[:4]] == ["light", "light", "dark", "dark"]
    assert share[:4] == pytest.approx(1.0)
    assert np.isnan(share[4])
    assert (found.of_slices("0.weight")[4] == 0).all()


def test_rows_are_limited_balanced_and_spread() -> None:
    batches = split(6000)
    model, groups = built(lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), 4)
    seen: list[Tensor] = []
    objective = replace(OBJECTIVE, loss=lambda o, t: (seen.append(o), OBJECTIVE.loss(o, t))[1])  # type: ignore[func-returns-value]
    found = contributions(model, groups, problem(batches, objective=objective), rows=400)
    assert found.rows == len(torch.cat(seen)) // 5 <= 400
    counts = found.cells.counts
    assert counts.max() <= 40
    assert (counts[:8] >= 20).all()
    assert (counts[8:] == 0).all()
    # the first half of the rows would do for the quota, but half of what is taken comes from the second
    late = [replace(b, inputs=(b.inputs[0] + (100 if place >= 30 else 0),)) for place, b in enumerate(batches)]
    wide: list[Tensor] = []

    class Watched(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            wide.append(x)
            return super().forward(x)

    watched = Watched(*model).eval()
    contributions(watched, groups, problem(late), rows=400)
    assert float((torch.cat(wide) > 50).float().mean()) == pytest.approx(0.5, abs=0.05)


def test_what_a_group_is_shown_on_does_not_depend_on_the_other_attributes() -> None:
    """A rare age must not fill the tones with its own people."""
    batches = split(6000)
    rare = [replace(b, groups=torch.stack([b.groups[0], torch.where(torch.arange(100) == 7, 2, 0)])) for b in batches]
    model, groups = built(lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), 4)
    one = contributions(model, groups, problem(batches), rows=400)
    other = contributions(model, groups, problem(rare), rows=400)
    np.testing.assert_array_equal(one.cells.counts[:4], other.cells.counts[:4])
    np.testing.assert_allclose(one.rises["0.weight"][:, :4], other.rises["0.weight"][:, :4], atol=1e-12)


def test_targets_may_be_nests_of_tensors_and_lists() -> None:
    batches = split()
    nested = [replace(b, targets={"y": (b.labels, list(map(int, b.labels)))}) for b in batches]

    def loss(outputs: Tensor, targets: Any) -> Tensor:
        same, listed = targets["y"]
        assert same.tolist() == listed
        return OBJECTIVE.loss(outputs, same)

    model, groups = built(lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), 4)
    plain = contributions(model, groups, problem(batches), rows=50)
    found = contributions(model, groups, problem(nested, objective=replace(OBJECTIVE, loss=loss)), rows=50)
    np.testing.assert_array_equal(plain.rises["0.weight"], found.rises["0.weight"])


def test_the_model_stays_as_it_is_and_the_same_call_says_the_same() -> None:
    model, groups = residual()
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batches = split(shape=(2, 6, 6))
    one, other = (contributions(model, groups, problem(batches), rows=100).record() for _ in range(2))
    assert one.digest == other.digest
    assert model.training
    assert all(part.training for part in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_record_names_dense_channels_and_comes_back_from_a_file(tmp_path: Any) -> None:
    model = lonely()
    found = contributions(model, lonely_groups(model), two_groups(two_directions()))
    record = found.record({"0.weight": (3, 5, 8, 9, 11)})
    record.save(tmp_path / "contributions.json")
    assert ContributionsRecord.load(tmp_path / "contributions.json") == record
    (group,) = record.groups
    assert [one.channel for one in group.channels] == [3, 5, 8, 9, 11]
    assert [one.most["tone"] for one in group.channels] == ["light", "light", "dark", "dark", None]
    assert group.channels[4].share["tone"] is None
    assert [one.rows for one in record.slices] == found.cells.counts.reshape(2, 2).sum(1).tolist()
    with pytest.raises(StageError, match="0.weight has 5 channels, but 2 numbers"):
        found.record({"0.weight": (3, 5)})


def test_a_slice_without_rows_is_none_in_the_record() -> None:
    model, groups = built(lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), 4)
    record = contributions(model, groups, problem(split()), rows=100).record()
    assert all(one.rises[-1] is None and None not in one.rises[:-1] for one in record.groups[0].channels)
    assert record.slices[-1].rows == 0


def refused(message: str, *, make: Callable[[], nn.Module] | None = None, rows: int = 100, **changes: Any) -> None:
    model, groups = built(make or (lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))), 4)
    batches = changes.pop("batches", None) or split()
    with pytest.raises(StageError, match=message):
        contributions(model, groups, problem(batches, **changes), rows=rows)


def test_bad_input_is_said_in_words() -> None:
    refused("no channels that can be pruned", make=lambda: nn.Linear(4, 2))
    refused("9 rows cannot show 10 cells", rows=9)
    refused("cannot show 0 cells", groups={})
    refused(
        "no row of the prune split is of a known group",
        batches=[replace(batch, groups=torch.full_like(batch.groups, -1)) for batch in split()],
    )
    for targets in (torch.zeros(7, 6), [1, 2, 3], "labels", torch.tensor(1)):
        refused("targets of a batch cannot be taken", batches=[replace(batch, targets=targets) for batch in split()])
    calls: list[int] = []

    def spoiled(outputs: Tensor, targets: Tensor) -> Tensor:
        calls.append(1)
        return OBJECTIVE.loss(outputs, targets) * (np.nan if len(calls) == 3 else 1)

    refused("with channel 1 of 0.weight closed the loss", objective=replace(OBJECTIVE, loss=spoiled))


def smooth() -> tuple[nn.Module, Batch]:
    model, _ = built(lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 2)), 4)
    (batch,) = split(40, length=40)
    return model.double(), replace(batch, inputs=(batch.inputs[0].double(),))


def concentration_of(model: nn.Module, inputs: tuple[Tensor, ...], channels: int = 100) -> Concentration:
    groups = channel_groups(model, inputs)
    return Concentration(model, groups, closing_members(model, groups, inputs), OBJECTIVE, channels=channels)


def penalty_of(model: nn.Module, batch: Batch, alone: Concentration | None = None) -> Tensor:
    losses = OBJECTIVE.loss(model(*batch.inputs), batch.targets)
    return (alone or concentration_of(model, batch.inputs)).penalty(batch, losses)


def test_the_penalty_has_the_gradient_of_finite_differences() -> None:
    model, batch = smooth()
    parameters = list(model.parameters())
    alone = concentration_of(model, batch.inputs)
    gradient = torch.autograd.grad(penalty_of(model, batch, alone), parameters)
    generator = torch.Generator().manual_seed(0)
    for tensor, slope in zip(parameters, gradient, strict=True):
        direction = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        values = []
        for sign in (-1, 1):
            with torch.no_grad():
                tensor += sign * 1e-5 * direction
            values.append(penalty_of(model, batch, alone).item())
            with torch.no_grad():
                tensor -= sign * 1e-5 * direction
        assert (values[1] - values[0]) / 2e-5 == pytest.approx(float((slope * direction).sum()), rel=1e-4, abs=1e-7)


def test_the_penalty_is_one_where_no_channel_is_shared_and_zero_where_all_are_alike() -> None:
    model, batch = lonely(), two_directions()
    assert penalty_of(model, batch).item() == pytest.approx(1.0, abs=1e-5)
    again = Batch(
        tuple(torch.cat([part, part]) for part in batch.inputs), torch.cat([batch.labels] * 2),
        torch.arange(2).repeat_interleave(len(batch))[None], torch.cat([batch.labels] * 2),
    )  # fmt: skip
    assert penalty_of(model, again).item() == pytest.approx(0.0, abs=1e-5)
    three = replace(again, groups=torch.where(torch.arange(1024) % 2 == 0, again.groups, 2))
    assert 0 < penalty_of(model, three).item() < 0.2


def test_rows_of_unknown_groups_and_batches_of_one_group_weigh_nothing() -> None:
    model, batch = lonely(), two_directions()
    losses = OBJECTIVE.loss(model(*batch.inputs), batch.labels)
    lonely_one = concentration_of(model, batch.inputs)
    for groups in (torch.zeros_like(batch.groups), torch.full_like(batch.groups, -1), batch.groups[:0]):
        assert lonely_one.penalty(replace(batch, groups=groups), losses).item() == 0
    with pytest.raises(StageError, match="no channels"):
        Concentration(model, (), {}, OBJECTIVE)


def test_the_channels_drawn_follow_the_seed_and_running_statistics_stay() -> None:
    model, _ = residual()
    (batch,) = split(200, (2, 6, 6), 200)
    alone = concentration_of(model, batch.inputs, channels=3)
    model.train()
    losses = OBJECTIVE.loss(model(*batch.inputs), batch.labels)
    before = {name: tensor.clone() for name, tensor in model.named_buffers()}
    found = []
    for seed in (0, 0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            found.append(alone.penalty(batch, losses).item())
    assert found[0] == found[1] != found[2]
    assert all(0 <= value <= 1 for value in found)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_buffers())


def trained(strength: float) -> tuple[float, float]:
    """Start where every channel serves one group alone, and learn on; return how alone groups are, and the loss."""
    batch = two_directions(wrong=0.1)
    model = lonely()
    alone = concentration_of(model, batch.inputs)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        with torch.no_grad():
            for tensor in model.parameters():
                tensor += 0.05 * torch.randn(tensor.shape)
        for _ in range(150):
            losses = OBJECTIVE.loss(model(*batch.inputs), batch.labels)
            loss = losses.mean() + strength * (alone.penalty(batch, losses) if strength else 0.0)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    found = contributions(model, lonely_groups(model), two_groups(batch))
    rises = np.nan_to_num(found.of_slices("0.weight")).clip(min=0)
    return float(rises.max(1).sum() / rises.sum()), losses.mean().item()


def test_the_regulariser_spreads_the_dependence_and_costs_little() -> None:
    plain, loss = trained(0.0)
    spread, loss_of_spread = trained(0.03)
    assert plain > 0.9
    assert spread < 0.65
    assert loss_of_spread < loss + 0.01
