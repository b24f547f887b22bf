"""Which channels serve whom before and after: the pruned network's channels have the dense one's numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from fairdeploy import yamlfile
from fairdeploy.compaction import channel_groups, compact
from fairdeploy.project import Prune
from fairdeploy.pruning import set_deterministic
from fairdeploy.pruning.problem import Problem
from fairdeploy.pruning.serves import ROWS, serves
from fairdeploy.pruning.slices import contributions
from tests.pruning.problems import listed, problem_of

EXAMPLE = (torch.linspace(-1, 1, 32).view(4, 8),)
KEPT = {"0.weight": (1, 4, 5), "2.weight": (0, 3)}
SIZES = {"0.weight": 6, "2.weight": 5}


def net() -> nn.Module:
    with set_deterministic(0):
        return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)).eval()


def problem(levels: int = 2) -> Problem:
    generator = torch.Generator().manual_seed(0)
    labels, tone = (torch.randint(0, most, (2000,), generator=generator) for most in (2, levels))
    rows = listed(torch.randn(2000, 8, generator=generator), labels, tone[None])
    return problem_of(rows, rows, {"tone": tuple(f"t{level}" for level in range(levels))})


def masks(**changed: tuple[int, ...]) -> dict[str, NDArray[np.bool_]]:
    kept = KEPT | {name.replace("_", "."): numbers for name, numbers in changed.items()}
    return {name: np.isin(np.arange(size), kept[name]) for name, size in SIZES.items()}


def test_channels_keep_the_numbers_of_the_dense_network() -> None:
    small = compact(net(), EXAMPLE, masks()).trainable()
    found = serves(net(), small, masks(), EXAMPLE, problem())
    assert found.after is not None
    assert {one.group: len(one.channels) for one in found.before.groups} == SIZES
    assert {one.group: tuple(part.channel for part in one.channels) for one in found.after.groups} == KEPT
    alone = contributions(small, channel_groups(small, EXAMPLE), problem(), rows=ROWS)
    for group in found.after.groups:
        np.testing.assert_array_equal([one.rises for one in group.channels], alone.of_slices(group.group))
    assert 0.9 * ROWS < found.before.rows == found.after.rows <= ROWS


def test_groups_whose_channels_cannot_be_followed_are_missing() -> None:
    small = compact(net(), EXAMPLE, masks()).trainable()
    found = serves(net(), small, masks(**{"0_weight": (1, 4)}), EXAMPLE, problem())
    assert found.after is not None
    assert [one.group for one in found.after.groups] == ["2.weight"]
    assert [one.group for one in found.before.groups] == list(SIZES)
    assert serves(net(), small, {}, EXAMPLE, problem()).after is None


def test_every_cell_has_a_row_where_there_are_more_cells_than_rows() -> None:
    small = compact(net(), EXAMPLE, masks()).trainable()
    before = serves(net(), small, masks(), EXAMPLE, problem(300)).before
    assert ROWS < before.rows <= 2 * 300


@pytest.mark.parametrize("options", [{"method": "none", "serves": True}, {"method": "l1", "serves": "yes"}])
def test_it_is_asked_for_with_true_and_a_method(options: dict[str, object]) -> None:
    keep = {} if options["method"] == "none" else {"keep": {"macs": 0.5}}
    errors = yamlfile.problems(Prune, yamlfile.Document(Path(), {**options, **keep}, {}))
    assert ["serves" in error.message for error in errors] == [True]
    assert not yamlfile.problems(Prune, yamlfile.Document(Path(), {**options, "serves": False, **keep}, {}))
