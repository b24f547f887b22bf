"""Which channels serve whom: what each group of people loses when one channel alone is closed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from fairdeploy.bundle import ChannelService, ContributionsRecord, GroupCount, GroupService
from fairdeploy.compaction import ChannelGroup
from fairdeploy.compaction.bake import baked
from fairdeploy.errors import StageError
from fairdeploy.pruning.cells import Cells, Rates
from fairdeploy.pruning.gates import Gated, closing_members
from fairdeploy.pruning.problem import Batch, Problem
from fairdeploy.pruning.reuse import Reuse

ROWS = 1000


@dataclass(frozen=True)
class Contributions:
    """By how much mean losses rise when one channel alone is closed.

    Attributes
    ----------
    cells : Cells
        With the rows that were looked at in each.
    rows : int
        That were looked at in all; a row stands in one cell for each attribute.
    rises : mapping of str to array [channels, cells]
        For each coupled group; NaN in a cell without rows, negative where the network is better without the channel.
    """

    cells: Cells
    rows: int
    rises: Mapping[str, Rates]

    @property
    def slices(self) -> tuple[tuple[str, str], ...]:
        """Attribute and level of each slice."""
        return tuple((attribute, level) for attribute, levels in self.cells.groups.items() for level in levels)

    def of_slices(self, group: str) -> Rates:
        """Return the rises of each slice [channels, slices], in which every label that has rows weighs the same."""
        rises = self.rises[group].reshape(-1, len(self.slices), self.cells.classes)
        known = np.isfinite(rises)
        with np.errstate(invalid="ignore"):
            means: Rates = np.where(known, rises, 0.0).sum(2) / known.sum(2)
        return means

    def leaning(self, group: str, attribute: str) -> tuple[NDArray[np.int64], Rates]:
        """Return which level depends most on each channel, and how alone it is with that.

        Returns
        -------
        levels : array of int [channels]
        share : array [channels]
            Its part in the sum of the rises above zero: 1 for a channel that serves it alone, 1 / levels for one that
            serves all alike; NaN where no loss rises.
        """
        columns = [place for place, (name, _) in enumerate(self.slices) if name == attribute]
        rises = np.nan_to_num(self.of_slices(group)[:, columns]).clip(min=0.0)
        with np.errstate(invalid="ignore"):
            return rises.argmax(1), rises.max(1) / rises.sum(1)

    def record(self, channels: Mapping[str, Sequence[int]] | None = None) -> ContributionsRecord:
        """Return them for a file and the report.

        Parameters
        ----------
        channels : mapping of str to sequence of int, optional
            Of a pruned network: the numbers that its channels have in the dense one, for each group that lost some.

        Raises
        ------
        StageError
            If a group has another number of channels.
        """
        counts = self.cells.counts.reshape(len(self.slices), -1).sum(1).tolist()
        slices = (
            GroupCount(split="prune", attribute=attribute, level=level, rows=count)
            for (attribute, level), count in zip(self.slices, counts, strict=True)
        )
        groups = (GroupService(group=name, channels=self._services(name, channels or {})) for name in self.rises)
        return ContributionsRecord(rows=self.rows, slices=tuple(slices), groups=tuple(groups))

    def _services(self, group: str, channels: Mapping[str, Sequence[int]]) -> tuple[ChannelService, ...]:
        rises = self.of_slices(group)
        numbers = [int(number) for number in channels.get(group, range(len(rises)))]
        if len(numbers) != len(rises):
            raise StageError(
                f"contributions: group {group} has {len(rises)} channels, but {len(numbers)} numbers were given; give "
                "for each channel the number that it has in the dense network"
            )
        leanings = {name: self.leaning(group, name) for name in self.cells.groups}
        return tuple(
            ChannelService(
                channel=number,
                rises=tuple(map(_known, rises[place])),
                most={
                    name: self.cells.groups[name][level[place]] if np.isfinite(share[place]) else None
                    for name, (level, share) in leanings.items()
                },
                share={name: _known(share[place]) for name, (_, share) in leanings.items()},
            )
            for place, number in enumerate(numbers)
        )


def contributions(
    model: nn.Module, groups: Iterable[ChannelGroup], problem: Problem, *, rows: int = ROWS
) -> Contributions:
    """Close every prunable channel alone, and compare the mean loss of each cell with that of the open network.

    In evaluation mode and without gradients. Costs a pass over the rows for each channel, less what stands before it.

    Parameters
    ----------
    model : Module
        Left as it is.
    groups : iterable of ChannelGroup
    problem : Problem
        Of whose prune stream an equal number of rows of each cell is taken, as far as it has them, evenly spread; their
        targets must be tensors [n, ...] or lists [n], in any nest of tuples and dicts.
    rows : int
        At most so many.

    Raises
    ------
    StageError
        If there are no prunable channels or no attributes, `rows` are fewer than the cells, targets cannot be taken
        row by row, or a loss is not finite.
    """
    prunable = [group for group in groups if group.prunable]
    if not prunable:
        raise StageError("contributions: the model has no channels that can be pruned, so none can be closed")
    size = problem.classes * sum(len(levels) for levels in problem.groups.values())
    if not 0 < size <= rows:
        raise StageError(
            f"contributions: {rows} rows cannot show {size} cells of group and label; name an attribute, and give "
            "at least one row for each cell"
        )
    batches = list(_spread(problem, size, rows // size))
    if not batches:
        raise StageError("contributions: no row of the prune split is of a known group; say who its people are")
    counts = torch.stack([_hot(of_row, size).sum(0) for _, of_row in batches]).sum(0).numpy()
    with torch.no_grad():
        sums = _closed_one_by_one(baked(model).eval(), prunable, problem, batches, size)
    with np.errstate(invalid="ignore"):
        rises = {name: part / counts for name, part in sums.items()}
    cells = Cells(problem.groups, problem.classes, counts)
    return Contributions(cells, sum(len(batch) for batch, _ in batches), rises)


def _closed_one_by_one(
    network: nn.Module,
    groups: list[ChannelGroup],
    problem: Problem,
    batches: list[tuple[Batch, Tensor]],
    size: int,
) -> dict[str, Rates]:
    """Return by how much the sum of the losses of each cell rises [channels, cells], for each group."""
    parameters = dict(network.named_parameters(remove_duplicate=False))
    device = next(iter(parameters.values())).device
    closing = closing_members(network, groups, tuple(part[:4] for part in batches[0][0].to(device).inputs))
    reuse = Reuse(network)
    rises = {group.name: np.zeros((group.size, size)) for group in groups}
    for batch, of_row in batches:
        here, hot = batch.to(device), _hot(of_row, size).double()

        def sums(outputs: Any, how: str, here: Batch = here, hot: Tensor = hot) -> Rates:
            losses = problem.objective.loss(outputs, here.targets).double().cpu()
            if not bool(torch.isfinite(losses).all()):
                raise StageError(f"contributions: {how} the loss of some rows is not finite; mend the loss")
            found: Rates = (losses.repeat(len(hot) // len(losses)) @ hot).numpy()
            return found

        whole = sums(reuse.record(*here.inputs), "with all channels open")
        for group in groups:
            gated = Gated(network, [group], {group.name: closing[group.name]})
            reuse.changed(parameters[member.parameter] for member in closing[group.name])
            for channel in range(group.size):
                gated.gates[group.name] = (torch.arange(group.size) != channel).float().to(device)
                how = f"with channel {channel} of {group.name} closed"
                rises[group.name][channel] += sums(gated(*here.inputs), how) - whole
    reuse.forget()
    return rises


def _spread(problem: Problem, size: int, quota: int) -> Iterator[tuple[Batch, Tensor]]:
    """Yield at most `quota` rows of each cell, evenly spread over the stream, and where each counts [attributes, n]."""
    cells = Cells(problem.groups, problem.classes, np.zeros(size, np.int64))
    counts = torch.zeros(size, dtype=torch.int64)
    for batch in problem.prune.epoch(0):
        counts += _hot(cells.of(batch).cpu(), size).sum(0)
    every = (counts + quota - 1) // quota
    seen = torch.zeros_like(counts)
    longest, taken = 1, []
    for batch in problem.prune.epoch(0):
        of_row = cells.of(batch).cpu()
        hot = _hot(of_row, size)
        before = ((hot.cumsum(0) - hot + seen) * hot).sum(1).view_as(of_row)
        due = (of_row >= 0) & (before % every.clamp_min(1)[of_row] == 0)
        seen += hot.sum(0)
        longest = max(longest, len(batch))
        places = due.any(0).nonzero()[:, 0]
        if len(places):
            taken.append((_rows(batch.to(torch.device("cpu")), places), torch.where(due, of_row, -1)[:, places]))
    yield from _together(taken, longest)


def _hot(of_row: Tensor, size: int) -> Tensor:
    """Return ones where a row counts [attributes * n, cells]."""
    flat = of_row.flatten()
    return functional.one_hot(flat.clamp_min(0), size) * (flat >= 0)[:, None]


def _together(parts: list[tuple[Batch, Tensor]], longest: int) -> Iterator[tuple[Batch, Tensor]]:
    """Yield the same rows in batches as long as those that they came from."""
    if not parts:
        return
    several = [(batch.inputs, batch.labels, batch.groups.T, of_row.T, batch.targets) for batch, of_row in parts]
    flat, spec = zip(*(pytree.tree_flatten(part, is_leaf=_is_list) for part in several), strict=True)
    leaves: list[Any] = [sum(same, []) if _is_list(same[0]) else torch.cat(same) for same in zip(*flat, strict=True)]
    for start in range(0, len(leaves[0]), longest):
        inputs, labels, groups, of_row, targets = pytree.tree_unflatten(
            [leaf[start : start + longest] for leaf in leaves], spec[0]
        )
        yield Batch(inputs, labels, groups.T, targets), of_row.T


def _rows(batch: Batch, places: Tensor) -> Batch:
    """Return some rows of a batch."""

    def some(part: Any) -> Any:
        fits = (
            len(part) == len(batch) if _is_list(part) else isinstance(part, Tensor) and part.shape[:1] == (len(batch),)
        )
        if not fits:
            raise StageError(
                "contributions: the targets of a batch cannot be taken row by row; give tensors [n, ...] or lists with "
                "an entry for each row, in any nest of tuples and dicts"
            )
        return [part[place] for place in places.tolist()] if _is_list(part) else part[places]

    targets = pytree.tree_map(some, batch.targets, is_leaf=_is_list)
    return Batch(tuple(map(some, batch.inputs)), batch.labels[places], batch.groups[:, places], targets)


def _is_list(part: Any) -> bool:
    return isinstance(part, list)


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
