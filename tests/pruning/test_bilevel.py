"""Bilevel pruning on problems whose best widths are known: channels that serve few people stay."""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fairdeploy.compaction import compact
from fairdeploy.errors import StageError
from fairdeploy.project import Budget, Constraints
from fairdeploy.pruning import Bilevel, ByScore, Problem, Pruned, Pruner, Schedule
from fairdeploy.pruning.cells import tally
from tests.pruning.problems import Listed, Untouchable, listed, problem_of

CHANNELS = 16
EXAMPLE = (torch.zeros(4, 2 * CHANNELS),)
GROUPS = {"tone": ("light", "dark")}
SCHEDULE = Schedule(epochs=10, learning_rate=1e-3, station="prune")
LIMITS = Constraints(accuracy_drop=0.01)
HALF = Budget(macs=0.53)


class Branches(nn.Module):
    """One branch for each group of people; either reads inputs of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.many, self.few = (nn.Linear(2 * CHANNELS, CHANNELS, bias=False) for _ in range(2))
        self.of_many, self.of_few = (nn.Linear(CHANNELS, 2, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.of_many(torch.tanh(self.many(x))) + self.of_few(torch.tanh(self.few(x)))


def network(serving: int, *, loud: float = 3.0) -> Branches:
    """The first so many channels of the light group's branch serve it, and all of the dark group's, by small norms."""
    model = Branches().eval()
    used = (torch.arange(CHANNELS) < serving).float()
    with torch.no_grad():
        for part in model.parameters():
            part.zero_()
        model.many.weight[:, :CHANNELS] = torch.diag(loud + used)
        model.few.weight[:, CHANNELS:] = 0.3 * torch.eye(CHANNELS)
        sides = torch.tensor([[-1.0], [1.0]])
        model.of_many.weight.copy_(sides * (used + 1e-3))
        model.of_few.weight.copy_(0.9 * sides.expand(2, CHANNELS))
    return model


class Together(nn.Module):
    """The same channels in one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.all = nn.Linear(2 * CHANNELS, 2 * CHANNELS, bias=False)
        self.head = nn.Linear(2 * CHANNELS, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.all(x)))


def together(branches: Branches) -> nn.Module:
    model = Together().eval()
    with torch.no_grad():
        model.all.weight.copy_(torch.cat([branches.many.weight, branches.few.weight]))
        model.head.weight.copy_(torch.cat([branches.of_many.weight, branches.of_few.weight], 1))
    return model


def split(seed: int, serving: int, count: int, dark: float = 0.05) -> Listed:
    """Everybody's label is spread over as many inputs as their branch has channels that serve them."""
    random = np.random.default_rng(seed)
    few, labels = random.random(count) < dark, random.integers(0, 2, count)
    x, sign = random.standard_normal((count, 2 * CHANNELS)), (2 * labels - 1)[:, None]
    x[few, :CHANNELS] = 0.0
    x[~few, CHANNELS:] = 0.0
    x[:, :serving] += np.where(few, 0.0, 2.0 / np.sqrt(serving))[:, None] * sign
    x[:, CHANNELS:] += np.where(few, 2.0 / np.sqrt(CHANNELS), 0.0)[:, None] * sign
    return listed(
        torch.from_numpy(x.astype(np.float32)), torch.from_numpy(labels), torch.from_numpy(few.astype(np.int64))[None],
        length=64,
    )  # fmt: skip


@cache
def problem(serving: int) -> Problem:
    return problem_of(split(0, serving, 3000), split(1, serving, 3000), GROUPS)


def pruned(method: Pruner, serving: int, *, model: nn.Module | None = None, seed: int = 0) -> Pruned:
    start = network(serving) if model is None else model
    (found,) = method.prune(start, EXAMPLE, budgets=[HALF], problem=problem(serving), seed=seed)
    return found


def kept(found: Pruned) -> tuple[int, int]:
    """How many channels of each branch stay."""
    return int(found.masks["many.weight"].sum()), int(found.masks["few.weight"].sum())


def rates(found: Pruned, serving: int) -> dict[str, float]:
    """The accuracy of each group on rows that nobody has seen, of the network without the channels that go."""
    small = compact(found.module, EXAMPLE, found.masks).module if found.masks else found.module
    cells, right = tally(small, problem_of(Untouchable(), split(9, serving, 10_000), GROUPS))
    return {tone: float(right[[tone == name for _, name, _ in cells.names]].mean()) for tone in GROUPS["tone"]}


def state(found: Pruned) -> str:
    digest = hashlib.sha256()
    for tensor in found.module.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    for mask in found.masks.values():
        digest.update(mask.tobytes())
    return digest.hexdigest()


def test_channels_that_serve_only_the_few_stay_though_their_norms_are_small() -> None:
    """The best mask: a single channel for the light group, and as many as there is room for of the dark group's."""
    dense = rates(Pruned({}, network(1)), 1)
    plain = pruned(ByScore("magnitude", round_to=1), 1)
    found = pruned(Bilevel(SCHEDULE, limits=LIMITS, round_to=1), 1)
    assert kept(plain) == (8, 8)
    assert kept(found) == (1, 15)
    assert rates(plain, 1)["dark"] < dense["dark"] - 0.025
    after = rates(found, 1)
    assert after["dark"] >= dense["dark"] - 0.005
    assert after["light"] >= dense["light"] - 0.005
    assert found.fair is not None
    assert {entry.decision for entry in found.fair.decisions("prune")} == {"accuracy_drop <= 0.01 holds"}


