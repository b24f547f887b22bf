"""`fairdeploy.prune`: a user's own network, loaders and loss; and what is said where something is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import fairdeploy
from fairdeploy.compaction import count_macs
from fairdeploy.errors import ConfigError, DataError, FairdeployError, StageError
from fairdeploy.pruning.api import Result
from fairdeploy.pruning.front import Measured
from tests.pruning import own


def pruned(network: nn.Module | None = None, **changes: Any) -> Result:
    options: dict[str, Any] = {
        "train": own.loader(0),
        "prune": own.loader(1, batch_size=32),
        "groups": own.GROUPS,
        "keep": {"macs": 0.5},
        "round_to": 1,
        "epochs": 1,
        "learning_rate": 1e-2,
        "threads": 1,
    }
    if changes.get("method", "bilevel") == "bilevel":
        options["search"] = {"epochs": 1}
    return fairdeploy.prune(own.net() if network is None else network, own.EXAMPLE, **(options | changes))


@pytest.fixture(scope="module")
def found() -> Result:
    return pruned(
        keep={"macs": [0.6, 0.3]}, epochs=3, constraints={"accuracy_difference": 0.001}, recover_on=("train", "prune")
    )


def test_every_level_is_a_network_within_its_budget(found: Result) -> None:
    dense = count_macs(own.net(), (own.EXAMPLE,))
    assert [one.name for one in found.candidates] == ["macs-0.6", "macs-0.3"]
    for one, share in zip(found.candidates, (0.6, 0.3), strict=True):
        assert one.model.macs_before == dense
        assert count_macs(one.module, (own.EXAMPLE,)) == one.model.macs_after <= share * dense
        assert not one.module.training
        assert type(one.module) is type(own.net()), "the user's own class"
    assert found.teacher is not None
    assert own.state(found.teacher) != own.state(own.net())


def test_rates_are_those_of_the_prune_split(found: Result) -> None:
    images, labels, tone = own.rows(1).tensors
    for network, measured in (
        (own.net(), found.dense),
        *((one.module, one.measured) for one in found.candidates),
    ):
        with torch.no_grad():
            right = network(images).argmax(1) == labels
        assert measured.accuracy == pytest.approx(float(right.float().mean()))
        for cell in measured.cells:
            chosen = (tone == own.GROUPS["tone"].index(cell.group)) & (labels == cell.label)
            assert cell.rows == int(chosen.sum())
            assert cell.rate == pytest.approx(float(right[chosen].float().mean()))
        worst = measured.worst_group
        assert worst is not None
        assert worst.accuracy == min(one.accuracy for one in measured.groups)


def test_it_is_said_why_a_candidate_is_kept_or_dropped(found: Result) -> None:
    for one in found.candidates:
        stations = [entry.station for entry in one.decisions]
        assert stations[0] == "teacher"
        assert {f"prune[{one.name}]", f"recover[{one.name}]"} <= set(stations)
        last = one.decisions[-1]
        assert last.station == f"front[{one.name}]"
        assert one.kept == (last.decision == "kept") == (one in found.front)
        if one.measured.missed:
            assert not one.kept
            assert last.reason == "; ".join(one.measured.missed)
            assert last.reason.startswith("accuracy_difference <= 0.001 is missed: accuracy by tone is 0.")


def test_it_is_written_and_read_again(found: Result, tmp_path: Path) -> None:
    found.save(tmp_path)
    images = own.rows(2).tensors[0]
    for one in found.candidates:
        again = fairdeploy.load_graph(tmp_path / one.name)
        torch.testing.assert_close(again(images), one.module(images))
        assert Measured.load(tmp_path / one.name / "measured.json") == one.measured


def test_nothing_of_the_caller_changes() -> None:
    network = own.net().train()
    before, drawn = own.state(network), torch.get_rng_state()
    pruned(network)
    assert own.state(network) == before
    assert network.training
    assert torch.equal(torch.get_rng_state(), drawn)


def test_without_constraints_there_is_no_teacher() -> None:
    found = pruned(method="magnitude")
    assert found.teacher is None
    assert [entry.station for entry in found.candidates[0].decisions] == ["front[macs-0.5]"]
    assert found.candidates[0].kept


def test_groups_are_no_must() -> None:
    found = pruned(method="magnitude", groups={})
    assert found.dense.groups == ()
    assert found.dense.worst_group is None
    assert 0 <= found.candidates[0].measured.accuracy <= 1


class Detector(nn.Module):
    """Where something is: a map of heat, and how large the thing is."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.heat, self.size = nn.Conv2d(8, 1, 1), nn.Linear(8, 2)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.second(torch.relu(self.first(image))))
        return self.heat(x).flatten(1), self.size(x.mean((2, 3)))


