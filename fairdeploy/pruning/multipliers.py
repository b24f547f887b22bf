"""Lagrange multipliers on true violations, and what they ask of the training loss.

The rates of cells are no smooth function of the weights, so the two players of the Lagrangian see different things
(proxy-Lagrangian: Cotter et al., JMLR 2019): the multipliers move on the violations of the true rates, the weights on
cross-entropies that the multipliers weigh. The multipliers follow a PI controller (nuPI: Sohrabi et al., ICML 2024),
which damps the oscillation of plain gradient ascent.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fairdeploy.pruning.constraints import Constraint, Rates

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
        ends = np.cumsum([len(one.slopes()) for one in self.constraints])[:-1]
        at_most = [bool((part >= self.most).any()) for part in np.split(self.values, ends)]
        return tuple(one for one, full in zip(self.constraints, at_most, strict=True) if full)


def row_weights(
    of_row: NDArray[np.int64], pressure: NDArray[np.float64], labels: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Return the weight of each row's cross-entropy in a batch [n], with mean 1 for every label.

    A cell weighs 1 and its pressure. The labels' totals stay: without that the weights would merely shift the operating
    point of a group, trading false positives for true ones. A row whose group is not known weighs 1 before.

    Parameters
    ----------
    of_row : array of int [attributes, n]
        `Cells.of_row` of the batch.
    pressure : array [cells]
    labels : array of int [n]
    """
    asked = np.where(of_row >= 0, pressure[of_row], 0.0).sum(0)
    weights: NDArray[np.float64] = np.clip(1 + asked, *WEIGHTS)
    for label in np.unique(labels):
        weights[labels == label] /= weights[labels == label].mean()
    return weights
