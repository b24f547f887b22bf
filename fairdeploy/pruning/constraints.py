"""Fairness constraints as linear inequalities over cell rates.

A *cell* is the people of one group who have one label; its *rate* q is the share of them that is predicted right. With
two classes every constraint that a project can name is linear in the rates: a true positive rate is a rate, a false
positive rate one minus a rate, a selection rate and an accuracy are mixtures of a group's two. So whether constraints
can hold together is a linear program, and how hard each cell must be pressed is the transpose times the multipliers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from fairdeploy.errors import StageError
from fairdeploy.project import Constraints
from fairdeploy.pruning.cells import Cells, Rates

_SLACK = 1e-7


@dataclass(frozen=True)
class Constraint:
    """A demand on one quantity of every group of an attribute: ``measures @ q + offsets`` [groups].

    Attributes
    ----------
    name : str
        As the project names it.
    quantity : str
        What is measured, of which attribute.
    groups : tuple of str
    measures : array [groups, cells]
    offsets : array [groups]
    limit : float
    parity : bool
        Whether the largest and the smallest may differ by the limit; else each may be the limit at most.
    """

    name: str
    quantity: str
    groups: tuple[str, ...]
    measures: NDArray[np.float64]
    offsets: NDArray[np.float64]
    limit: float
    parity: bool

    def values(self, rates: Rates) -> NDArray[np.float64]:
        """Return the quantity [groups]."""
        return self.measures @ rates + self.offsets

    def worst(self, rates: Rates) -> float:
        """Return what is held against the limit: a difference between groups, or the largest value."""
        values = self.values(rates)
        return float(values.max() - values.min() if self.parity else values.max())

    def violations(self, rates: Rates) -> NDArray[np.float64]:
        """Return by how much each group misses: of a parity [2 groups], above and below the middle."""
        values = self.values(rates)
        if not self.parity:
            return values - self.limit
        middle = (values.max() + values.min()) / 2
        return np.concatenate([values - middle, middle - values]) - self.limit / 2

    def slopes(self) -> NDArray[np.float64]:
        """Return the derivative [violations, cells] of the violations, the middle taken as fixed."""
        return np.concatenate([self.measures, -self.measures]) if self.parity else self.measures

    def inequalities(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return A and b of ``A q <= b``: of a parity every group against every other."""
        if not self.parity:
            return self.measures, self.limit - self.offsets
        count = len(self.groups)
        pairs = [(one, other) for one in range(count) for other in range(count) if one != other]
        first, second = (list(side) for side in zip(*pairs, strict=True))
        return self.measures[first] - self.measures[second], self.limit - self.offsets[first] + self.offsets[second]


@dataclass(frozen=True)
class Conflict:
    """Constraints that no rates meet together.

    Attributes
    ----------
    constraints : tuple of Constraint
        One, if it cannot be met at all; two; or all, where only together they exclude each other.
    excess : float
        By how much each limit would have to be raised.
    """

    constraints: tuple[Constraint, ...]
    excess: float

    def __str__(self) -> str:
        said = " and ".join(f"{one.name} <= {one.limit:g} ({one.quantity})" for one in self.constraints)
        if len(self.constraints) == 1:
            return f"{said} cannot be met: it would have to be {self.excess:.3f} more"
        return f"{said} exclude each other: each limit would have to be {self.excess:.3f} more"


def constraints_of(limits: Constraints, cells: Cells, dense: Rates) -> tuple[Constraint, ...]:
    """Write a project's limits as constraints on the rates of cells.

    Parameters
    ----------
    limits : Constraints
    cells : Cells
    dense : array [cells]
        Rates of the dense network, which drops are counted from.

    Raises
    ------
    StageError
        If a group has no rows, or none of a label that a constraint needs; naming both.
    """
    found: list[Constraint] = []
    start = 0
    for attribute, groups in cells.groups.items():
        index = start + np.arange(len(groups) * cells.classes).reshape(len(groups), cells.classes)
        found += _of_attribute(limits, cells, dense, attribute, groups, index)
        start += index.size
    return tuple(found)


