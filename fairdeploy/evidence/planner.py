"""How many rows a gate needs, and the smallest margin that the rows at hand can prove: said before anything is made.

Assumptions are stated with every number: that the candidate is truly as good as its reference (so that it deserves to
pass), how often predictions flip, and a design effect for rows of one person.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from fairdeploy.errors import ConfigError
from fairdeploy.evidence import metrics
from fairdeploy.evidence.cells import cells
from fairdeploy.evidence.records import Group
from fairdeploy.evidence.tally import Tally
from fairdeploy.records import Record


@dataclass(frozen=True)
class Assumptions:
    """What a plan takes for granted.

    Attributes
    ----------
    flip_rate : float
        Share of rows whose prediction the step changes, half of them for the better.
    rate : float
        Expected value of accuracies and other rates that are gated by themselves, and of the rates in a gap.
    design_effect : float
        Rows that weigh as one, because they belong to one person.
    power : float
        Wanted probability that *all* cells of a rule pass.
    """

    flip_rate: float = 0.02
    rate: float = 0.9
    design_effect: float = 1.0
    power: float = 0.8

    def __post_init__(self) -> None:
        for name in ("flip_rate", "rate", "power"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: give a fraction between 0 and 1")
        if not 1 <= self.design_effect < math.inf:
            raise ConfigError(f"design_effect is {self.design_effect}: it is at least 1")


class PlannedRule(Protocol):
    """What the planner needs to know of a gate's rule."""

    @property
    def name(self) -> str:
        """Stable name."""
        ...

    @property
    def metric(self) -> str:
        """Name of the metric."""
        ...

    @property
    def condition(self) -> str:
        """``min``, ``max``, ``max_drop`` or ``max_increase``."""
        ...

    @property
    def bound(self) -> float:
        """Margin or bound."""
        ...

    @property
    def confidence(self) -> float:
        """One-sided confidence."""
        ...


class PlanRow(Record):
    """What one rule needs in one cell; `rows_needed` is None when no number of rows would do."""

    rule: str
    metric: str
    group: Group
    bound: float
    rows_available: int
    rows_needed: int | None
    smallest_margin: float | None
    enough: bool
    assumption: str


def rows_needed(
    margin: float, flip_rate: float, *, alpha: float = 0.05, power: float = 0.8, groups: int = 1, loss: float = 0.0
) -> int:
    """Rows per group so that `groups` groups all pass a paired margin with the given power (Tango's score test).

    Parameters
    ----------
    margin : float
        Largest loss allowed, a fraction.
    flip_rate : float
        Expected share of rows that flip, in both directions together.
    alpha : float
        1 - one-sided confidence.
    groups : int
        Each is planned at a power of 1 - (1 - power) / groups.
    loss : float
        True loss to plan for; below `margin`.

    Raises
    ------
    ConfigError
        If a number lies outside its range.
    """
    return math.ceil(_paired_rows(margin, flip_rate, alpha=alpha, power=power, groups=groups, loss=loss))


def _paired_rows(
    margin: float, flip_rate: float, *, alpha: float, power: float, groups: int, loss: float = 0.0
) -> float:
    if not (0 < margin < 1 and 0 <= flip_rate <= 1 and 0 < alpha < 0.5 and 0.5 <= power < 1 and groups >= 1):
        raise ConfigError(
            f"cannot plan margin {margin}, flip rate {flip_rate}, alpha {alpha}, power {power}, groups {groups}"
        )
    if not (loss < margin and abs(loss) <= flip_rate + 1e-12):
        raise ConfigError(f"cannot plan for a true loss of {loss}: it must be below the margin and the flip rate")
    linear = -flip_rate + (2 - loss) * margin
    constant = -(flip_rate - loss) / 2 * margin * (1 - margin)
    q = (math.sqrt(linear**2 - 8 * constant) - linear) / 4
    at_margin = 2 * q + margin * (1 - margin)
    at_truth = max(flip_rate - loss**2, 0.0)
    z_alpha, z_beta = _z(1 - alpha), _z(1 - (1 - power) / groups)
    return (z_alpha * math.sqrt(at_margin) + z_beta * math.sqrt(at_truth)) ** 2 / (margin - loss) ** 2


def smallest_margin(
    n: int, flip_rate: float, *, alpha: float = 0.05, power: float = 0.8, groups: int = 1, design_effect: float = 1.0
) -> float | None:
    """Return the smallest paired margin that n rows per group can prove; None if no margin below 1 can be."""

    def enough(margin: float) -> bool:
        needed = _paired_rows(margin, flip_rate, alpha=alpha, power=power, groups=groups)
        return needed * design_effect <= n

    return _smallest(enough)


def rate_rows_needed(
    bound: float, expected: float, *, alpha: float = 0.05, power: float = 0.8, groups: int = 1
) -> int | None:
    """Rows per group to prove that a rate is on the right side of a bound (normal approximation).

    None if the expected rate is the bound itself: then no number of rows would do.
    """
    if expected == bound:
        return None
    z_alpha, z_beta = _z(1 - alpha), _z(1 - (1 - power) / groups)
    spread = z_alpha * math.sqrt(bound * (1 - bound)) + z_beta * math.sqrt(expected * (1 - expected))
    return math.ceil((spread / (bound - expected)) ** 2)


