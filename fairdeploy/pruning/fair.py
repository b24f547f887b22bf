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

from fairdeploy.bundle import LogEntry
from fairdeploy.project import Constraints
from fairdeploy.pruning.cells import Rates, tally
from fairdeploy.pruning.constraints import Constraint, conflict, constraints_of
from fairdeploy.pruning.multipliers import Multipliers, row_weights
from fairdeploy.pruning.problem import Batch, Problem


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
    """

    step: int
    rates: Rates
    multipliers: NDArray[np.float64]


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
        If a group has no rows on the prune split, or none of a label that a constraint needs.
    """

    def __init__(
        self, limits: Constraints, problem: Problem, reference: nn.Module, start: NDArray[np.float64] | None = None
    ) -> None:
        self._problem = problem
        self.cells, self.dense = tally(reference, problem)
        self.constraints = constraints_of(limits, self.cells, self.dense)
        self.multipliers = Multipliers(self.constraints)
        if start is not None:
            self.multipliers.values = start.copy()
        self.rounds: list[Round] = []

    def weights(self, batch: Batch) -> Tensor:
        """Return how much the loss of each row of a batch counts [n]."""
        return row_weights(self.cells.of(batch), torch.from_numpy(self.multipliers.pressure()), batch.labels)

    def look(self, module: nn.Module, step: int) -> None:
        """Count the violations of the network as it is, and move the multipliers."""
        _, rates = tally(module, self._problem)
        self.multipliers.step(rates)
        self.rounds.append(Round(step, rates, self.multipliers.values.copy()))

    def violated(self) -> tuple[Constraint, ...]:
        """Return the constraints that the last look found violated; before any look, the dense network's."""
        return tuple(one for one in self.constraints if one.worst(self.rates) > one.limit)

    @property
    def rates(self) -> Rates:
        """What the last look found [cells]."""
        return self.rounds[-1].rates if self.rounds else self.dense

    def words(self) -> tuple[str, ...]:
        """Say what the last look found, limit by limit."""
        parts = self.multipliers.by_constraint()
        return tuple(
            f"{one.name} {one.worst(self.rates):.3f} (limit {one.limit:g}, multiplier {part.max():.2f})"
            for one, part in zip(self.constraints, parts, strict=True)
        )

    def decisions(self, station: str) -> tuple[LogEntry, ...]:
        """Say how the run ended, limit by limit, and which limits stood in each other's way."""
        said = []
        for one in self.constraints:
            now, dense = one.worst(self.rates), one.worst(self.dense)
            decision = f"{one.name} <= {one.limit:g} {'holds' if now <= one.limit else 'is missed'}"
            reason = f"{one.quantity}: {now:.3f} on the prune split, {dense:.3f} dense"
            said.append(LogEntry(station=station, decision=decision, reason=reason))
        if self.violated():
            said.append(LogEntry(station=station, decision="the best trade-off found is kept", reason=self._obstacle()))
        return tuple(said)

    def state(self) -> dict[str, Any]:
        """Return where the run stands, as JSON."""
        return {
            "multipliers": self.multipliers.state(),
            "rounds": [[one.step, one.rates.tolist(), one.multipliers.tolist()] for one in self.rounds],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.multipliers.restore(state["multipliers"])
        self.rounds = [Round(step, np.array(rates), np.array(values)) for step, rates, values in state["rounds"]]

    def _obstacle(self) -> str:
        """Say why limits are missed."""
        reached = np.max([self.dense, *(found.rates for found in self.rounds)], axis=0)
        never, here = conflict(self.constraints), conflict(self.constraints, reached)
        if never is not None:
            return f"no network could meet them: {never}"
        if here is not None:
            return f"at the best rates that the run reached, {here}"
        return "they do not exclude each other at the rates that the run reached: more epochs may meet them"
