"""Parameters and bytes foretold for masks are those of the compacted network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fairdeploy.compaction import channel_groups, compact
from fairdeploy.compaction.graph_labels import label_graph
from fairdeploy.compaction.sizes import bytes_of_masks, parameters_of_masks
from fairdeploy.compaction.trace import trace

from .hard import exported_once, rectangular, rows_for, subject  # noqa: F401
from .networks import EXAMPLE, NETWORKS, network, randomise

PARTS = (
    "grouped_transposed", "depthwise_multiplier", "weight_norm", "weight_standardisation", "unet", "windows",
    "embeddings", "recurrent", "layer_scale", "multi_query",
)  # fmt: skip


def assert_foretold(model: nn.Module, example: tuple[Tensor, ...], masks: dict[str, np.ndarray]) -> None:
    """Bytes are those of the user's class: a graph has index tables where shuffled channels are picked."""
    labelled = label_graph(trace(model, example))
    parameters, size_bytes = parameters_of_masks(labelled, model), bytes_of_masks(labelled, model)
    result = compact(model, example, masks)
    assert (parameters({}), size_bytes({})) == (result.parameters_before, result.bytes_before)
    assert parameters(masks) == result.parameters_after < result.parameters_before
    assert size_bytes(masks) == result.bytes_after or result.not_own_class


@pytest.mark.parametrize("name", NETWORKS)
def test_plain_networks(name: str) -> None:
    model, rng = network(name, 2), np.random.default_rng(1)
    groups = [group for group in channel_groups(model, EXAMPLE) if group.prunable]
    assert_foretold(model, EXAMPLE, {g.name: np.arange(g.size) < rng.integers(2, g.size) for g in groups})


@pytest.mark.parametrize("name", PARTS)
def test_parts_that_are_hard(name: str) -> None:
    model, groups = subject(name)
    rng = np.random.default_rng(5)
    masks = {group.name: rectangular(group, rng) for group in groups if group.prunable}
    assert_foretold(model, rows_for(name, 2, 0), masks)


def test_shared_parameters_count_once_and_unread_ones_whole() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.first = nn.Linear(4, 8), nn.Linear(8, 8)
            self.second, self.unread = self.first, nn.Linear(3, 5)
            self.head = nn.Linear(8, 2)
            self.register_buffer("steps", torch.zeros(2, dtype=torch.int16))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.second(self.first(self.enter(x).relu()).relu()).relu())

    masks = {"enter.weight": np.arange(8) < 5}
    example = (torch.randn(2, 4, generator=torch.Generator().manual_seed(0)),)
    model = randomise(Tied(), 0)
    labelled = label_graph(trace(model, example))
    left = 4 * 5 + 5 + 25 + 5 + 5 * 2 + 2 + 3 * 5 + 5
    assert parameters_of_masks(labelled, model)(masks) == left
    assert bytes_of_masks(labelled, model)(masks) == 4 * left + 2 * 2
    assert_foretold(model, example, masks)


def test_what_masks_cannot_remove_is_counted() -> None:
    model = network("plain")
    group = next(group for group in channel_groups(model, EXAMPLE) if group.prunable)
    labelled = label_graph(trace(model, EXAMPLE))
    nothing, one = {group.name: np.zeros(group.size, bool)}, {group.name: np.arange(group.size) == 0}
    assert parameters_of_masks(labelled, model)(nothing) == parameters_of_masks(labelled, model)(one)