def _of_attribute(
    limits: Constraints,
    cells: Cells,
    dense: Rates,
    attribute: str,
    groups: tuple[str, ...],
    index: NDArray[np.int64],
) -> list[Constraint]:
    classes = index.shape[1]
    unit = np.eye(len(cells.names))
    shares = cells.counts[index] / np.maximum(1, cells.counts[index].sum(1, keepdims=True))
    accuracy = np.einsum("gy,gyc->gc", shares, unit[index])
    everyone = cells.counts[index.ravel()] / max(1, cells.counts[index].sum()) @ unit[index.ravel()]
    whole = np.nan_to_num(dense)
    zeros = np.zeros(len(groups))
    found: list[Constraint] = []

    def add(name: str, quantity: str, measures: Rates, offsets: Rates, *, parity: bool, needs: Sequence[int]) -> None:
        limit = getattr(limits, name)
        if limit is None:
            return
        for group, own in zip(groups, cells.counts[index], strict=True):
            missing = [label for label in needs if own[label] == 0]
            if missing or not own.any():
                what = f"rows with label {missing[0]}" if own.any() else "rows"
                raise StageError(
                    f"prune.constraints.{name}: the prune split has no {what} in group '{group}' of {attribute}; add "
                    "some, or leave the constraint out"
                )
        found.append(Constraint(name, f"{quantity} by {attribute}", groups, measures, offsets, limit, parity))

    for label in range(classes):
        add("equalized_odds_difference", f"recall of class {label}", unit[index[:, label]], zeros, parity=True,
            needs=[label])  # fmt: skip
    if classes == 2:
        add("equal_opportunity_difference", "true positive rate", unit[index[:, 1]], zeros, parity=True, needs=[1])
        selection = shares[:, [1]] * unit[index[:, 1]] - shares[:, [0]] * unit[index[:, 0]]
        add("demographic_parity_difference", "selection rate", selection, shares[:, 0], parity=True, needs=[])
    elif limits.equal_opportunity_difference is not None or limits.demographic_parity_difference is not None:
        raise StageError(
            "prune.constraints: equal_opportunity_difference and demographic_parity_difference are defined for two "
            "classes; with more, give equalized_odds_difference, which compares the recall of every class"
        )
    add("accuracy_difference", "accuracy", accuracy, zeros, parity=True, needs=[])
    add("accuracy_drop", "accuracy lost", -accuracy, accuracy @ whole, parity=False, needs=[])
    add("excess_drop", "accuracy lost beyond everybody's", everyone - accuracy, (accuracy - everyone) @ whole,
        parity=False, needs=[])  # fmt: skip
    return found


def conflict(constraints: Sequence[Constraint], at_most: Rates | None = None) -> Conflict | None:
    """Return a constraint, or the two, that cannot be met by any rates; None where all can be met together.

    Parameters
    ----------
    constraints : sequence of Constraint
    at_most : array [cells], optional
        Rates that cannot be exceeded; 1 otherwise. With the best rates seen in a run this tells what is out of reach.

    Returns
    -------
    Conflict, optional
        The worst of those as small as possible.
    """
    for size in sorted({1, 2, len(constraints)} - {0}):
        several = [Conflict(some, _excess(some, at_most)) for some in combinations(constraints, size)]
        worst = max(several, key=lambda found: found.excess, default=None)
        if worst is not None and worst.excess > _SLACK:
            return worst
    return None


def _excess(constraints: Sequence[Constraint], at_most: Rates | None) -> float:
    """Return the least number that makes ``A q <= b + number`` solvable with rates in [0, at_most]."""
    sides = [constraint.inequalities() for constraint in constraints]
    matrix, bounds = np.concatenate([a for a, _ in sides]), np.concatenate([b for _, b in sides])
    cells = matrix.shape[1]
    highest = np.ones(cells) if at_most is None else np.nan_to_num(at_most, nan=1.0)
    solved = linprog(
        np.r_[np.zeros(cells), 1.0],
        A_ub=np.c_[matrix, -np.ones(len(matrix))],
        b_ub=bounds,
        bounds=[*((0.0, float(high)) for high in highest), (0.0, None)],
    )
    return float(solved.fun)
