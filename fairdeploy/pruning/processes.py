"""Several processes that train one network: who this one is, and what they agree on."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn


def count() -> int:
    """Return how many processes train together: those of the process group, or this one alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process."""
    return dist.get_rank() if count() > 1 else 0


def summed(tensor: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes, on the device of the tensor."""
    if count() == 1:
        return tensor
    shared = tensor.to(_device(), copy=True)
    dist.all_reduce(shared)
    return shared.to(tensor.device)


def of_the_first(tensor: Tensor) -> Tensor:
    """Return what the first process has."""
    if count() == 1:
        return tensor
    shared = tensor.to(_device(), copy=True)
    dist.broadcast(shared, 0)
    return shared.to(tensor.device)


def largest(number: int) -> int:
    """Return the largest of all processes' numbers."""
    held = torch.zeros(count(), dtype=torch.int64)
    held[rank()] = number
    return int(summed(held).max())


def share_buffers(module: nn.Module) -> None:
    """Give every process the first one's buffers: gradients are averaged, running statistics are not."""
    if count() > 1:
        for buffer in module.buffers():
            buffer.copy_(of_the_first(buffer))


def alike(number: int) -> bool:
    """Return whether a number is the same in all processes."""
    mine = torch.tensor(number)
    return int(summed((mine != of_the_first(mine)).long())) == 0


def _device() -> torch.device:
    """Return the device that the process group's backend sums on."""
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
