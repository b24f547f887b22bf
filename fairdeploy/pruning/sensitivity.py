"""What a channel is worth by what the loss on the prune stream would feel: Taylor, Fisher, and shares of groups.

Each channel is thought to have a gate of one on its way through the network; the derivative of the loss with respect
to it is the sum of weight times gradient over the slices that close the channel (`closing_members`). Over more slices
the same way would be counted twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairdeploy.compaction.bake import baked
from fairdeploy.errors import StageError
from fairdeploy.pruning.cells import Cells
from fairdeploy.pruning.counts import Scores
from fairdeploy.pruning.gates import closing_members
from fairdeploy.pruning.problem import Batch
from fairdeploy.pruning.scores import Subject, channel_sums, comparable

_TRIAL_ROWS = 8

Slopes = dict[str, NDArray[np.float64]]


@torch.enable_grad()
def taylor(subject: Subject) -> Scores:
    """Return the squared change of the loss that closing each channel would make, to first order.

    Molchanov et al., "Importance estimation for neural network pruning" (CVPR 2019), eq. 8: the square of the sum of
    ``g w`` over the channel's weights, with the gradient of a batch's mean loss; the mean over batches.

    Raises
    ------
    StageError
        If there is no prune stream, or a loss is not finite.
    """
    gates = _Gates(subject, "taylor")
    total = gates.zeros()
    for _, losses in gates.losses():
        _add_squares(total, gates.slopes(losses.mean()))
    return comparable(total)


@torch.enable_grad()
def fisher(subject: Subject) -> Scores:
    """Return the Fisher information of each channel's gate, with every cell of people counting the same.

    Theis et al., "Faster gaze prediction with dense networks and Fisher pruning" (2018), and for coupled channels Liu
    et al., "Group Fisher pruning for practical network compression" (ICML 2021): the sum over rows of the squared
    derivative of a row's loss with respect to the gate. Here the mean over each cell's rows, summed over cells; rows
    whose group is not known do not count.

    Raises
    ------
    StageError
        If there is no prune stream, no row of it says its group, or a loss is not finite.
    """
    gates = _Gates(subject, "fisher")
    problem = gates.problem
    cells = Cells(problem.groups, problem.classes, np.zeros(0, np.int64))
    counts: NDArray[np.int64] = np.zeros(len(cells.names), np.int64)
    for batch in problem.prune.epoch(0):
        found = cells.of(batch)
        counts += np.bincount(found[found >= 0].long().cpu().numpy(), minlength=len(counts))
    if not counts.any():
        raise StageError(
            "prune.method: fisher counts every group the same, and no row of the prune split says its group: declare "
            "groups that the split has, or choose another method, such as taylor"
        )
    total = gates.zeros()
    for row, losses in gates.losses(row_by_row=True):
        own = cells.of(row)[:, 0].cpu().numpy()
        weight = float((1 / counts[own[own >= 0]]).sum())
        if weight:
            _add_squares(total, gates.slopes(losses.sum()), weight)
    return comparable(total)


@torch.enable_grad()
def fairgrape(subject: Subject) -> Scores:
    """Return each channel's rank in a selection that keeps every group's share of the total importance.

    Lin et al., "FairGRAPE: fairness-aware gradient pruning method for face attribute classification" (ECCV 2022). The
    importance for a group is the squared first-order change of its mean loss, summed over batches. Layer by layer, the
    group whose share of the importance selected so far is furthest below its share in the whole layer, all being equal
    at first, takes the channel not yet selected that is most important for it. Here of coupled channels instead of
    single weights, with the groups of all attributes beside each other, and of the dense network once, where the paper
    prunes and retrains in rounds.

    Raises
    ------
    StageError
        If there is no prune stream, no row of it says its group, or a loss is not finite.
    """
    gates = _Gates(subject, "fairgrape")
    levels = gates.problem.groups.values()
    people = [(place, level) for place, names in enumerate(levels) for level in range(len(names))]
    totals = [gates.zeros() for _ in people]
    for batch, losses in gates.losses():
        for total, (place, level) in zip(totals, people, strict=True):
            own = batch.groups[place] == level
            if own.any():
                _add_squares(total, gates.slopes(losses[own].mean()))
    if not any(values.any() for total in totals for values in total.values()):
        raise StageError(
            "prune.method: fairgrape keeps each group's share of the importance, and no row of the prune split says "
            "its group: declare groups that the split has, or choose another method, such as taylor"
        )
    return comparable({name: _ranks(np.stack([total[name] for total in totals])) for name in totals[0]})


def _ranks(importance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what is left to select [channels] when each channel is; `importance` is [groups, channels]."""
    groups, size = importance.shape
    whole = importance.sum()
    wanted = importance.sum(1) / whole if whole else np.full(groups, 1 / groups)
    queues = [iter(order) for order in np.argsort(-importance, axis=1, kind="stable").tolist()]
    share, selected = np.zeros(groups), np.zeros(groups)
    ranks: NDArray[np.float64] = np.zeros(size)
    for left in range(size, 0, -1):
        neediest = int(np.argmin(share - wanted))
        chosen = next(channel for channel in queues[neediest] if not ranks[channel])
        ranks[chosen] = left
        selected += importance[:, chosen]
        if selected.any():
            share = selected / selected.sum()
    return ranks