def test_in_one_layer_a_score_that_counts_everybody_keeps_them_and_magnitude_does_not() -> None:
    model = together(network(1))
    assert rates(Pruned({}, model), 1)["dark"] > 0.95
    of_many, of_few = slice(0, CHANNELS), slice(CHANNELS, None)
    plain = pruned(ByScore("magnitude", round_to=1), 1, model=model)
    assert plain.masks["all.weight"][of_many].all()
    assert rates(plain, 1)["dark"] < 0.6
    found = pruned(ByScore("fisher", round_to=1), 1, model=model)
    mask = found.masks["all.weight"]
    assert (mask[of_many].sum(), mask[of_few].sum()) == (1, 15)
    assert mask[0]
    assert rates(found, 1)["dark"] > 0.95


def test_constraints_move_widths_to_those_whom_they_protect() -> None:
    """Both groups need all of their branch, and weights stay as they are: what one gets the other pays for."""
    still, model = Schedule(epochs=10, learning_rate=1e-5), network(CHANNELS, loud=1.0)
    limits = Constraints(equalized_odds_difference=0.01, accuracy_drop=0.01)
    free = pruned(Bilevel(still, round_to=1), CHANNELS, model=model)
    fair = pruned(Bilevel(still, limits=limits, round_to=1), CHANNELS, model=model)
    assert free.fair is None
    assert kept(fair)[1] > kept(free)[1]
    assert rates(fair, CHANNELS)["dark"] > rates(free, CHANNELS)["dark"] + 0.01


def test_the_same_seed_gives_the_same_bytes() -> None:
    short = Bilevel(Schedule(epochs=1, learning_rate=1e-3), limits=LIMITS, round_to=1)
    torch.manual_seed(7)
    first = state(pruned(short, 1, seed=3))
    torch.manual_seed(8)
    assert state(pruned(short, 1, seed=3)) == first


def test_levels_fit_their_budgets_and_the_network_is_left_as_it_is() -> None:
    model, short = network(1), Bilevel(Schedule(epochs=1, learning_rate=1e-3), round_to=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    budgets = [Budget(macs=0.8), Budget(parameters=0.5, macs=0.6), Budget(macs=0.2)]
    found = list(short.prune(model, EXAMPLE, budgets=budgets, problem=problem(1), seed=0))
    for budget, one in zip(budgets, found, strict=True):
        small = compact(one.module, EXAMPLE, one.masks)
        costs = {
            "macs": small.macs_after / small.macs_before,
            "parameters": small.parameters_after / small.parameters_before,
        }
        assert all(costs[name] <= limit for name, limit in budget.limits.items())
        assert any(costs[name] > limit - 2 / 32 for name, limit in budget.limits.items()), "as much as fits is kept"
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert len({state(one) for one in found}) == 3


def test_limits_out_of_reach_end_in_a_trade_off() -> None:
    limits = Constraints(equalized_odds_difference=1e-6, worst_group_error=1e-6, accuracy_drop=1e-6)
    found = pruned(Bilevel(Schedule(epochs=2, learning_rate=5e-2), limits=limits, round_to=1), 1)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in found.module.state_dict().values())
    assert found.fair is not None
    assert 0 < found.fair.multipliers.values.max() <= found.fair.multipliers.most
    decisions = found.fair.decisions("prune")
    assert decisions[-1].decision == "the best trade-off found is kept"
    assert "worst_group_error <= 1e-06" in decisions[-1].reason
    assert min(rates(found, 1).values()) > 0.9, "and not in a network that is wrong about everybody"


def test_a_group_that_constraints_need_and_the_split_lacks_is_named() -> None:
    light = problem_of(split(0, 1, 300), split(1, 1, 300, dark=0.0), GROUPS)
    with pytest.raises(
        StageError, match="no rows with label 0 in group 'dark' of tone|no rows in group 'dark' of tone"
    ):
        list(Bilevel(SCHEDULE, limits=LIMITS).prune(network(1), EXAMPLE, budgets=[HALF], problem=light, seed=0))


def test_a_model_without_channels_is_refused_before_anything_is_read() -> None:
    nothing = problem_of(Untouchable(), Untouchable(), GROUPS)
    with pytest.raises(StageError, match="without channels to prune"):
        list(Bilevel(SCHEDULE).prune(nn.Linear(32, 2), EXAMPLE, budgets=[HALF], problem=nothing, seed=0))


def test_a_budget_below_the_smallest_network_is_refused_before_anything_is_trained() -> None:
    nothing = problem_of(Untouchable(), Untouchable(), GROUPS)
    with pytest.raises(StageError, match=r"prune.keep.macs: 0.01 cannot be reached .* the least is 0\.063"):
        list(Bilevel(SCHEDULE, round_to=1).prune(
            network(1), EXAMPLE, budgets=[HALF, Budget(macs=0.01)], problem=nothing, seed=0
        ))  # fmt: skip
