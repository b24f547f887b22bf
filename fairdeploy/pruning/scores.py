"""What a channel is worth by its weights alone: norms, distances, batch-norm scales, or chance.

A channel is all its slices of all members of its group, so that what is scored is what is removed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fairdeploy.compaction import ChannelGroup, Member
from fairdeploy.compaction.bake import baked
from fairdeploy.errors import StageError
from fairdeploy.pruning.counts import Scores
from fairdeploy.pruning.problem import Problem


@dataclass(frozen=True)
class Subject:
    """A network whose channels are scored, and what a score may look at.

    Attributes
    ----------
    model : Module
        Left as it is.
    groups : tuple of ChannelGroup
    problem : Problem, optional
        Of which scores that look at data read the prune stream.
    seed : int
    """

    model: nn.Module
    groups: tuple[ChannelGroup, ...]
    problem: Problem | None = None
    seed: int = 0


Score = Callable[[Subject], Scores]


def l1(subject: Subject) -> Scores:
    """Return the sum of absolute weights of each channel.

    Li et al., "Pruning filters for efficient ConvNets" (ICLR 2017): the sum over a filter's kernels of ``|F|``.
    """
    return comparable(dict(_sums(subject, torch.abs)))


def l2(subject: Subject) -> Scores:
    """Return the L2 norm of each channel: the root of the sum of its squared weights."""
    return comparable({name: np.sqrt(squares) for name, squares in _sums(subject, torch.square)})


def batch_norm_scale(subject: Subject) -> Scores:
    """Return how far batch norms scale each channel up; the L2 norm in groups that no batch norm scales.

    Liu et al., "Learning efficient convolutional networks through network slimming" (ICCV 2017): ``|gamma|``, added up
    where coupled layers have a batch norm each.

    Raises
    ------
    StageError
        If there is no batch norm with a scale.
    """
    parts = subject.model.named_modules(remove_duplicate=False)
    scales = {f"{name}.weight".lstrip(".") for name, part in parts if isinstance(part, _BatchNorm)}
    scaled = {group: tuple(one for one in group.members if one.parameter in scales) for group in subject.groups}
    if not any(scaled.values()):
        raise StageError(
            "prune.method: batch-norm-scale needs batch norms that scale channels, and the network has none: choose "
            "another method, such as magnitude"
        )
    parameters = weights_of(subject)
    found = {group.name: channel_sums(group.size, members, parameters, torch.abs) for group, members in scaled.items()}
    return {**l2(subject), **comparable({group.name: found[group.name] for group, kept in scaled.items() if kept})}


def fpgm(subject: Subject) -> Scores:
    """Return how far each channel is from all the others of its group; the nearest can be replaced by them.

    He et al., "Filter pruning via geometric median for deep neural networks acceleration" (CVPR 2019):
    ``g(x) = sum_j |x - F_j|``, smallest at the filter nearest to the layer's geometric median.
    """
    parameters, found = weights_of(subject), {}
    for group in subject.groups:
        products = torch.zeros((group.size, group.size), dtype=torch.float64)
        for member in group.members:
            vectors = _vectors(group.size, member, parameters[member.parameter])
            products += vectors @ vectors.T
        squares = products.diagonal()
        distances = (squares[:, None] + squares - 2 * products).clamp_min(0).sqrt()
        found[group.name] = distances.fill_diagonal_(0).sum(1).numpy()
    return comparable(found)


def chance(subject: Subject) -> Scores:
    """Return a random number for each channel, drawn by the seed: what any other score must beat."""
    generator = np.random.default_rng(subject.seed)
    return comparable({group.name: generator.random(group.size) for group in subject.groups})


def comparable(found: Mapping[str, NDArray[np.float64]]) -> Scores:
    """Return scores with mean 1 in each group, so that groups can be compared; zeros stay.

    Raises
    ------
    StageError
        If a score is not finite; names the group.
    """
    scores = {}
    for name, values in found.items():
        if not np.isfinite(values).all():
            raise StageError(
                f"prune: the channels of '{name}' have no finite score: there are NaN or infinite weights or "
                "gradients; mend the network first"
            )
        scores[name] = values / values.mean() if values.any() else values
    return scores


def channel_sums(
    size: int,
    members: Iterable[Member],
    tensors: Mapping[str, Tensor],
    of_each: Callable[[Tensor], Tensor] = lambda values: values,
) -> NDArray[np.float64]:
    """Return the sum [size] of something over each channel's slices of some members.

    Parameters
    ----------
    size : int
        How many channels there are.
    members : iterable of Member
    tensors : mapping of str to Tensor
        By the names of parameters, and shaped like them.
    of_each : callable
        What of each value is added up, in float64.
    """
    sums = np.zeros(size)
    for member in members:
        by_index = _rows(member, of_each(tensors[member.parameter].double())).sum(1).cpu().numpy()
        np.add.at(sums, np.array(member.channels), by_index[np.array(member.indices)])
    return sums


def weights_of(subject: Subject) -> dict[str, Tensor]:
    """Return a network's parameters by the names that members have, on the CPU."""
    named = baked(subject.model).named_parameters(remove_duplicate=False)
    return {name: parameter.detach().cpu() for name, parameter in named}


def _sums(subject: Subject, of_each: Callable[[Tensor], Tensor]) -> Iterator[tuple[str, NDArray[np.float64]]]:
    parameters = weights_of(subject)
    for group in subject.groups:
        yield group.name, channel_sums(group.size, group.members, parameters, of_each)


def _rows(member: Member, tensor: Tensor) -> Tensor:
    """Return the slices of a parameter as vectors [indices, elements]."""
    values = member.slices(tensor)
    return values.reshape(math.prod(values.shape[: 2 if member.groups > 1 else 1]), -1)


def _vectors(size: int, member: Member, tensor: Tensor) -> Tensor:
    """Return what each channel has of a member as one vector [size, elements]; zeros where it has nothing."""
    rows = _rows(member, tensor.double())
    turns = _turns(member.channels)
    vectors = torch.zeros((size, max(turns) + 1, rows.shape[1]), dtype=torch.float64)
    vectors[list(member.channels), turns] = rows[list(member.indices)]
    return vectors.flatten(1)


def _turns(channels: Sequence[int]) -> list[int]:
    """Return for each entry how often its channel came before."""
    seen: dict[int, int] = {}
    turns = []
    for channel in channels:
        turns.append(seen.get(channel, 0))
        seen[channel] = turns[-1] + 1
    return turns
