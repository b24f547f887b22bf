"""Bilevel pruning: widths and multipliers above, weights below.

The lower level trains the weights of the gated network on the train split. The upper level moves how many channels each
group keeps, by the gradient of the loss on the prune split through the lower level's answer, along an exact budget that
shrinks from the dense cost; and the multipliers of the constraints, on true violations there. Which channels of a group
stay is decided by their norms, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fairdeploy.compaction.bake import private_copy
from fairdeploy.project import Budget, Constraints
from fairdeploy.pruning import processes
from fairdeploy.pruning.base import Pruned
from fairdeploy.pruning.budget import BudgetUse, Latency, groups_and_costs
from fairdeploy.pruning.checkpoint import Checkpoints, nowhere
from fairdeploy.pruning.counts import masks_of
from fairdeploy.pruning.fair import FairTraining
from fairdeploy.pruning.gates import Gated, closing_members
from fairdeploy.pruning.hypergradient import hypergradient
from fairdeploy.pruning.problem import Batch, Problem, Stream
from fairdeploy.pruning.rounding import round_counts
from fairdeploy.pruning.scores import Subject, l2
from fairdeploy.pruning.training import Distillation, Progress, Schedule, fit, on_device
from fairdeploy.pruning.widths import Widths

LOWER_STEPS = 4  # for each upper one
LENGTH = 0.06  # of an upper step, in logarithms of widths, where the gradient always says the same
RAMP = 0.6  # of the phase, in which the budget shrinks
TEMPERATURES = (0.3, 0.05)  # of the gates, at the start and at the end of the ramp
SMOOTHING = (0.9, 0.95)  # of the upper gradient, and of its square
_TINY = 1e-12


class Allocation:
    """The upper level over widths, while the weights of a gated network are trained.

    Parameters
    ----------
    gated : Gated
    widths : Widths
    use : BudgetUse
    problem : Problem
    fair : FairTraining, optional
        Weighs rows in both levels.
    step : float
        The lower level's learning rate in its answer.

    Attributes
    ----------
    scale : float
        Of all widths, to be on the budget.
    kept : float
        The share of the dense network's cost that the budget leaves now.
    """

    def __init__(
        self, gated: Gated, widths: Widths, use: BudgetUse, problem: Problem, fair: FairTraining | None, step: float
    ) -> None:
        self._gated, self._widths, self._use, self._fair, self._step = gated, widths, use, fair, step
        self._objective = problem.objective
        self._above, self._below = Cycle(problem.upper), Cycle(problem.train)
        self._dense_use = use({})
        self._moments = np.zeros(len(widths.factors)), 0.0
        self._moved = 0
        self.scale, self.kept = 1.0, 1.0

    def before(self, step: int, total: int) -> None:
        """Shrink the budget, move the widths along it, and set the gates."""
        if (step - 1) % LOWER_STEPS:
            return
        done = min(1.0, (step - 1) / (RAMP * total))
        share = 1 + max(0.0, self._dense_use - 1) * (1 - done) ** 3
        self.kept = min(1.0, share * min(self._use.budget.limits.values()))
        temperature = TEMPERATURES[0] + (TEMPERATURES[1] - TEMPERATURES[0]) * done
        self.scale = self._widths.scale_of(self._use, share)
        counts = self.counts()
        gradient = self._hypergradient(counts, temperature) * counts.numpy()
        self._widths.move(self._step_along(gradient, self._widths.slopes(self.scale, self._use)))
        self.scale = self._widths.scale_of(self._use, share)
        self._gated.gates = self._widths.gates(self.counts(), temperature)

    def counts(self) -> Tensor:
        """Return how many channels of each group stay now [groups], not rounded."""
        return torch.tensor(list(self._widths.counts(self.scale).values()))

    def state(self) -> dict[str, Any]:
        """Return where it stands, as JSON."""
        return {
            "factors": self._widths.factors.tolist(),
            "moments": [self._moments[0].tolist(), self._moments[1]],
            "moved": self._moved,
            "scale": self.scale,
            "kept": self.kept,
            "gates": {name: gate.tolist() for name, gate in self._gated.gates.items()},
            "batches": [self._above.taken, self._below.taken],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._widths.factors = np.array(state["factors"])
        self._moments = np.array(state["moments"][0]), state["moments"][1]
        self.scale, self._moved, self.kept = state["scale"], state["moved"], state["kept"]
        self._gated.gates = {name: torch.tensor(gate) for name, gate in state["gates"].items()}
        self._above.skip(state["batches"][0])
        self._below.skip(state["batches"][1])

    def _step_along(self, gradient: NDArray[np.float64], costs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return a step down a gradient [groups] at no cost: its mean so far over its root mean square (Adam).

        One scale for all groups, so that the step stays on the budget; where gradients contradict each other from batch
        to batch it is short.
        """
        along = gradient - costs * (gradient @ costs) / max(float(costs @ costs), _TINY)
        first, second = SMOOTHING
        mean, square = self._moments
        self._moments = first * mean + (1 - first) * along, second * square + (1 - second) * float((along**2).mean())
        self._moved += 1
        unbiased = self._moments[0] / (1 - first**self._moved)
        scale = (self._moments[1] / (1 - second**self._moved)) ** 0.5
        step: NDArray[np.float64] = -LENGTH * unbiased / max(scale, _TINY)
        return step

    def _hypergradient(self, counts: Tensor, temperature: float) -> NDArray[np.float64]:
        weights = {name: parameter.detach() for name, parameter in self._gated.model.named_parameters()}
        device = next(iter(weights.values())).device

        def loss_on(given: Batch) -> Callable[[Mapping[str, Tensor], Tensor], Tensor]:
            batch = given.to(device)

            def loss(parameters: Mapping[str, Tensor], variables: Tensor) -> Tensor:
                outputs = self._gated.apart(parameters, self._widths.gates(variables, temperature), batch.inputs)
                losses = self._objective.loss(outputs, batch.targets)
                return (losses if self._fair is None else losses * self._fair.weights(batch).to(losses)).mean()

            return loss

        above, below = loss_on(self._above.next()), loss_on(self._below.next())
        with sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            found = hypergradient(above, below, weights, counts, step=self._step)
        return processes.summed(found).double().numpy() / processes.count()


