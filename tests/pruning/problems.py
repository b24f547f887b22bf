"""Small problems: rows in lists, with groups and labels that a test has drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fairdeploy.data import Rows
from fairdeploy.pruning.cells import Cells, Rates, tally
from fairdeploy.pruning.problem import Batch, Objective, Problem
from fairdeploy.pruning.streams import levels_of

OBJECTIVE = Objective(
    loss=lambda outputs, targets: functional.cross_entropy(outputs, targets, reduction="none"),
    right=lambda outputs, targets: outputs.argmax(1) == targets,
    distance=lambda outputs, teacher: (outputs - teacher).square().mean(1),
)


@dataclass(frozen=True)
class Listed:
    """Batches in a list; every epoch is the same."""

    batches: Sequence[Batch]

    @property
    def steps(self) -> int:
        return len(self.batches)

    def epoch(self, number: int) -> Iterator[Batch]:
        return iter(self.batches)


class Untouchable:
    """A split that nobody may look at."""

    @property
    def steps(self) -> int:
        raise AssertionError("was touched")

    def epoch(self, number: int) -> Iterator[Batch]:
        raise AssertionError("was touched")


def listed(inputs: Tensor, labels: Tensor, groups: Tensor, *, length: int = 100) -> Listed:
    """Cut rows, with groups [attributes, n], into batches."""
    starts = range(0, len(labels), length)
    cut = [slice(start, start + length) for start in starts]
    return Listed([Batch((inputs[at],), labels[at], groups[:, at], labels[at]) for at in cut])


def problem_of(
    train: Any, prune: Any, groups: Mapping[str, tuple[str, ...]], *, classes: int = 2, **changes: Any
) -> Problem:
    """Return a problem in which weights learn from one stream, and the upper level from the other."""
    whole: dict[str, Any] = {"train": train, "upper": prune, "prune": prune, "recover": train, "objective": OBJECTIVE}
    return Problem(**{**whole, "groups": groups, "classes": classes, **changes})


def stream_of(rows: Rows, right: NDArray[np.bool_], levels: Mapping[str, tuple[str, ...]]) -> Listed:
    """Return rows whose inputs say which of them are right (`SAID`)."""
    groups = torch.from_numpy(levels_of(rows.attributes, levels))
    return listed(torch.from_numpy(right), torch.from_numpy(np.asarray(rows.labels)), groups)


def counted(
    rows: Rows, right: NDArray[np.bool_], levels: Mapping[str, tuple[str, ...]], classes: int
) -> tuple[Cells, Rates]:
    """Count the cells of rows, and the share of each that is right."""
    stream = stream_of(rows, right, levels)
    return tally(nn.Identity(), problem_of(stream, stream, levels, classes=classes, objective=SAID))


def _none(*_: Any) -> Tensor:
    raise AssertionError("nothing is trained")


SAID = Objective(loss=_none, right=lambda outputs, _: outputs, distance=_none)
