"""Statistics of batch norms, counted anew: the mean over batches, and nothing else is touched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fairdeploy.pruning.batch_norm import reestimate
from fairdeploy.pruning.problem import Batch
from tests.pruning.problems import Listed, Untouchable, listed


def rows(count: int = 250) -> Listed:
    torch.manual_seed(3)
    labels = torch.zeros(count, dtype=torch.int64)
    return listed(torch.randn(count, 4) * 3 + 1, labels, torch.zeros((1, count), dtype=torch.int64), length=50)


def network() -> nn.Sequential:
    torch.manual_seed(1)
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 6), nn.Dropout(0.5), nn.BatchNorm1d(6, momentum=0.3))
    with torch.no_grad():
        for part in (model[0], model[3]):
            part.running_mean.fill_(7.0)
            part.running_var.fill_(9.0)
            part.weight.uniform_(0.5, 2)
    model[1].train()  # somebody's own choice
    model[3].eval()
    return model


def test_statistics_are_the_mean_over_batches() -> None:
    model, stream = network(), rows()
    modes = [part.training for part in model.modules()]
    weights = [parameter.clone() for parameter in model.parameters()]
    reestimate(model, stream)
    batches = [batch.inputs[0] for batch in stream.epoch(0)]
    assert torch.allclose(model[0].running_mean, torch.stack([b.mean(0) for b in batches]).mean(0), atol=1e-5)
    assert torch.allclose(model[0].running_var, torch.stack([b.var(0) for b in batches]).mean(0), atol=1e-4)
    with torch.no_grad():  # the second sees what the first gives in training, and no dropout
        hidden = [
            model[1](nn.functional.batch_norm(b, None, None, model[0].weight, model[0].bias, True)) for b in batches
        ]
    assert torch.allclose(model[3].running_mean, torch.stack([h.mean(0) for h in hidden]).mean(0), atol=1e-5)
    assert model[0].num_batches_tracked == 5
    assert (model[0].momentum, model[3].momentum) == (0.1, 0.3)
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(one, other) for one, other in zip(weights, model.parameters(), strict=True))


def test_so_many_batches_at_most() -> None:
    first, same = network(), network()
    reestimate(first, rows(), steps=2)
    reestimate(same, rows(100))
    assert torch.equal(first[0].running_mean, same[0].running_mean)


def test_groups_count_as_often_as_the_stream_has_them() -> None:
    """A balanced stream makes the statistics everybody's, however few a group are."""
    many, few = torch.zeros(90, 4), torch.full((10, 4), 10.0)
    shuffle = np.random.default_rng(0).permutation(100)

    def mean(inputs: torch.Tensor) -> float:
        model, count = network(), len(inputs)
        groups = torch.zeros((1, count), dtype=torch.int64)
        reestimate(model, listed(inputs, torch.zeros(count, dtype=torch.int64), groups, length=20))
        return float(model[0].running_mean[0])

    assert mean(torch.cat([many, few])[shuffle]) == pytest.approx(1.0)
    balanced = torch.cat([many[:50], few.repeat(5, 1)])[shuffle]
    assert mean(balanced) == pytest.approx(5.0)


def test_a_network_without_batch_norms_asks_for_no_rows() -> None:
    reestimate(nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2, track_running_stats=False)), Untouchable())


def test_momenta_come_back_after_an_error() -> None:
    class Broken:
        steps = 1

        def epoch(self, number: int) -> Iterator[Batch]:
            batch = next(rows().epoch(0))
            yield replace(batch, inputs=(batch.inputs[0][:, :3],))

    model = network()
    with pytest.raises(RuntimeError):
        reestimate(model, Broken())
    assert (model[0].momentum, model[3].momentum) == (0.1, 0.3)
    assert model[1].training
