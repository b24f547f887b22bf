"""Batch norm statistics, counted anew for a network whose channels or weights have changed."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fairdeploy.pruning.cells import evaluating
from fairdeploy.pruning.problem import Stream


def reestimate(module: nn.Module, stream: Stream, *, steps: int = 50) -> None:
    """Average the statistics of each batch norm over batches of a stream, in place; weights stay.

    Statistics are the mean over batches, and not the exponential average in which the last few count most (Wu and
    Johnson, "Rethinking Batch in BatchNorm", 2021, section 3). With a stream that is balanced over groups every group
    counts alike in them.

    Parameters
    ----------
    module : Module
        A network without batch norms is left as it is.
    stream : Stream
    steps : int
        Batches at most.
    """
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    if not norms:
        return
    momenta = [part.momentum for part in norms]
    device = next(module.parameters()).device
    with evaluating(module), torch.no_grad():
        for part in norms:
            part.reset_running_stats()
            part.momentum, part.training = None, True
        try:
            for _, batch in zip(range(steps), stream.epoch(0), strict=False):
                module(*batch.to(device).inputs)
        finally:
            for part, momentum in zip(norms, momenta, strict=True):
                part.momentum = momentum
