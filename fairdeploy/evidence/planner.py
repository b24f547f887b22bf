"""How many rows a gate needs, and the smallest margin that the rows at hand can prove: said before anything is made.

Assumptions are stated with every number: that the candidate is truly as good as its reference (so that it deserves to
pass), how often predictions flip, and how alike the rows of one person are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

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
    icc : float
        Correlation of the rows of one cluster; matters only where rows are clustered.
    power : float
        Wanted probability that *all* cells of a rule pass.
    """

    flip_rate: float = 0.02
    rate: float = 0.9
    icc: float = 0.1
    power: float = 0.8

    def __post_init__(self) -> None:
        for name in ("flip_rate", "rate", "power"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: give a fraction between 0 and 1")
        if not 0 <= self.icc <= 1:
            raise ConfigError(f"icc is {self.icc}: give a correlation between 0 and 1")


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
    """What one rule needs in one cell; `rows_needed` is None when no number of rows would do.

    `assumption` ends with the design effect, which is the cell's own.
    """

    rule: str
    metric: str
    group: Group
    bound: float
    rows_available: int
    rows_needed: int | None
    smallest_margin: float | None
    enough: bool
    design_effect: float
    assumption: str

    @property
    def shared_assumption(self) -> str:
        """The assumption without the design effect: the same for all cells of a rule."""
        return self.assumption.removesuffix(_effect_words(self.design_effect))


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
    return tuple(_plan_cell(rule, group, rows, len(found), assumptions) for group, rows in found)


@dataclass(frozen=True)
class _Rows:
    """Rows of a metric's denominator in one cell, and the size of the bucket that a row of it is in, on average."""

    n: int
    together: float

    def effect(self, icc: float) -> float:
        """Design effect ``1 + (m - 1) icc`` (Kish 1965), m being ``sum n_b^2 / sum n_b`` over the buckets."""
        return round(1 + (self.together - 1) * icc, 2)


def _rows(tally: Tally, n: NDArray[np.int64]) -> list[_Rows]:
    """Sum a denominator [buckets, cells]; a bucket that several clusters share counts as one, which is cautious."""
    rows, squares = n.sum(0), (n.astype(float) ** 2).sum(0)
    together = np.divide(squares, rows, out=np.ones(len(rows)), where=(rows > 0) & tally.schema.clustered)
    return [_Rows(int(one), float(m)) for one, m in zip(rows, together, strict=True)]


def _denominators(tally: Tally, metric: metrics.RateMetric) -> list[tuple[Group, _Rows]]:
    found: list[tuple[Group, _Rows]] = []
    for part in cells(tally, contexts=False, intersections=False):
        rows = _rows(tally, part.take(metric.counts(tally, part.axes).n))
        found += zip(part.groups, rows, strict=True)
    return found


def _plan_cell(rule: PlannedRule, group: Group, rows: _Rows, groups: int, given: Assumptions) -> PlanRow:
    alpha, n, effect = 1 - rule.confidence, rows.n, rows.effect(given.icc)
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
    return _row(rule, group, rows, needed, margin, f"{assumed}; all {groups} cells pass", given)


def _beside(rule: PlannedRule, expected: float, margin: float) -> float:
    return min(max(expected + (-margin if rule.condition == "min" else margin), 1e-9), 1 - 1e-9)


def _plan_gap(rule: PlannedRule, tally: Tally, attribute: str, given: Assumptions) -> PlanRow:
    metric = metrics.GAPS[rule.metric]
    levels = metrics.present_levels(tally, attribute)
    rates = [rate if isinstance(rate, metrics.RateMetric) else metrics.accuracy for rate in metric.rates]
    counts = [rate.counts(tally, (attribute,)).n[:, : len(levels)] for rate in rates]
    each = [rows for n in counts for rows in _rows(tally, n)]
    weakest = min(each, key=lambda rows: rows.n / rows.effect(given.icc))

    def needed(bound: float) -> int:
        return gap_rows_needed(
            bound, given.rate, levels=len(levels), rates=len(metric.rates), alpha=1 - rule.confidence, power=given.power
        )

    assumed = f"all levels truly have a rate of {given.rate:.1%} (half-width of the range of {len(levels)} levels)"
    margin = _smallest(lambda bound: needed(bound) * weakest.effect(given.icc) <= weakest.n)
    return _row(rule, {attribute: metrics.ALL}, weakest, needed(rule.bound), margin, assumed, given)


def _row(
    rule: PlannedRule,
    group: Group,
    rows: _Rows,
    needed: int | None,
    margin: float | None,
    assumed: str,
    given: Assumptions,
) -> PlanRow:
    effect = rows.effect(given.icc)
    in_all = None if needed is None else math.ceil(needed * effect)
    return PlanRow(
        rule=rule.name,
        metric=rule.metric,
        group=group,
        bound=rule.bound,
        rows_available=rows.n,
        rows_needed=in_all,
        smallest_margin=None if margin is None else round(margin, 9),
        enough=in_all is not None and rows.n >= in_all,
        design_effect=effect,
        assumption=f"{assumed}; power {given.power:g}{_effect_words(effect)}",
    )


def _effect_words(effect: float) -> str:
    return f"; design effect {effect:g}"


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
