"""The one loop that trains: what it calls when, what weighs and teaches, in which precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairdeploy.errors import ConfigError, StageError
from fairdeploy.pruning import Distillation, Objective, Progress, Schedule
from fairdeploy.pruning.checkpoint import Checkpoint
from fairdeploy.pruning.objectives import custom, of_classes
from fairdeploy.pruning.streams import LoaderStream
from fairdeploy.pruning.training import Means, fit, on_device
from tests.pruning import own

SCHEDULE = Schedule(2, 1e-2, station="try")


def trained(network: nn.Module | None = None, *, objective: Objective | None = None, **options: Any) -> nn.Module:
    network = own.net() if network is None else network
    given = {"schedule": SCHEDULE, "seed": 0, **options}
    fit(network, LoaderStream(own.loader(0), own.GROUPS), objective or of_classes(2), **given)
    return network


def accuracy(network: nn.Module) -> float:
    images, labels, _ = own.rows(9, 512).tensors
    with torch.no_grad():
        return float((network(images).argmax(1) == labels).float().mean())


def test_it_learns_in_place_and_says_how_far_it_is() -> None:
    said: list[Progress] = []
    network = own.net()
    before = accuracy(network)
    trained(network, schedule=Schedule(6, 2e-2, station="try"), progress=said.append)
    assert accuracy(network) > max(0.9, before)
    assert not any(part.training for part in network.modules())
    assert [(one.station, one.done, one.total) for one in said] == [("try", step, 48) for step in range(1, 49)]
    assert sum(one.loss for one in said[-8:]) < sum(one.loss for one in said[:8])


def test_the_same_seed_gives_the_same_bytes_whatever_was_drawn_before() -> None:
    torch.manual_seed(1)
    first = own.state(trained())
    torch.manual_seed(2)
    torch.rand(9)
    drawn = torch.get_rng_state()
    assert own.state(trained()) == first
    assert torch.equal(torch.get_rng_state(), drawn)
    assert own.state(trained(seed=1)) != first


def test_a_teacher_is_followed_by_its_share() -> None:
    """Of a teacher that says the contrary of the labels, more is learned the more it counts."""
    contrary = trained(schedule=Schedule(6, 2e-2))
    with torch.no_grad():
        contrary[-1].weight.neg_()
        contrary[-1].bias.neg_()
    before = own.state(contrary)
    found = [
        accuracy(trained(schedule=Schedule(6, 2e-2), distillation=Distillation(contrary, share)))
        for share in (0.05, 0.95)
    ]
    assert found[0] > 0.8
    assert found[1] < 0.3
    assert own.state(contrary) == before


class Spy:
    """An upper level that notes when it was asked, and draws."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self.drawn: list[float] = []

    def before(self, step: int, total: int) -> None:
        self.asked.append((step, total))
        self.drawn.append(float(torch.rand(1)))

    def state(self) -> dict[str, Any]:
        return {"drawn": self.drawn}

    def restore(self, state: dict[str, Any]) -> None:
        self.drawn = state["drawn"]


def test_an_upper_level_moves_before_every_step_and_goes_on(tmp_path: Any) -> None:
    whole = Spy()
    trained(upper=whole)
    assert whole.asked == [(step, 16) for step in range(1, 17)]
    assert len(set(whole.drawn)) == 16
    checkpoint = Checkpoint(tmp_path / "one", "me", 5)

    def stop(at: Progress) -> None:
        if at.done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(upper=Spy(), checkpoint=checkpoint, progress=stop)
    again = Spy()
    trained(upper=again, checkpoint=checkpoint)
    assert again.asked == [(step, 16) for step in range(6, 17)]
    assert again.drawn == whole.drawn


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_losses_are_computed_in_fp32_whatever_the_precision(precision: Any) -> None:
    inside: set[torch.dtype] = set()
    outside: set[torch.dtype] = set()
    network = own.net()
    network[-1].register_forward_hook(lambda part, inputs, outputs: inside.add(outputs.dtype))

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        outside.add(outputs.dtype)
        return nn.functional.cross_entropy(outputs, targets, reduction="none")

    schedule = Schedule(1, 1e-2, Means(precision=precision))
    trained(network, schedule=schedule, objective=custom(loss, lambda outputs, targets: outputs.argmax(1) == targets))
    assert outside == {torch.float32}
    assert inside == {torch.float32 if precision == "fp32" else torch.bfloat16}


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: Means("cpu", "fp16"), "fp16 needs a CUDA device"),
        (lambda: Means("cpu", "fp64"), "there is no 'fp64'"),  # type: ignore[arg-type]
        (lambda: Means("nothing"), "torch knows no 'nothing'"),
        (lambda: Means(threads=0), "at least 1, not 0"),
    ],
)
def test_means_that_there_are_not_are_refused(made: Callable[[], Means], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        made()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="torch finds no CUDA device on this machine; give cpu"):
        Means("cuda")


def test_a_network_on_its_device_is_not_copied() -> None:
    network = own.net()
    assert on_device(network, "cpu") is network
    moved = on_device(network, "meta")
    assert {parameter.device.type for parameter in moved.parameters()} == {"meta"}
    assert {parameter.device.type for parameter in network.parameters()} == {"cpu"}


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        (custom(lambda out, to: out.sum(1)[:3], lambda out, to: to > 0), r"the loss gives \[3\] for 16 rows"),
        (custom(lambda out, to: out, lambda out, to: to > 0), r"loss gave a tensor \[16, 2\].*reduction='none'"),
        (custom(lambda out, to: out.sum(1) / 0, lambda out, to: to > 0), r"try: the loss is .* at step 1 \(batch 1 of"),
        (of_classes(3), r"the network gives \[16, 2\], not \[rows, 3\]"),
    ],
)
def test_a_loss_that_cannot_be_learned_from_stops_the_run(objective: Objective, said: str) -> None:
    with pytest.raises(StageError, match=said):
        trained(objective=objective)


def test_frozen_parameters_stay() -> None:
    network = own.net()
    network[0].requires_grad_(False)
    before = network[0].weight.clone()
    trained(network)
    assert torch.equal(network[0].weight, before)
    with pytest.raises(StageError, match="no parameters that can be trained; unfreeze some"):
        trained(own.net().requires_grad_(False))
