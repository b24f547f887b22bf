"""A regulariser against channels that one group of people alone depends on: pruning one would hit that group alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from fairdeploy.compaction import ChannelGroup, Member, channel_groups
from fairdeploy.errors import StageError
from fairdeploy.pruning.gates import Gated, closing_members
from fairdeploy.pruning.problem import Batch, Objective


class Concentration:
    """How alone groups of people are with the channels that they depend on.

    At every call some channels are drawn and closed one by one, and the loss of each group of people is compared with
    that of the open network: what `contributions` reports, on one batch. A channel whose closing raises the loss of one
    group alone counts 1, one that raises all alike 0, weighted by how much losses rise in all. Derivatives by gates
    would need one pass for each group and not for each channel, but they vanish where a network has been trained, also
    for a channel that a group cannot do without.

    Each channel drawn costs another forward and backward pass. A group with few rows in a batch shows noise as
    dependence, so batches should be balanced.

    Parameters
    ----------
    model : Module
        The network that is trained; its parameters are read at every call, its running statistics stay.
    groups : iterable of ChannelGroup
    closing : mapping of str to sequence of Member
        What closes the channels of each coupled group (`closing_members`).
    objective : Objective
    channels : int
        How many are drawn, by torch's global generator; all where there are no more.

    Raises
    ------
    StageError
        If there are no channels.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Iterable[ChannelGroup],
        closing: Mapping[str, Sequence[Member]],
        objective: Objective,
        *,
        channels: int = 8,
    ) -> None:
        self._gated = Gated(model, groups, closing)
        self._objective, self._drawn = objective, channels
        self._channels = [(name, place) for name, gate in self._gated.gates.items() for place in range(len(gate))]
        if not self._channels:
            raise StageError("concentration: the model has no channels that can be pruned, so none can stand alone")

    def penalty(self, batch: Batch, losses: Tensor) -> Tensor:
        """Return the concentration in [0, 1], mean over the attributes, with a graph.

        With r >= 0 the rise of a group's mean loss when a channel is closed, and S groups, it is
        ``(S * c - 1) / (S - 1)``, where c is the sum over channels of ``(sum over groups of r^2) / (sum over groups of
        r)``, divided by the sum of all r. It is 0 where no loss rises, and where the batch has less than two groups of
        each attribute.

        Parameters
        ----------
        batch : Batch
            On the model's device.
        losses : Tensor [n]
            Of its rows, by the open network, with a graph.
        """
        found = []
        rises = self._rises(batch, losses)
        for of_row in batch.groups:
            levels = of_row[of_row >= 0].unique()
            if len(levels) > 1:
                by_level = torch.stack([rises[:, of_row == level].mean(1) for level in levels], dim=1).clamp_min(0)
                found.append(_concentration(by_level))
        return torch.stack(found).mean() if found else losses.new_zeros(())

    def _rises(self, batch: Batch, losses: Tensor) -> Tensor:
        """Return by how much the loss of each row rises under each closed channel [channels, n]."""
        model = self._gated.model
        parameters = dict(model.named_parameters(remove_duplicate=False))
        rises = []
        for number in torch.randperm(len(self._channels))[: self._drawn].tolist():
            group, channel = self._channels[number]
            gate = self._gated.gates[group].index_fill(0, torch.tensor(channel), 0.0)
            outputs = self._gated.apart(parameters, {**self._gated.gates, group: gate}, batch.inputs)
            rises.append(self._objective.loss(outputs, batch.targets) - losses)
        return torch.stack(rises)


def discouraged(
    model: nn.Module, like: nn.Module, example_inputs: tuple[Tensor, ...], objective: Objective, strength: float
) -> Callable[[Batch, Tensor], Tensor]:
    """Return what is added to the loss of a network in training: `strength` times its `Concentration`.

    Parameters
    ----------
    model : Module
        On the device that it is trained on.
    like : Module
        The same network where the example inputs are; its channels are found there.
    example_inputs : tuple of Tensor
    objective : Objective
    strength : float

    Raises
    ------
    StageError
        If there are no channels.
    """
    groups = channel_groups(like, example_inputs)
    alone = Concentration(model, groups, closing_members(like, groups, example_inputs), objective)
    return lambda batch, losses: strength * alone.penalty(batch, losses)


def _concentration(rises: Tensor) -> Tensor:
    """Return the concentration of rises [channels, groups]."""
    least, groups = torch.finfo(rises.dtype).tiny, rises.shape[1]
    total = rises.sum(1)
    alone = (rises.square().sum(1) / total.clamp_min(least)).sum() / total.sum().clamp_min(least)
    return (groups * alone - 1).clamp_min(0) / (groups - 1)
