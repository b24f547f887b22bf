"""A training that is interrupted goes on from its last checkpoint and ends with the same bytes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler

import fairdeploy
from fairdeploy.errors import ConfigError, IntegrityError, StageError
from fairdeploy.pruning import Progress, Schedule
from fairdeploy.pruning.api import Result
from fairdeploy.pruning.checkpoint import Checkpoint
from fairdeploy.pruning.objectives import of_classes
from fairdeploy.pruning.streams import LoaderStream
from fairdeploy.pruning.training import fit
from tests.pruning import own

STATIONS = ("teacher", "prune macs-0.5", "recover macs-0.5")


class Interrupted(Exception):
    """What ends a run in the middle."""


class Noisy(torch.utils.data.Dataset[Any]):
    """Rows that are augmented with all three of the generators that people use."""

    def __init__(self) -> None:
        self.rows = own.rows(0)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        image, label, tone = self.rows[index]
        return image + np.random.normal() * 0.1 + random.random() * 0.1 + torch.rand(()) * 0.1, label, tone


def pruned(folder: Path | None, progress: Any = None, **changes: Any) -> Result:
    loader = DataLoader(Noisy(), batch_size=16, sampler=RandomSampler(Noisy(), generator=torch.Generator()))
    options: dict[str, Any] = {
        "train": loader,
        "prune": own.loader(1, batch_size=32),
        "groups": own.GROUPS,
        "keep": {"macs": 0.5},
        "round_to": 1,
        "epochs": 2,
        "search": {"epochs": 2},
        "constraints": {"accuracy_difference": 0.001},
        "recover_on": ("train", "prune"),
        "threads": 1,
        "checkpoint": folder,
        "checkpoint_every": 3,
        "progress": progress,
    }
    return fairdeploy.prune(own.net(), own.EXAMPLE, **(options | changes))


def bytes_of(result: Result) -> list[str]:
    assert result.teacher is not None
    return [own.state(result.teacher), own.state(result.candidates[0].module), str(result.candidates[0].decisions)]


@pytest.fixture(scope="module")
def whole() -> list[str]:
    return bytes_of(pruned(None))


def stop_at(station: str, step: int) -> Any:
    def progress(at: Progress) -> None:
        if (at.station, at.done) == (station, step):
            raise Interrupted

    return progress


def test_a_run_that_is_interrupted_in_every_training_ends_with_the_same_bytes(tmp_path: Path, whole: list[str]) -> None:
    drawn = np.random.default_rng(7)
    for station in STATIONS:
        step = int(drawn.integers(1, 16))
        with pytest.raises(Interrupted):
            pruned(tmp_path, stop_at(station, step))
        random.seed(step)  # whatever happens between two runs
        torch.rand(step)
    steps: list[tuple[str, int]] = []
    assert bytes_of(pruned(tmp_path, lambda at: steps.append((at.station, at.done)))) == whole
    assert {station for station, _ in steps} == {"recover macs-0.5"}, "what was finished is not trained again"
    again: list[Any] = []
    assert bytes_of(pruned(tmp_path, again.append)) == whole
    assert not again


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        pruned(tmp_path, stop_at("teacher", 4))
    for changes in ({"seed": 1}, {"learning_rate": 1e-3}, {"train": own.loader(0)}):
        with pytest.raises(StageError, match=r"teacher.safetensors: the checkpoint is another run's.*remove it"):
            pruned(tmp_path, **changes)


@pytest.fixture
def kept(tmp_path: Path) -> Checkpoint:
    checkpoint = Checkpoint(tmp_path / "there" / "one.safetensors", "me", 4)
    checkpoint.write(4, {"a": torch.arange(6.0)}, {"said": [1, None]})
    return checkpoint


def test_it_gives_back_what_was_written(kept: Checkpoint) -> None:
    found = kept.read()
    assert found is not None
    step, tensors, facts = found
    assert (step, facts) == (4, {"said": [1, None]})
    assert torch.equal(tensors["a"], torch.arange(6.0))
    assert [file.name for file in kept.file.parent.iterdir()] == ["one.safetensors"]
    assert Checkpoint(kept.file.with_name("other"), "me").read() is None


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "header"])
def test_a_damaged_one_is_refused(damage: str, kept: Checkpoint) -> None:
    content = kept.file.read_bytes()
    kept.file.write_bytes(
        {
            "cut": content[:-4],
            "garbage": b"\xff" * 100,
            "empty": b"",
            "header": content.replace(b'"step":"4"', b'"step":"x"'),
        }[damage]
    )
    with pytest.raises(IntegrityError, match=r"one.safetensors: the checkpoint cannot be read.*remove it"):
        kept.read()


def test_one_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="the checkpoint cannot be written"):
        Checkpoint(tmp_path / "file" / "one", "me").write(1, {"a": torch.zeros(1)}, {})
    with pytest.raises(ConfigError, match="at least 1, not 0"):
        Checkpoint(tmp_path / "one", "me", 0)


class NanAt(list[Any]):
    """Batches of which one holds a NaN, if it is asked to."""

    sick = True

    def __iter__(self) -> Iterator[Any]:
        for place, (image, label, tone) in enumerate(super().__iter__()):
            yield (image * float("nan") if self.sick and place == 6 else image), label, tone


def test_a_loss_that_is_nan_names_step_and_batch_and_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    batches = NanAt(own.loader(0))
    schedule, checkpoint = Schedule(2, 1e-2, station="recover x"), Checkpoint(tmp_path / "one", "me", 3)

    def train() -> str:
        network = own.net()
        fit(network, LoaderStream(batches, own.GROUPS), of_classes(2), schedule, seed=0, checkpoint=checkpoint)
        return own.state(network)

    with pytest.raises(StageError, match=r"recover x: the loss is nan at step 7 \(batch 7 of epoch 1\); lower"):
        train()
    found = checkpoint.read()
    assert found is not None
    assert found[0] == 6
    batches.sick = False
    mended = train()
    checkpoint.file.unlink()
    assert train() == mended