def gap_rows_needed(
    bound: float, rate: float, *, levels: int, rates: int = 1, alpha: float = 0.05, power: float = 0.8
) -> int:
    """Rows per level to prove a gap below a bound when the levels are truly equal (half-width of the range)."""
    quantiles = _range_quantiles(levels, rates, round(1 - alpha, 12), round(power, 12))
    return math.ceil(rate * (1 - rate) * (sum(quantiles) / bound) ** 2)


def plan_rule(rule: PlannedRule, tally: Tally, *, assumptions: Assumptions = Assumptions()) -> tuple[PlanRow, ...]:  # noqa: B008
    """Plan one rule for the groups of a tally; only its labels and groups are read.

    Parameters
    ----------
    rule : Rule
    tally : Tally
        Of the evaluate split, with the labels in place of predictions.
    assumptions : Assumptions

    Returns
    -------
    tuple of PlanRow
        One per cell that the gate will judge; empty for latency, size and memory.
    """
    if rule.metric in metrics.GAPS:
        return tuple(_plan_gap(rule, tally, attribute, assumptions) for attribute in tally.schema.attributes)
    if rule.metric == "worst_group_accuracy":
        found = [cell for cell in _denominators(tally, metrics.accuracy) if cell[0]]
    elif rule.metric in metrics.RATES:
        found = _denominators(tally, metrics.RATES[rule.metric])
    elif rule.metric in metrics.FLIPS:
        found = _denominators(tally, metrics.accuracy)
    else:
        return ()
    return tuple(_plan_cell(rule, group, n, len(found), assumptions) for group, n in found)


def _denominators(tally: Tally, metric: metrics.RateMetric) -> list[tuple[Group, int]]:
    found: list[tuple[Group, int]] = []
    for part in cells(tally, contexts=False, intersections=False):
        n = part.take(metric.counts(tally, part.axes).n).sum(0)
        found += zip(part.groups, (int(rows) for rows in n), strict=True)
    return found


def _plan_cell(rule: PlannedRule, group: Group, n: int, groups: int, given: Assumptions) -> PlanRow:
    alpha, effect = 1 - rule.confidence, given.design_effect
    needed: int | None
    if rule.condition in ("max_drop", "max_increase"):
        needed = rows_needed(rule.bound, given.flip_rate, alpha=alpha, power=given.power, groups=groups)
        margin = smallest_margin(
            n, given.flip_rate, alpha=alpha, power=given.power, groups=groups, design_effect=effect
        )
        assumed = f"the step changes nothing on balance and flips {given.flip_rate:.1%} of the predictions"
    else:
        expected = given.flip_rate if rule.metric in metrics.FLIPS else given.rate
        right = expected > rule.bound if rule.condition == "min" else expected < rule.bound
        needed = (
            rate_rows_needed(rule.bound, expected, alpha=alpha, power=given.power, groups=groups) if right else None
        )
        margin = _smallest(
            lambda m: (
                (
                    rate_rows_needed(
                        _beside(rule, expected, m), expected, alpha=alpha, power=given.power, groups=groups
                    )
                    or math.inf
                )
                * effect
                <= n
            )
        )
        assumed = f"the true rate is {expected:.1%}; the margin is the distance to it"
    return _row(rule, group, n, needed, margin, f"{assumed}; all {groups} cells pass", given)


def _beside(rule: PlannedRule, expected: float, margin: float) -> float:
    return min(max(expected + (-margin if rule.condition == "min" else margin), 1e-9), 1 - 1e-9)


def _plan_gap(rule: PlannedRule, tally: Tally, attribute: str, given: Assumptions) -> PlanRow:
    metric = metrics.GAPS[rule.metric]
    levels = metrics.present_levels(tally, attribute)
    n = min(int(rate.counts(tally, (attribute,)).n.sum(0)[: len(levels)].min()) for rate in metric.rates)

    def needed(bound: float) -> int:
        return gap_rows_needed(
            bound, given.rate, levels=len(levels), rates=len(metric.rates), alpha=1 - rule.confidence, power=given.power
        )

    assumed = f"all levels truly have a rate of {given.rate:.1%} (half-width of the range of {len(levels)} levels)"
    margin = _smallest(lambda bound: needed(bound) * given.design_effect <= n)
    return _row(rule, {attribute: metrics.ALL}, n, needed(rule.bound), margin, assumed, given)


def _row(
    rule: PlannedRule, group: Group, n: int, needed: int | None, margin: float | None, assumed: str, given: Assumptions
) -> PlanRow:
    rows = None if needed is None else math.ceil(needed * given.design_effect)
    return PlanRow(
        rule=rule.name,
        metric=rule.metric,
        group=group,
        bound=rule.bound,
        rows_available=n,
        rows_needed=rows,
        smallest_margin=None if margin is None else round(margin, 9),
        enough=rows is not None and n >= rows,
        assumption=f"{assumed}; power {given.power:g}; design effect {given.design_effect:g}",
    )


def _smallest(enough: Callable[[float], bool]) -> float | None:
    low, high = 0.0, 1 - 1e-9
    if not enough(high):
        return None
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


@lru_cache
def _range_quantiles(levels: int, rates: int, *probabilities: float) -> Sequence[float]:
    """Quantiles of the largest of `rates` ranges of `levels` standard normal numbers, by seeded simulation."""
    draws = np.random.Generator(np.random.PCG64(0)).standard_normal((20_000, rates, levels))
    return tuple(float(one) for one in np.quantile(np.ptp(draws, axis=2).max(axis=1), probabilities))


def _z(probability: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(probability))
