"""What masks would cost, and how much of a budget that is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from fairdeploy.compaction import ChannelGroup, Masks
from fairdeploy.compaction.graph_labels import label_graph
from fairdeploy.compaction.groups import groups_of
from fairdeploy.compaction.macs import macs_of_masks
from fairdeploy.compaction.sizes import bytes_of_masks, parameters_of_masks
from fairdeploy.compaction.trace import trace
from fairdeploy.errors import StageError
from fairdeploy.project import Budget

Count = Callable[[Masks], int]
Latency = Callable[[Sequence[Masks]], Sequence[float]]

WORDS = {"macs": "multiply-accumulates", "parameters": "parameters", "size": "bytes", "latency": "latency"}
_MOST_NAMED = 3


@dataclass(frozen=True)
class Costs:
    """What a network costs under masks that are not carried out yet.

    Attributes
    ----------
    macs : callable
        Multiply-accumulates for one row of input.
    parameters, size_bytes : callable
        Of parameters, and of parameters and buffers.
    latency_ms : callable, optional
        How long networks take (`fairdeploy.pruning.latency_table.network_latency`).
    """

    macs: Count
    parameters: Count
    size_bytes: Count
    latency_ms: Latency | None = None

    def of(self, name: str, masks: Masks) -> float:
        """Return a cost that a budget limits, by its name there.

        Raises
        ------
        StageError
            If it is the latency, and nothing measures it.
        """
        if name == "latency":
            if self.latency_ms is None:
                raise StageError(
                    "prune.keep.latency: nothing measures latency here; install a target's runtime (from Python: give "
                    "latency=), or limit macs, parameters or size instead"
                )
            return self.latency_ms([masks])[0]
        count: Count = getattr(self, "size_bytes" if name == "size" else name)
        return count(masks)


def groups_and_costs(
    model: nn.Module, example_inputs: tuple[Tensor, ...], latency_ms: Latency | None = None
) -> tuple[tuple[ChannelGroup, ...], Costs]:
    """Return the channel groups that can be pruned, and what the network costs under masks.

    Raises
    ------
    StageError
        If no group can be pruned; says why.
    CompactionError
        If ``torch.export`` cannot follow the network.
    """
    with torch.inference_mode(False):  # whether zeros close a channel is found by gradients
        labelled = label_graph(trace(model, example_inputs))
    costs = Costs(
        macs_of_masks(labelled), parameters_of_masks(labelled, model), bytes_of_masks(labelled, model), latency_ms
    )
    return prunable(groups_of(labelled)), costs


def prunable(groups: Iterable[ChannelGroup]) -> tuple[ChannelGroup, ...]:
    """Return the groups that can be pruned.

    Raises
    ------
    StageError
        If there is none, with the reasons of the first few.
    """
    groups = tuple(groups)
    chosen = tuple(group for group in groups if group.prunable)
    if not chosen:
        why = "; ".join(f"{group.name}: {group.reason}" for group in groups[:_MOST_NAMED])
        more = f"; and {len(groups) - _MOST_NAMED} more" if len(groups) > _MOST_NAMED else ""
        raise StageError(
            f"a model without channels to prune: {why + more or 'no layer reads what another one makes'}; "
            "in a project, prune: {method: none} leaves it whole"
        )
    return chosen


@dataclass(frozen=True)
class BudgetUse:
    """How much of a budget masks use: called with masks, the largest cost as a share of its limit; 1 and less fits.

    Attributes
    ----------
    budget : Budget
    costs : Costs
    whole : mapping of str to float, optional
        The costs that the budget's fractions are of; those without masks where it is left out.

    Raises
    ------
    StageError
        When called, if latency is limited and nothing measures it, or a cost is limited that the dense network does
        not have.
    """

    budget: Budget
    costs: Costs
    whole: Mapping[str, float] | None = None

    def __call__(self, masks: Masks) -> float:
        """Return the largest cost as a share of its limit."""
        return max(self.costs.of(name, masks) / limit for name, limit in self._limits.items())

    def out_of_reach(self, smallest: Masks, multiple: int) -> StageError:
        """Return what to raise where even the smallest network, with channels in some multiple, exceeds the budget."""
        said = []
        for name, limit in self._limits.items():
            cost, fraction = self.costs.of(name, smallest), self.budget.limits[name]
            if cost > limit:
                share = math.ceil(cost / limit * fraction * 1000) / 1000
                said.append(
                    f"prune.keep.{name}: {fraction:g} cannot be reached with channels in multiples of {multiple}; the "
                    f"least is {share:g} of the dense {WORDS[name]}"
                )
        return StageError("; ".join(said) + ": raise it" + (", or lower prune.round_to" if multiple > 1 else ""))

    @cached_property
    def _limits(self) -> dict[str, float]:
        whole = self.whole or {name: self.costs.of(name, {}) for name in self.budget.limits}
        limits = {name: fraction * whole[name] for name, fraction in self.budget.limits.items()}
        for name, limit in limits.items():
            if not limit > 0:
                raise StageError(
                    f"prune.keep.{name}: the dense network has no {WORDS[name]} to be limited; limit another cost"
                )
        return limits