class _Gates:
    """The derivatives of losses on the prune stream with respect to gates."""

    def __init__(self, subject: Subject, method: str) -> None:
        first = None if subject.problem is None else next(subject.problem.prune.epoch(0), None)
        if subject.problem is None or first is None:
            raise StageError(
                f"prune.method: {method} learns from the prune split, which has no rows here: give some, or choose "
                "a method that needs none, such as magnitude"
            )
        self.problem, self._groups = subject.problem, subject.groups
        network = baked(subject.model).eval()
        self._device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
        trial = tuple(part[:_TRIAL_ROWS].cpu() for part in first.inputs)
        self._closing = closing_members(network.cpu(), subject.groups, trial)
        self._network = network.to(self._device)
        parameters = dict(network.named_parameters(remove_duplicate=False))
        names = {member.parameter for members in self._closing.values() for member in members}
        self._parameters = {name: parameters[name].requires_grad_() for name in sorted(names)}

    def zeros(self) -> Slopes:
        """Return zero for each channel."""
        return {group.name: np.zeros(group.size) for group in self._groups}

    def losses(self, *, row_by_row: bool = False) -> Iterator[tuple[Batch, Tensor]]:
        """Yield each batch, or each row as a batch of its own, with the losses of its rows [n]."""
        for number, batch in enumerate(self.problem.prune.epoch(0), start=1):
            for part in _rows(batch) if row_by_row else (batch,):
                here = part.to(self._device)
                losses = self.problem.objective.loss(self._network(*here.inputs), here.targets)
                if not bool(torch.isfinite(losses).all()):
                    raise StageError(
                        f"prune: the loss is not finite at batch {number} of the prune split; mend the network, the "
                        "loss or the rows of that batch"
                    )
                yield here, losses

    def slopes(self, loss: Tensor) -> Slopes:
        """Return the derivative of a loss with respect to each channel's gate; the loss can be used again."""
        parameters = self._parameters
        gradients = torch.autograd.grad(
            loss, list(parameters.values()), retain_graph=True, allow_unused=True, materialize_grads=True
        )
        with torch.no_grad():
            products = {
                name: parameter * gradient
                for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
            }
        return {group.name: channel_sums(group.size, self._closing[group.name], products) for group in self._groups}


def _add_squares(total: Slopes, slopes: Slopes, weight: float = 1.0) -> None:
    for name, values in slopes.items():
        total[name] += weight * values**2


def _rows(batch: Batch) -> Iterator[Batch]:
    for place in range(len(batch)):
        one = slice(place, place + 1)
        inputs = tuple(part[one] for part in batch.inputs)
        targets = _of_row(batch.targets, place, len(batch))
        yield Batch(inputs, batch.labels[one], batch.groups[:, one], targets)


def _of_row(targets: Any, place: int, rows: int) -> Any:
    """Return what one row has of targets: of every tensor its own entry, of a list with an entry for each row that."""
    if isinstance(targets, Tensor):
        return targets[place : place + 1]
    if isinstance(targets, Mapping):
        return {name: _of_row(part, place, rows) for name, part in targets.items()}
    if isinstance(targets, list) and not _beside_each_other(targets, rows):
        return targets[place : place + 1]
    if isinstance(targets, tuple | list):
        return type(targets)(_of_row(part, place, rows) for part in targets)
    return targets


def _beside_each_other(parts: list[Any], rows: int) -> bool:
    """Whether these are several targets of all rows, and not one entry for each row."""
    return all(isinstance(part, Tensor) and part.dim() > 0 and len(part) == rows for part in parts)
