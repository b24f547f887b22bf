"""Fine-tuning under constraints: multipliers watch the prune split, and weigh the rows of the train split.

The lower level is the training of the weights; the upper level owns how much each cell of people counts in it. The two
see other rows, so that a constraint is not met by learning the rows it is counted on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fairdeploy.bundle import LogEntry
from fairdeploy.data import Rows
from fairdeploy.model import ModelSpec
from fairdeploy.project import Constraints
from fairdeploy.pruning.base import StoredSplit
from fairdeploy.pruning.constraints import Cells, Constraint, Rates, conflict, constraints_of
from fairdeploy.pruning.multipliers import Multipliers, row_weights
from fairdeploy.pruning.network import predicted_right


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
    groups : mapping of str to tuple of str
        The levels of each sensitive attribute.
    train : Rows
        Whose cross-entropies are weighed.
    prune : StoredSplit
        On which violations are counted.
    spec : ModelSpec
    reference : Module
        The dense network, which drops are counted from.

    Raises
    ------
    StageError
        If a group has no rows on the prune split, or none of a label that a constraint needs.
    """

    def __init__(
        self,
        limits: Constraints,
        groups: Mapping[str, tuple[str, ...]],
        train: Rows,
        prune: StoredSplit,
        spec: ModelSpec,
        reference: nn.Module,
    ) -> None:
        self._prune, self._spec = prune, spec
        self._labels = np.asarray(train.labels)
        self._of_row = Cells.of(train, dict(groups), len(spec.classes)).of_row
        self.cells = Cells.of(prune.rows, dict(groups), len(spec.classes))
        self.dense = self._rates(reference)
        self.constraints = constraints_of(limits, self.cells, self.dense)
        self.multipliers = Multipliers(self.constraints)
        self.rounds: list[Round] = []

    def weights(self, chosen: NDArray[np.integer]) -> NDArray[np.float64]:
        """Return how much the cross-entropy of each row of a batch counts."""
        return row_weights(self._of_row[:, chosen], self.multipliers.pressure(), self._labels[chosen])

    def look(self, module: nn.Module, step: int) -> None:
        """Count the violations of the network as it is, and move the multipliers."""
        rates = self._rates(module)
        self.multipliers.step(rates)
        self.rounds.append(Round(step, rates, self.multipliers.values.copy()))

    def violated(self) -> tuple[Constraint, ...]:
        """Return the constraints that the last look found violated."""
        rates = self.rounds[-1].rates
        return tuple(one for one in self.constraints if one.worst(rates) > one.limit)

    def decisions(self, station: str) -> tuple[LogEntry, ...]:
        """Say how the run ended, limit by limit, and which limits stood in each other's way."""
        rates = self.rounds[-1].rates
        said = [
            LogEntry(
                station=station,
                decision=f"{one.name} <= {one.limit:g} {'holds' if one.worst(rates) <= one.limit else 'is missed'}",
                reason=f"{one.quantity}: {one.worst(rates):.3f} on the prune split",
            )
            for one in self.constraints
        ]
        if self.violated():
            said.append(LogEntry(station=station, decision="the best trade-off found is kept", reason=self._obstacle()))
        return tuple(said)

    def _obstacle(self) -> str:
        """Say why limits are missed."""
        reached = np.max([self.dense, *(found.rates for found in self.rounds)], axis=0)
        never, here = conflict(self.constraints), conflict(self.constraints, reached)
        if never is not None:
            return f"no network could meet them: {never}"
        if here is not None:
            return f"at the best rates that the run reached, {here}"
        return "they do not exclude each other at the rates that the run reached: more epochs may meet them"

    def _rates(self, module: nn.Module) -> Rates:
        return self.cells.rates(predicted_right(module, self._prune, self._spec, "prune"))