def test_a_detector_goes_through_with_a_loss_and_hits_of_its_own() -> None:
    torch.manual_seed(0)

    def batches(seed: int) -> list[Any]:
        generator = torch.Generator().manual_seed(seed)
        images = torch.randn(96, 3, 6, 6, generator=generator) * 0.3
        places = torch.randint(0, 36, (96,), generator=generator)
        images.flatten(2)[torch.arange(96), :, places] += 3
        tone = torch.randint(0, 2, (96,), generator=generator)
        images[tone == 1] *= 0.5
        boxes = {"place": places, "size": torch.rand(96, 2, generator=generator)}
        cut = [slice(at, at + 16) for at in range(0, 96, 16)]
        return [(images[at], {name: part[at] for name, part in boxes.items()}, tone[at]) for at in cut]

    def loss(outputs: Any, targets: Any) -> Tensor:
        heat, size = outputs
        return functional.cross_entropy(heat, targets["place"], reduction="none") + (
            size - targets["size"]
        ).square().mean(1)

    def hit(outputs: Any, targets: Any) -> Tensor:
        return outputs[0].argmax(1) == targets["place"]

    found = pruned(
        Detector(), train=batches(0), prune=batches(1), loss=loss, outcome=hit, epochs=8, learning_rate=2e-2,
        constraints={"accuracy_difference": 0.01, "accuracy_drop": 0.1},
    )  # fmt: skip
    (one,) = found.candidates
    assert [(cell.group, cell.label) for cell in one.measured.cells] == [("light", 0), ("dark", 0)]
    assert found.dense.accuracy < 0.2
    assert one.measured.accuracy > 0.6
    assert one.model.macs_after <= 0.5 * one.model.macs_before


def test_one_logit_goes_through_with_labels_of_its_own() -> None:
    network = own.net()
    network[-1] = nn.Linear(8, 1)
    network.add_module("flat", nn.Flatten(0))

    def floats(seed: int) -> list[Any]:
        return [(image, label.float(), tone) for image, label, tone in own.loader(seed, shuffle=False)]

    found = pruned(
        network.eval(),
        method="magnitude",
        train=floats(0),
        prune=floats(1),
        loss=lambda outputs, targets: functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none"),
        outcome=lambda outputs, targets: (outputs > 0) == (targets > 0.5),
        labels=lambda targets: targets.long(),
        constraints={"equalized_odds_difference": 0.3},
    )
    assert {cell.label for cell in found.dense.cells} == {0, 1}


