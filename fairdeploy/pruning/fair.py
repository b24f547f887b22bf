"""Training under constraints: multipliers watch the prune split, and weigh the rows that weights learn from.

The lower level is the training of the weights; the upper level owns how much each cell of people counts in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fairdeploy.bundle import ConstraintCourse, LogEntry, TrainingCourse
from fairdeploy.project import Constraints
from fairdeploy.pruning.cells import Grouping, Rates, tally
from fairdeploy.pruning.constraints import Constraint, conflict, constraints_of
from fairdeploy.pruning.multipliers import Multipliers, row_weights
from fairdeploy.pruning.problem import Batch, Problem

_SAME = 1e-9  # rates are quotients: a difference of .1 may be a little more


@dataclass(frozen=True)
class Round:
    """What one look at the prune split found.

    Attributes
    ----------
    step : int
        Of the training.
    rates : array [cells]
        The share of each cell predicted right.
    multipliers : array [violations]
        After they moved.
    loss : float, optional
        Of the batch trained on just before.
    kept : float, optional
        The share of the dense network's cost that was left, where a training removes some.
    """

    step: int
    rates: Rates
    multipliers: NDArray[np.float64]
    loss: float | None = None
    kept: float | None = None


class FairTraining:
    """The upper level of one training run.

    Parameters
    ----------
    limits : Constraints
    problem : Problem
        On whose prune stream violations are counted.
    reference : Module
        The dense network, which drops are counted from.
    start : array [violations], optional
        Multipliers to begin with, as an earlier run left them.

    Raises
    ------
    StageError
        If an attribute is not declared, or a group has no rows on the prune split or none of a label that a constraint
        needs; intersections without them are left out, and named in the decisions.

    Attributes
    ----------
    cells : Cells
    dense : array [cells]
        Rates of the reference.
    constraints : tuple of Constraint
    multipliers : Multipliers
    rounds : list of Round
    noticed : (int, str), optional
        The step at which the run found limits out of reach, and which.
    """

    def __init__(
        self, limits: Constraints, problem: Problem, reference: nn.Module, start: NDArray[np.float64] | None = None
    ) -> None:
        attributes = limits.of(problem.groups)
        self._grouping = Grouping.over(problem.groups, attributes, together=limits.intersections)
        self._problem = self._grouping.problem(problem)
        self.cells, self.dense = tally(reference, self._problem)
        partial = self.cells.groups.keys() - set(attributes)
        self.constraints = constraints_of(limits, self.cells, self.dense, partial=partial)
        self.multipliers = Multipliers(self.constraints)
        if start is not None:
            self.multipliers.values = start.copy()
        self.rounds: list[Round] = []
        self._weighed = False
        never = self._never()
        self.noticed: tuple[int, str] | None = None if never is None else (0, never)

    def weights(self, batch: Batch) -> Tensor:
        """Return how much the loss of each row of a batch counts [n]."""
        cells = self.cells.of(self._grouping.batch(batch))
        self._weighed = self._weighed or bool((cells >= 0).any())
        return row_weights(cells, torch.from_numpy(self.multipliers.pressure()), batch.labels)

    def look(self, module: nn.Module, step: int, *, loss: float | None = None, kept: float | None = None) -> None:
        """Count the violations of the network as it is, move the multipliers, and notice limits out of reach."""
        _, rates = tally(module, self._problem)
        self.multipliers.step(rates)
        self.rounds.append(Round(step, rates, self.multipliers.values.copy(), loss, kept))
        if self.noticed is None and self.multipliers.saturated:
            pressing = " and ".join(map(str, self.multipliers.saturated))
            self.noticed = step, f"{pressing} cannot press harder: {self._obstacle()}"

    def settled(self) -> NDArray[np.float64]:
        """Return the multipliers [violations] on average over the second half of the looks."""
        late = [one.multipliers for one in self.rounds[len(self.rounds) // 2 :]]
        settled: NDArray[np.float64] = np.mean(late, axis=0) if late else self.multipliers.values.copy()
        return settled

    def violated(self) -> tuple[Constraint, ...]:
        """Return the constraints that the last look found violated; before any look, the dense network's."""
        return tuple(one for one in self.constraints if one.worst(self.rates) > one.limit + _SAME)

    @property
    def rates(self) -> Rates:
        """What the last look found [cells]."""
        return self.rounds[-1].rates if self.rounds else self.dense

    def words(self) -> tuple[str, ...]:
        """Say what the last look found, limit by limit; and what it noticed, if it was the one that did."""
        parts = self.multipliers.by_constraint()
        said = [
            f"{one.name} {one.worst(self.rates):.3f} (limit {one.limit:g}, multiplier {part.max():.2f})"
            for one, part in zip(self.constraints, parts, strict=True)
        ]
        if self.noticed is not None and self.noticed[0] == (self.rounds[-1].step if self.rounds else 0):
            said.append(self.noticed[1])
        return tuple(said)

    def decisions(self, station: str) -> tuple[LogEntry, ...]:
        """Say how the run ended, limit by limit, and which limits stood in each other's way."""
        said, missed = [], self.violated()
        for one in self.constraints:
            now, dense = one.worst(self.rates), one.worst(self.dense)
            decision = f"{one.name} <= {one.limit:g} {'is missed' if one in missed else 'holds'}"
            reason = f"{one.quantity}: {now:.3f} on the prune split, {dense:.3f} dense"
            if one.left_out:
                reason += f"; left out for want of rows: {', '.join(one.left_out)}"
            said.append((decision, reason))
        if self.rounds and not self._weighed:
            said.append(
                ("no row was weighed", "no row that was learned says a group that is declared: check the levels")
            )
        if self.noticed is not None:
            said.append((f"limits were found out of reach at step {self.noticed[0]}", self.noticed[1]))
        if missed:
            said.append(("the best trade-off found is kept", self._obstacle()))
        return tuple(LogEntry(station=station, decision=decision, reason=reason) for decision, reason in said)

    def course(self, station: str) -> TrainingCourse | None:
        """Return how the training went, look by look; None where none was trained."""
        losses = tuple(one.loss for one in self.rounds if one.loss is not None)
        if not losses:
            return None
        parts = [self.multipliers.split(one.multipliers) for one in self.rounds]
        courses = (
            ConstraintCourse(
                name=one.name,
                quantity=one.quantity,
                limit=one.limit,
                values=tuple(one.worst(found.rates) for found in self.rounds),
                multipliers=tuple(float(part[place].max()) for part in parts),
            )
            for place, one in enumerate(self.constraints)
        )
        return TrainingCourse(
            station=station,
            steps=tuple(one.step for one in self.rounds),
            losses=losses,
            constraints=tuple(courses),
            kept=tuple(one.kept for one in self.rounds if one.kept is not None),
        )

    def state(self) -> dict[str, Any]:
        """Return where the run stands, as JSON."""
        return {
            "multipliers": self.multipliers.state(),
            "rounds": [
                [one.step, one.rates.tolist(), one.multipliers.tolist(), one.loss, one.kept] for one in self.rounds
            ],
            "noticed": self.noticed,
            "weighed": self._weighed,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.multipliers.restore(state["multipliers"])
        self.rounds = [
            Round(step, np.array(rates), np.array(values), *more) for step, rates, values, *more in state["rounds"]
        ]
        self._weighed = state["weighed"]
        self.noticed = None if state["noticed"] is None else (state["noticed"][0], state["noticed"][1])

    def _never(self) -> str | None:
        """Say which limits no network could meet."""
        found = conflict(self.constraints)
        return None if found is None else f"no network could meet them: {found}"

    def _obstacle(self) -> str:
        """Say why limits are missed."""
        reached = np.max([self.dense, *(found.rates for found in self.rounds)], axis=0)
        here = conflict(self.constraints, reached)
        return self._never() or (
            "they do not exclude each other at the rates that the run reached: more epochs may meet them"
            if here is None
            else f"at the best rates that the run reached, {here}"
        )
