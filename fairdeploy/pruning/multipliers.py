"""Lagrange multipliers on true violations, and what they ask of the training loss.

The rates of cells are no smooth function of the weights, so the two players of the Lagrangian see different things
(proxy-Lagrangian: Cotter et al., JMLR 2019): the multipliers move on the violations of the true rates, the weights on
cross-entropies that the multipliers weigh. The multipliers follow a PI controller (nuPI: Sohrabi et al., ICML 2024),
which damps the oscillation of plain gradient ascent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fairdeploy.pruning.cells import Rates
from fairdeploy.pruning.constraints import Constraint

WEIGHTS = (0.25, 4.0)


@dataclass
class Multipliers:
    """One multiplier >= 0 for each violation of each constraint.

    Attributes
    ----------
    constraints : tuple of Constraint
    rate : float
        Integral gain: how much a multiplier grows for each unit of violation at a step.
    damping : float
        Proportional gain, in units of `rate`.
    most : float
        What none of them exceeds, so that limits out of reach end in a trade-off and not in divergence.
    values : array [violations]
    """

    constraints: tuple[Constraint, ...]
    rate: float = 2.0
    damping: float = 1.0
    most: float = 4.0
    values: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    _before: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        if not self.values.size:
            self.values = np.zeros(sum(len(one.slopes()) for one in self.constraints))

    def step(self, rates: Rates) -> NDArray[np.float64]:
        """Move on the violations of true rates [cells], and return them [violations]."""
        violations = np.concatenate([one.violations(rates) for one in self.constraints])
        change = violations - (violations if self._before is None else self._before)
        self.values = np.clip(self.values + self.rate * (violations + self.damping * change), 0.0, self.most)
        self._before = violations
        return violations

    def pressure(self) -> NDArray[np.float64]:
        """Return how much the Lagrangian falls for each unit that the rate of a cell [cells] rises."""
        slopes = np.concatenate([one.slopes() for one in self.constraints])
        pressure: NDArray[np.float64] = -(self.values @ slopes)
        return pressure

    @property
    def saturated(self) -> tuple[Constraint, ...]:
        """The constraints of which a multiplier is as large as it may become."""
        parts = self.by_constraint()
        return tuple(one for one, part in zip(self.constraints, parts, strict=True) if bool((part >= self.most).any()))

    def by_constraint(self) -> list[NDArray[np.float64]]:
        """Return the multipliers of each constraint."""
        return self.split(self.values)

    def split(self, values: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Return what there is for each violation [violations] constraint by constraint."""
        return np.split(values, np.cumsum([len(one.slopes()) for one in self.constraints])[:-1])

    def state(self) -> dict[str, Any]:
        """Return them as JSON."""
        return {"values": self.values.tolist(), "before": None if self._before is None else self._before.tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.values = np.array(state["values"])
        self._before = None if state["before"] is None else np.array(state["before"])


def row_weights(of_row: Tensor, pressure: Tensor, labels: Tensor) -> Tensor:
    """Return the weight of each row's loss in a batch [n], with mean 1 for every label.

    A cell weighs 1 and its pressure. The labels' totals stay: without that the weights would merely shift the operating
    point of a group, trading false positives for true ones. A row whose group is not known
    is like one that nothing presses.

    Parameters
    ----------
    of_row : Tensor of int64 [attributes, n]
        `Cells.of` the batch.
    pressure : Tensor [cells]
    labels : Tensor of int64 [n]
    """
    asked = torch.where(of_row >= 0, pressure.to(of_row.device)[of_row], 0.0).sum(0)
    weights = (1 + asked).clamp(*WEIGHTS)
    totals = torch.zeros(int(labels.max()) + 1, dtype=weights.dtype, device=weights.device).index_add_(
        0, labels, weights
    )
    return weights * (torch.bincount(labels).to(weights) / totals)[labels]