def test_half_precision_trains_in_bfloat16_and_leaves_fp32_weights() -> None:
    seen: set[torch.dtype] = set()

    class Watched(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            found = super().forward(x)
            if self.training:
                seen.add(found.dtype)
            return found

    def network() -> nn.Module:
        made = own.net()
        watched = Watched(8, 2)
        watched.load_state_dict(made[-1].state_dict())
        made[-1] = watched
        return made.eval()

    half, again = (pruned(network(), method="magnitude", precision="bf16").candidates[0].module for _ in range(2))
    assert seen == {torch.bfloat16}
    assert all(parameter.dtype == torch.float32 for parameter in half.parameters())
    assert own.state(half) == own.state(again)
    whole = pruned(network(), method="magnitude").candidates[0].module
    assert own.state(half) != own.state(whole)
    assert own.largest_difference(half, whole) < 0.05


def constant(seed: int) -> list[Any]:
    return [(image, torch.ones_like(label), tone) for image, label, tone in own.loader(seed)]


def without_dark_ones() -> list[Any]:
    return [(image, label, torch.where(label == 1, 0, tone)) for image, label, tone in own.loader(1)]


def in_batch(place: int, part: int, value: Any) -> list[Any]:
    batches = [list(batch) for batch in own.loader(1)]
    batches[place][part] = value
    return [tuple(batch) for batch in batches]


ODDS = {"equalized_odds_difference": 0.05}


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"prune": without_dark_ones(), "constraints": ODDS}, StageError, "no rows with label 1 in group 'dark'"),
        ({"prune": constant(1)}, DataError, "every row of the prune split has the label 1: there is nothing to tell"),
        ({"groups": {}, "constraints": ODDS}, FairdeployError, "declared"),
        ({"constraints": ODDS | {"attributes": ["age"]}}, FairdeployError, "'age'"),
        ({"constraints": {"equal_odds": 0.1}}, ConfigError, "unknown key 'constraints.equal_odds'"),
        ({"constraints": {}}, ConfigError, "give at least one limit"),
        ({"keep": {"macs": 1e-4}}, StageError, "prune.keep.macs: 0.0001 cannot be reached.* the least is"),
        ({"keep": {"macs": 1.2}}, ConfigError, "less than or equal to 1"),
        ({"keep": {"watts": 0.5}}, ConfigError, "unknown key 'keep.watts'"),
        ({"keep": {"latency": 0.5}}, StageError, "measures latency"),
        ({"keep": {}}, ConfigError, "give at least one of macs"),
        ({"method": "none"}, ConfigError, "prunes nothing"),
        ({"method": "bilevle"}, ConfigError, "did you mean 'bilevel'"),
        ({"groups": {"tone": ("light",)}}, ConfigError, "at least two different levels"),
        ({"train": iter(own.loader(0))}, DataError, "the train loader"),
        ({"train": (batch for batch in own.loader(0))}, DataError, "the train loader has no length"),
        ({"prune": []}, DataError, "the prune loader has no batches"),
        ({"prune": [torch.zeros(3)]}, DataError, r"batch 1 of the prune loader is a Tensor; it must be \(inputs"),
        ({"prune": in_batch(2, 1, torch.zeros(16))}, DataError, r"targets are torch.float32 \[16\]"),
        ({"prune": in_batch(2, 1, torch.full((16,), 7))}, DataError, "batch 3 of the prune loader has the label 7"),
        ({"prune": in_batch(1, 1, torch.zeros(9).long())}, DataError, r"batch 2 .* labels \[9\] for 16 rows"),
        ({"prune": in_batch(1, 2, torch.zeros(9).long())}, DataError, r"batch 2 .* groups \[9\] for 16 rows"),
        ({"prune": in_batch(1, 2, {"age": [1] * 16})}, DataError, "batch 2 .* does not say the tone"),
        ({"prune": in_batch(1, 0, "pixels")}, DataError, "batch 2 .* has for inputs a str"),
        ({"precision": "fp16"}, ConfigError, "fp16 needs a CUDA device"),
        ({"precision": "fp8"}, ConfigError, "there is no 'fp8'; give fp32, bf16 or fp16"),
        ({"device": "abacus"}, ConfigError, "torch knows no 'abacus'"),
        ({"threads": -1}, ConfigError, "threads: at least 1"),
        ({"epochs": 0, "constraints": ODDS}, ConfigError, "constraints are met by fine-tuning"),
        ({"distillation": 1.0}, ConfigError, "distillation"),
        ({"recover_on": ("evaluate",)}, ConfigError, "recover.splits"),
        ({"loss": lambda outputs, targets: outputs.sum(1)}, ConfigError, "loss and outcome go together"),
        ({"labels": lambda targets: targets.nonsense}, ConfigError, "labels failed: AttributeError"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_message(changes: dict[str, Any], kind: type[FairdeployError], said: str) -> None:
    with pytest.raises(kind, match=said) as raised:
        pruned(**changes)
    sentence, *own_traceback = str(raised.value).split("\n", 1)
    assert "labels" in changes or not own_traceback
    assert sentence


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(108, 2)), "a model without channels to prune"),
        (nn.Sequential(nn.Flatten(), nn.Linear(108, 8), nn.Linear(8, 1)), r"gives \[2, 1\], not \[rows, classes\]"),
        (nn.Sequential(nn.Linear(5, 2)), "calling the network with example_inputs failed"),
        ("net", "must be a torch.nn.Module, not str"),
    ],
)
def test_a_network_that_cannot_be_pruned_is_refused(network: Any, said: str) -> None:
    with pytest.raises(FairdeployError, match=said):
        pruned(network)


def test_a_network_without_anything_to_train_is_refused() -> None:
    with pytest.raises(StageError, match="no parameters that can be trained"):
        pruned(own.net().requires_grad_(False), method="magnitude")


def test_a_loss_that_does_not_say_each_row_is_refused() -> None:
    with pytest.raises(StageError, match=r"loss gave a tensor \[\]; it must give one value for each row"):
        pruned(
            method="magnitude",
            loss=lambda outputs, targets: functional.cross_entropy(outputs, targets),
            outcome=lambda outputs, targets: outputs.argmax(1) == targets,
        )
