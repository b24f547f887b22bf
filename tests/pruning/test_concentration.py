"""Fine-tuning with channels discouraged that one group alone depends on: what it changes, and what stays the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairdeploy import yamlfile
from fairdeploy.errors import StageError
from fairdeploy.project import Constraints, Recover
from fairdeploy.pruning import Progress, Schedule, recover, set_deterministic
from fairdeploy.pruning.checkpoint import Checkpoint
from fairdeploy.pruning.fair import FairTraining
from fairdeploy.pruning.problem import Batch, Problem
from fairdeploy.pruning.training import Means, Precision, fit
from tests.pruning.problems import OBJECTIVE, Listed, listed, problem_of

GROUPS = {"tone": ("light", "dark")}
LIMITS = Constraints(equalized_odds_difference=0.01)
SCHEDULE = Schedule(2, 1e-2)


def net() -> nn.Module:
    with set_deterministic(1):
        return nn.Sequential(
            nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(24, 2)
        ).eval()


def rows(seed: int) -> Listed:
    """Each group is told apart by an input channel of its own."""
    generator = torch.Generator().manual_seed(seed)
    labels, tone = (torch.randint(0, 2, (160,), generator=generator) for _ in range(2))
    inputs = torch.randn(160, 2, 4, 4, generator=generator)
    inputs[torch.arange(160), tone] += 2.0 * labels[:, None, None] - 1
    return listed(inputs, labels, tone[None], length=40)


def problem() -> Problem:
    return problem_of(rows(0), rows(1), GROUPS)


def tuned(strength: float | None, **watched: Any) -> dict[str, Tensor]:
    if strength is not None:
        watched |= {"concentration": strength, "example_inputs": (rows(0).batches[0].inputs[0][:4],)}
    whole = problem()
    found = recover(net(), whole, SCHEDULE, seed=3, fair=FairTraining(LIMITS, whole, net()), **watched)
    return dict(found.module.state_dict())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_the_same_seed_gives_the_same_bytes_and_a_strength_of_zero_those_without_it() -> None:
    torch.manual_seed(5)
    first = tuned(0.5)
    torch.manual_seed(6)
    assert same(first, tuned(0.5))
    without = tuned(None)
    assert same(without, tuned(0.0))
    assert not same(without, first)


def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole = tuned(0.5)

    def stop(at: Progress) -> None:
        if at.done == 6:
            raise KeyboardInterrupt

    place = Checkpoint(tmp_path / "recover.safetensors", "a run", every=2)
    with pytest.raises(KeyboardInterrupt):
        tuned(0.5, checkpoint=place, progress=stop)
    seen: list[int] = []
    again = tuned(0.5, checkpoint=place, progress=lambda at: seen.append(at.done))
    assert seen[0] > 1
    assert same(whole, again)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_added_is_computed_in_the_precision_of_the_forward_pass(precision: Precision) -> None:
    seen: list[tuple[bool, torch.dtype]] = []

    def added(batch: Batch, losses: Tensor) -> Tensor:
        seen.append((torch.is_autocast_enabled("cpu"), losses.dtype))
        assert losses.shape == (len(batch),)
        return 1e6 * losses.new_ones(())

    told: list[float] = []
    schedule = Schedule(1, 1e-3, Means(precision=precision))
    fit(net(), rows(0), OBJECTIVE, schedule, seed=0, penalty=added, progress=lambda at: told.append(at.loss))
    assert seen == [(precision == "bf16", torch.float32)] * 4
    assert min(told) > 1e6, "it is part of the loss"


def test_a_network_without_channels_is_refused() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(32, 2)).eval()
    example = rows(0).batches[0].inputs[0][:4]
    with pytest.raises(StageError, match="concentration: the model has no channels"):
        recover(flat, problem(), SCHEDULE, seed=0, concentration=0.1, example_inputs=(example,))


@pytest.mark.parametrize("strength", [-0.1, float("inf"), float("nan"), "much"])
def test_a_strength_that_is_none_is_refused(strength: object) -> None:
    errors = yamlfile.problems(Recover, yamlfile.Document(Path(), {"concentration": strength}, {}))
    assert [error.message for error in errors if "concentration" in str(error.message)]
