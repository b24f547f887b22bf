"""A regulariser against channels that one group of people alone depends on: pruning one would hit that group alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fairdeploy.compaction import Member
from fairdeploy.errors import StageError
from fairdeploy.pruning.problem import Batch


class Concentration:
    """How differently the groups of people depend on a network's channels.

    How much a group depends on a channel is, to first order, the squared derivative of its mean loss by the channel's
    gate at 1 (Molchanov et al., "Importance estimation for neural network pruning", CVPR 2019, Eq. 8, for each group of
    people). A derivative by a gate is the sum of parameter times derivative over the slices that the gate multiplies,
    so the network is called as it is. Each group's dependence is divided by its sum over all channels, since a group
    with larger losses has larger derivatives everywhere.

    The derivatives are those of one batch: a group with few rows in it shows noise as dependence, so batches should be
    balanced. Each group costs a backward pass, and the backward pass of the whole loss runs through all of them.

    Parameters
    ----------
    model : Module
        The network that is trained; its parameters are read at every call.
    closing : mapping of str to sequence of Member
        What a gate of each coupled group would multiply (`closing_members`).

    Raises
    ------
    StageError
        If there are no channels.
    """

    def __init__(self, model: nn.Module, closing: Mapping[str, Sequence[Member]]) -> None:
        if not closing:
            raise StageError("concentration: the model has no channels that can be pruned, so none can stand alone")
        self._parameters = dict(model.named_parameters(remove_duplicate=False))
        self._closing = closing

    def penalty(self, batch: Batch, losses: Tensor) -> Tensor:
        """Return the concentration, mean over the attributes: 0 where groups depend alike on all channels, at most 1.

        It is 1 where no two groups depend on the same channel, and 0 where a batch has less than two groups of each
        attribute. With q a group's shares over channels, and S groups, it is
        ``(sum over channels of (sum over groups of q^2) / (sum over groups of q) - 1) / (S - 1)``.

        Parameters
        ----------
        batch : Batch
            Of which groups are read.
        losses : Tensor [n]
            Of its rows, with a graph.
        """
        found = []
        for of_row in batch.groups.to(losses.device):
            levels = of_row[of_row >= 0].unique()
            if len(levels) > 1:
                shares = torch.stack([self._shares(losses[of_row == level].mean()) for level in levels])
                chi = (shares.square().sum(0) / shares.sum(0).clamp_min(torch.finfo(shares.dtype).tiny)).sum()
                found.append((chi - 1) / (len(levels) - 1))
        return torch.stack(found).mean() if found else losses.new_zeros(())

    def _shares(self, loss: Tensor) -> Tensor:
        """Return how much a loss depends on each channel of all groups, in shares of the whole."""
        squares = torch.cat([slope.square() for slope in self.slopes(loss).values()])
        return squares / squares.sum().clamp_min(torch.finfo(squares.dtype).tiny)

    def slopes(self, loss: Tensor) -> dict[str, Tensor]:
        """Return the derivative of a loss by the gates [channels] of each coupled group at 1, with a graph."""
        names = sorted({member.parameter for members in self._closing.values() for member in members})
        tensors = [self._parameters[name] for name in names]
        slopes = torch.autograd.grad(loss, tensors, create_graph=True, allow_unused=True, materialize_grads=True)
        products = {name: tensor * slope for name, tensor, slope in zip(names, tensors, slopes, strict=True)}
        found = {}
        for group, members in self._closing.items():
            size = 1 + max(max(member.channels) for member in members)
            parts = [_by_channel(member, products[member.parameter], size) for member in members]
            found[group] = torch.stack(parts).sum(0)
        return found


def _by_channel(member: Member, product: Tensor, size: int) -> Tensor:
    """Sum a tensor over the slices of each channel [channels]."""
    slices = member.slices(product)
    count = math.prod(slices.shape[: 2 if member.groups > 1 else 1])
    by_index = slices.reshape(count, -1).sum(1)
    places, channels = (torch.tensor(part, device=product.device) for part in (member.indices, member.channels))
    return by_index.new_zeros(size).index_add(0, channels, by_index[places])
