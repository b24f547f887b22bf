"""Which channels serve whom before pruning and after: contributions of both networks under the same names."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from fairdeploy.bundle import ServesRecord
from fairdeploy.compaction import Masks, channel_groups
from fairdeploy.pruning.problem import Problem
from fairdeploy.pruning.slices import contributions

ROWS = 500


def serves(
    before: nn.Module, after: nn.Module, masks: Masks, example_inputs: tuple[Tensor, ...], problem: Problem
) -> ServesRecord:
    """Close every channel of two networks alone, on `ROWS` rows or one for each cell.

    Parameters
    ----------
    before, after : Module
        The second is the first, compacted and perhaps trained.
    masks : mapping of str to array of bool [size]
        What was kept. Where compaction found that more or fewer channels carry nothing, or a group has another name
        after, its channels cannot be followed.
    example_inputs : tuple of Tensor
    problem : Problem

    Raises
    ------
    StageError
        See `contributions`.
    """
    rows = max(ROWS, problem.classes * sum(len(levels) for levels in problem.groups.values()))
    numbers = {name: np.flatnonzero(mask).tolist() for name, mask in masks.items()}
    left = [
        group
        for group in channel_groups(after, example_inputs)
        if group.prunable and len(numbers.get(group.name, ())) == group.size
    ]
    whole = contributions(before, channel_groups(before, example_inputs), problem, rows=rows)
    return ServesRecord(
        before=whole.record(),
        after=contributions(after, left, problem, rows=rows).record(numbers) if left else None,
    )
