"""Two processes over gloo: the same weights, masks and decisions in both, near to one process with all the rows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import fairdeploy
from fairdeploy.errors import DataError, StageError
from fairdeploy.pruning import Schedule
from fairdeploy.pruning.api import Result
from fairdeploy.pruning.objectives import of_classes
from fairdeploy.pruning.streams import LoaderStream
from fairdeploy.pruning.training import fit
from tests.pruning import own

ROOT = Path(__file__).parents[2]
CASES = ("free", "fair", "norm", "nan", "uneven")
WORKER = """
import sys
import torch
import torch.distributed as dist
from tests.pruning.test_distributed import CASES, write

rank, place = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{place}/meet", rank=rank, world_size=2)
torch.manual_seed(100 + rank)
for case in CASES:
    write(place, rank, case)
dist.destroy_process_group()
"""


def share(seed: int, batch: int, rank: int, processes: int) -> list[tuple[torch.Tensor, ...]]:
    """Return every other row, or all, in batches that are as much smaller."""
    part = [tensor[rank::processes] for tensor in own.rows(seed).tensors]
    size = batch // processes
    return [tuple(one[at : at + size] for one in part) for at in range(0, len(part[0]), size)]


def pruned(place: Path, rank: int, processes: int, case: str) -> Result:
    """Prune on a share of the rows."""
    return fairdeploy.prune(
        own.net(norm=case == "norm", dropout=0.2 if case == "norm" else 0.0),
        own.EXAMPLE,
        train=share(0, 8, rank, processes),
        prune=share(1, 32, rank, processes),
        groups=own.GROUPS,
        keep={"macs": 0.5},
        round_to=1,
        epochs=1,
        search={"epochs": 1},
        constraints={"accuracy_difference": 0.001} if case == "fair" else None,
        checkpoint=place / case,
        threads=1,
    )


def write(place: str, rank: int, case: str) -> None:
    """Write what a process says, and the weights that it comes to."""
    if case in ("nan", "uneven"):
        Path(f"{place}/{case}-{rank}.txt").write_text(refused(rank, case))
        return
    (one,) = pruned(Path(place), rank, 2, case).candidates
    words = [f"{entry.station}: {entry.decision}: {entry.reason}" for entry in one.decisions]
    save_file(one.module.state_dict(), f"{place}/{case}-{rank}.safetensors")
    Path(f"{place}/{case}-{rank}.txt").write_text("\n".join([str(dict(one.model.removed)), *words]))


def refused(rank: int, case: str) -> str:
    """Train where one process has what it should not have, and return the complaint."""
    batches = share(0, 8, rank, 2)
    if rank == 1 and case == "nan":
        batches[5][0][0] = float("nan")
    if rank == 1 and case == "uneven":
        batches.pop()
    try:
        fit(own.net(), LoaderStream(batches, own.GROUPS), of_classes(2), Schedule(1, 1e-3), seed=0)
    except StageError as error:
        return f"StageError: {error}"
    except DataError as error:
        return f"DataError: {error}"
    return "nothing"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What both processes left behind."""
    folder = tmp_path_factory.mktemp("two")
    started = [subprocess.Popen([sys.executable, "-c", WORKER, str(rank), str(folder)], cwd=ROOT) for rank in (0, 1)]
    try:
        assert [one.wait(180) for one in started] == [0, 0]
    finally:
        for one in started:
            one.kill()
    return folder


def said(place: Path, case: str) -> tuple[str, str]:
    return tuple((place / f"{case}-{rank}.txt").read_text() for rank in (0, 1))  # type: ignore[return-value]


@pytest.mark.parametrize("case", ["free", "fair", "norm"])
def test_both_processes_come_to_the_same(case: str, place: Path) -> None:
    first, second = said(place, case)
    assert first == second
    assert (place / f"{case}-0.safetensors").read_bytes() == (place / f"{case}-1.safetensors").read_bytes()
    assert "kept" in first or "dropped" in first
    trainings = ["prune", "recover", *(["teacher"] if case == "fair" else [])]
    assert sorted(file.name.split("-")[0].split(".")[0] for file in (place / case).iterdir()) == trainings


@pytest.mark.parametrize(("case", "most"), [("free", 1e-4), ("fair", 0.03)])
def test_one_process_with_all_rows_comes_to_nearly_the_same(case: str, most: float, place: Path) -> None:
    """Under constraints the weights of rows keep the totals of each label within a process, and so differ a little."""
    (alone,) = pruned(place / "alone", 0, 1, case).candidates
    together = load_file(place / f"{case}-0.safetensors")
    assert max(float((own - together[name]).abs().max()) for name, own in alone.module.state_dict().items()) < most


def test_a_loss_that_is_nan_in_one_process_stops_both(place: Path) -> None:
    first, second = said(place, "nan")
    assert first.startswith("StageError: recover: the loss is not finite in another process at step 6 (batch 6 of")
    assert second.startswith("StageError: recover: the loss is nan at step 6 (batch 6 of epoch 1)")


def test_processes_with_different_numbers_of_batches_are_refused(place: Path) -> None:
    assert all(one.startswith("DataError") and "different numbers of batches" in one for one in said(place, "uneven"))