@dataclass(frozen=True)
class Bilevel:
    """The `Pruner` of ``prune.method: bilevel``.

    Attributes
    ----------
    schedule : Schedule
        Of the phase in which gates and weights are trained.
    limits : Constraints, optional
    reference : Module, optional
        The dense network, which drops are counted from; the network that is pruned where it is left out.
    distillation : float
        The share that the distance from the network given, as a teacher, has in the lower level's loss.
    round_to : int or callable
    last_word, latency_ms : callable, optional
    whole : mapping of str to float, optional
        See `ByScore`.
    checkpoints : callable
        Where the phase of each level is kept.
    progress : callable, optional
    """

    schedule: Schedule
    limits: Constraints | None = None
    reference: nn.Module | None = None
    distillation: float = 0.5
    round_to: int | Latency = 8
    last_word: Latency | None = None
    latency_ms: Latency | None = None
    whole: Mapping[str, float] | None = None
    checkpoints: Checkpoints = nowhere
    progress: Callable[[Progress], None] | None = None

    @property
    def name(self) -> str:
        """Its name in ``prune.method``."""
        return "bilevel"

    def prune(
        self,
        model: nn.Module,
        example_inputs: tuple[Tensor, ...],
        *,
        budgets: Sequence[Budget],
        problem: Problem,
        seed: int,
    ) -> Iterator[Pruned]:
        """Yield what is pruned to each budget; see `Pruner`."""
        groups, costs = groups_and_costs(model, example_inputs, self.latency_ms)
        closing = closing_members(model, groups, example_inputs)
        scores = l2(Subject(model, groups, problem, seed))
        device = self.schedule.means.device
        for budget in budgets:  # one out of reach is refused before anything is trained
            multiple = 1 if callable(self.round_to) else self.round_to
            round_counts(groups, scores, BudgetUse(budget, costs, self.whole), round_to=multiple)
        for budget in budgets:
            use = BudgetUse(budget, costs, self.whole)
            schedule = replace(self.schedule, station=f"{self.schedule.station} {budget.name}")
            trained = private_copy(model).to(device)
            gated, widths = Gated(trained, groups, closing), Widths(groups, scores)
            reference = on_device(self.reference or model, device)
            fair = None if self.limits is None else FairTraining(self.limits, problem, reference)
            upper = Allocation(gated, widths, use, problem, fair, self.schedule.learning_rate)
            fit(
                gated,
                problem.train,
                problem.objective,
                schedule,
                seed=seed,
                fair=fair,
                distillation=Distillation(model, self.distillation) if self.distillation else None,
                upper=upper,
                checkpoint=self.checkpoints(schedule.station),
                progress=self.progress,
            )
            factors = dict(zip((group.name for group in groups), np.exp(widths.factors).tolist(), strict=True))
            counts = round_counts(groups, scores, use, round_to=self.round_to, widths=factors, last_word=self.last_word)
            yield Pruned(masks_of(groups, scores, counts), trained.cpu(), fair)


class Cycle:
    """The batches of a stream, epoch after epoch."""

    def __init__(self, stream: Stream) -> None:
        self._stream, self.taken = stream, 0
        self._batches: Iterator[Batch] = iter(())

    def next(self) -> Batch:
        """Return the next batch of more than one row, which batch norms need."""
        batch = self._any()
        while len(batch) == 1 and self._stream.steps > 1:
            batch = self._any()
        return batch

    def skip(self, batches: int) -> None:
        """Go on after so many batches in all."""
        self.taken = batches - batches % self._stream.steps
        while self.taken < batches:
            self._any()

    def _any(self) -> Batch:
        if self.taken % self._stream.steps == 0:
            self._batches = self._stream.epoch(self.taken // self._stream.steps)
        self.taken += 1
        return next(self._batches)
