"""Pruning by a score: the channels of highest score stay, the same share of every group, to a budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from fairdeploy.errors import StageError
from fairdeploy.project import Budget
from fairdeploy.pruning.base import Pruned
from fairdeploy.pruning.budget import BudgetUse, Latency, groups_and_costs
from fairdeploy.pruning.counts import masks_of
from fairdeploy.pruning.determinism import set_deterministic
from fairdeploy.pruning.problem import Problem
from fairdeploy.pruning.rounding import round_counts
from fairdeploy.pruning.scores import Score, Subject, batch_norm_scale, chance, fpgm, l1, l2
from fairdeploy.pruning.sensitivity import fairgrape, fisher, taylor

SCORES: Mapping[str, Score] = {
    "magnitude": l2,
    "l1": l1,
    "batch-norm-scale": batch_norm_scale,
    "fpgm": fpgm,
    "taylor": taylor,
    "fisher": fisher,
    "random": chance,
    "fairgrape": fairgrape,
}


@dataclass(frozen=True)
class ByScore:
    """A `Pruner` that scores the dense network's channels once.

    Attributes
    ----------
    name : str
        In ``prune.method``: a key of `SCORES`.
    round_to : int or callable
        Kept channels of each group come in multiples of this, since runtimes waste the rest; or what says how long
        the network takes under masks, towards which counts are rounded (`round_counts`).
    last_word : callable, optional
        Measures whole networks under masks; of rounding by latency.
    latency_ms : callable, optional
        How long networks take under masks; for budgets that limit it.
    whole : mapping of str to float, optional
        The costs that budgets are fractions of, where they are not those of the network given (`BudgetUse`).

    Raises
    ------
    StageError
        If no score has this name; says which have.
    """

    name: str = "magnitude"
    round_to: int | Latency = 8
    last_word: Latency | None = None
    latency_ms: Latency | None = None
    whole: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if self.name not in SCORES:
            raise StageError(f"prune.method: there is no score '{self.name}'; known: {', '.join(SCORES)}")

    def prune(
        self,
        model: nn.Module,
        example_inputs: tuple[Tensor, ...],
        *,
        budgets: Sequence[Budget],
        problem: Problem | None,
        seed: int,
    ) -> Iterator[Pruned]:
        """Yield masks for each budget; see `Pruner`. A score by weights alone needs no problem."""
        groups, costs = groups_and_costs(model, example_inputs, self.latency_ms)
        with set_deterministic(seed):
            scores = SCORES[self.name](Subject(model, groups, problem, seed))
        for budget in budgets:
            use = BudgetUse(budget, costs, self.whole)
            counts = round_counts(groups, scores, use, round_to=self.round_to, last_word=self.last_word)
            yield Pruned(masks_of(groups, scores, counts), model)
