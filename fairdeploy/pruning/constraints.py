"""Fairness constraints as linear inequalities over cell rates.

A *cell* is the people of one group who have one label; its *rate* q is the share of them that is predicted right. With
two classes every constraint that a project can name is linear in the rates: a true positive rate is a rate, a false
positive rate one minus a rate, a selection rate and an accuracy are mixtures of a group's two. So whether constraints
can hold together is a linear program, and how hard each cell must be pressed is the transpose times the multipliers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

from fairdeploy.errors import StageError
from fairdeploy.project import Constraints
from fairdeploy.pruning.cells import Cells, Rates

_OF_TWO_CLASSES = {"demographic_parity_difference", "equal_opportunity_difference"}
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
    left_out : tuple of str
        Groups that the split has no rows for.
    """

    name: str
    quantity: str
    groups: tuple[str, ...]
    measures: NDArray[np.float64]
    offsets: NDArray[np.float64]
    limit: float
    parity: bool
    left_out: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} <= {self.limit:g} ({self.quantity})"

    def values(self, rates: Rates) -> NDArray[np.float64]:
        """Return the quantity [groups]; of cells without rows, whose rates are NaN, no measure is taken."""
        return self.measures @ np.nan_to_num(rates) + self.offsets

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
        said = " and ".join(map(str, self.constraints))
        if len(self.constraints) == 1:
            return f"{said} cannot be met: it would have to be {self.excess:.3f} more"
        return f"{said} exclude each other: each limit would have to be {self.excess:.3f} more"


def constraints_of(
    limits: Constraints, cells: Cells, dense: Rates, *, partial: Collection[str] = ()
) -> tuple[Constraint, ...]:
    """Write a project's limits as constraints on the rates of cells.

    Parameters
    ----------
    limits : Constraints
    cells : Cells
    dense : array [cells]
        Rates of the dense network, which drops are counted from.
    partial : collection of str
        Attributes whose groups are left out where they have no rows that a constraint needs: intersections.

    Raises
    ------
    StageError
        If a group has no rows or none of a label that a constraint needs, or a limit is not defined for so many
        classes; says which.
    """
    found: list[Constraint] = []
    start = 0
    for attribute, groups in cells.groups.items():
        index = start + np.arange(len(groups) * cells.classes).reshape(len(groups), cells.classes)
        for demand in _demands(limits, cells, dense, index):
            found.append(_demanded(demand, attribute, groups, cells.counts[index], partial=attribute in partial))
        start += index.size
    return tuple(found)


@dataclass(frozen=True)
class _Demand:
    """A limit on a quantity of all groups of an attribute, and the labels that each needs rows of."""

    name: str
    quantity: str
    limit: float
    measures: Rates
    offsets: Rates
    parity: bool
    needs: Sequence[int] = ()


def _demands(limits: Constraints, cells: Cells, dense: Rates, index: NDArray[np.int64]) -> Iterator[_Demand]:
    """Yield what limits mean for one attribute, whose cells are at `index` [groups, classes]."""
    counts, classes, given = cells.counts[index], cells.classes, limits.limits
    unit = np.eye(len(cells.counts))
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    accuracy = np.einsum("gy,gyc->gc", shares, unit[index])
    everyone = counts.ravel() / max(1, counts.sum()) @ unit[index.ravel()]
    whole, zeros = np.nan_to_num(dense), np.zeros(len(index))

    def limited(
        name: str, quantity: str, measures: Rates, offsets: Rates = zeros, *, parity: bool, needs: Sequence[int] = ()
    ) -> Iterator[_Demand]:
        if name in given:
            yield _Demand(name, quantity, given[name], measures, offsets, parity, needs)

    for label in range(classes):
        quantity = f"recall of class {label}" if classes > 1 else "hit rate"
        yield from limited("equalized_odds_difference", quantity, unit[index[:, label]], parity=True, needs=[label])
    if classes == 2:
        positive, negative = unit[index[:, 1]], unit[index[:, 0]]
        yield from limited("equal_opportunity_difference", "true positive rate", positive, parity=True, needs=[1])
        selection = shares[:, [1]] * positive - shares[:, [0]] * negative
        yield from limited("demographic_parity_difference", "selection rate", selection, shares[:, 0], parity=True)
    elif given.keys() & _OF_TWO_CLASSES:
        raise StageError(
            f"prune.constraints: {' and '.join(sorted(_OF_TWO_CLASSES))} are defined for two classes, and there "
            f"{'is one' if classes == 1 else f'are {classes}'}; give equalized_odds_difference, which compares "
            f"{'hit rates' if classes == 1 else 'the recall of every class'}"
        )
    yield from limited("accuracy_difference", "accuracy", accuracy, parity=True)
    yield from limited("accuracy_drop", "accuracy lost", -accuracy, accuracy @ whole, parity=False)
    beyond = everyone - accuracy
    yield from limited("excess_drop", "accuracy lost beyond everybody's", beyond, -beyond @ whole, parity=False)
    yield from limited("worst_group_error", "error rate", -accuracy, zeros + 1, parity=False)


def _demanded(
    demand: _Demand, attribute: str, groups: tuple[str, ...], counts: NDArray[np.int64], *, partial: bool
) -> Constraint:
    """Make a demand of the groups that have the rows for it."""
    lacking = {}
    for group, own in zip(groups, counts, strict=True):
        labels = [label for label in demand.needs if own[label] == 0]
        if labels or not own.any():
            lacking[group] = f"rows with label {labels[0]}" if own.any() else "rows"
    there = [place for place, group in enumerate(groups) if group not in lacking]
    if lacking and (not partial or len(there) < 1 + demand.parity):
        group, what = next(iter(lacking.items()))
        raise StageError(
            f"prune.constraints.{demand.name}: the prune split has no {what} in group '{group}' of {attribute}; add "
            "some, or leave the constraint out"
        )
    return Constraint(
        demand.name,
        f"{demand.quantity} by {attribute}",
        tuple(groups[place] for place in there),
        demand.measures[there],
        demand.offsets[there],
        demand.limit,
        demand.parity,
        tuple(lacking),
    )


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
