"""How many rows a paired margin, a rate or a gap needs, and the smallest that given rows can prove: formulas.

`plans` applies them to a project's rules and data, `power` checks them by simulation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from fairdeploy.errors import ConfigError
from fairdeploy.evidence.intervals import loss_upper_bound

FEW_FLIPS = 30


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


def exact_rows_needed(
    margin: float, flip_rate: float, *, alpha: float = 0.05, power: float = 0.8, groups: int = 1, loss: float = 0.0
) -> int:
    """Rows per group as in `rows_needed`, raised by up to a fifth where so few rows flip that the formula falls short.

    With `FEW_FLIPS` expected flips or fewer every outcome is enumerated and held against the gate's own bound: at a
    margin of 5 points and 1 % flips the formula's 86 rows have a power of .75, not .8.
    """
    planned = rows_needed(margin, flip_rate, alpha=alpha, power=power, groups=groups, loss=loss)
    if planned * flip_rate > FEW_FLIPS:
        return planned
    steps = [math.ceil(planned * (1 + share / 100)) for share in range(21)]
    enough = (n for n in steps if _exact_power(n, margin, flip_rate, alpha, loss) >= 1 - (1 - power) / groups)
    return next(enough, planned)


def _exact_power(n: int, margin: float, flip_rate: float, alpha: float, loss: float) -> float:
    """Return the probability of a pass: the sum over all tables of lost and gained rows."""
    from scipy.special import gammaln, xlogy

    flips = min(n, math.ceil(n * flip_rate + 6 * math.sqrt(n * flip_rate) + 6))
    lost, gained = np.meshgrid(np.arange(flips + 1), np.arange(flips + 1), indexing="ij")
    lost, gained = lost[lost + gained <= flips], gained[lost + gained <= flips]
    rest, falls, rises = n - lost - gained, (flip_rate + loss) / 2, (flip_rate - loss) / 2
    log = gammaln(n + 1) - gammaln(lost + 1) - gammaln(gained + 1) - gammaln(rest + 1)
    log += xlogy(lost, falls) + xlogy(gained, rises) + xlogy(rest, 1 - flip_rate)
    return float(np.exp(log)[loss_upper_bound(lost, gained, n, 1 - alpha) < margin].sum())


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
    n: int,
    flip_rate: float,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    groups: int = 1,
    design_effect: float = 1.0,
    loss: float = 0.0,
) -> float | None:
    """Return the smallest paired margin that n rows per group can prove; None if no margin below 1 can be."""

    def enough(margin: float) -> bool:
        if margin <= loss:
            return False
        needed = _paired_rows(margin, flip_rate, alpha=alpha, power=power, groups=groups, loss=loss)
        return needed * design_effect <= n

    return smallest(enough)


def rate_rows_needed(
    bound: float, expected: float, *, alpha: float = 0.05, power: float = 0.8, groups: int = 1
) -> int | None:
    """Rows per group to prove that a rate is on the right side of a bound (Clopper and Pearson's).

    The normal approximation falls short by up to a quarter; from there on rows are added until the exact power does.
    None if the expected rate is the bound itself: then no number of rows would do.
    """
    if expected == bound:
        return None
    wanted = 1 - (1 - power) / groups
    z_alpha, z_beta = _z(1 - alpha), _z(wanted)
    spread = z_alpha * math.sqrt(bound * (1 - bound)) + z_beta * math.sqrt(expected * (1 - expected))
    n = math.ceil((spread / (bound - expected)) ** 2)
    low, true = (bound, expected) if expected > bound else (1 - bound, 1 - expected)
    while _rate_power(n, low, true, alpha) < wanted:
        n += max(1, n // 500)
    return n


def _rate_power(n: int, bound: float, true: float, alpha: float) -> float:
    """Probability that Clopper and Pearson's lower bound of n rows lies above a bound."""
    from scipy.special import bdtrc, bdtrik

    least = math.floor(bdtrik(1 - alpha, n, bound))  # the successes that the bound itself exceeds too seldom
    while bdtrc(least - 1, n, bound) >= alpha:
        least += 1
    return float(bdtrc(least - 1, n, true)) if least <= n else 0.0


def gap_rows_needed(
    bound: float, rate: float, *, levels: int, rates: int = 1, alpha: float = 0.05, power: float = 0.8, gap: float = 0.0
) -> int | None:
    """Rows per level to prove a gap below a bound (half-width of the range, plus the range that chance shows).

    Parameters
    ----------
    bound : float
        Largest gap allowed.
    rate : float
        Expected largest rate.
    levels, rates : int
        Levels of the attribute; rates in whose largest gap the metric lies.
    gap : float
        True gap to plan for, the other levels evenly between its ends. None comes back if it is not below the bound.
    """
    if gap >= bound:
        return None
    reach = _gap_reach(levels, rates, round(1 - alpha, 12), round(power, 12))
    low, high = 0.0, 2 * reach(0.0) / (bound - gap)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if reach(middle * gap) <= middle * bound else (middle, high)
    return math.ceil(_largest_variance(rate - gap, rate) * high**2)


def smallest_gap(
    n: float, rate: float, *, levels: int, rates: int = 1, alpha: float = 0.05, power: float = 0.8, gap: float = 0.0
) -> float | None:
    """Return the smallest bound of a gap that n effective rows per level can prove; None if none below 1."""
    if not n:
        return None
    errors = math.sqrt(_largest_variance(rate - gap, rate) / n)
    bound = errors * _gap_reach(levels, rates, round(1 - alpha, 12), round(power, 12))(gap / errors)
    return bound if bound < 1 else None


def smallest(enough: Callable[[float], bool]) -> float | None:
    """Return the smallest fraction that is enough, where all larger ones are, too; None if none is."""
    low, high = 0.0, 1 - 1e-9
    if not enough(high):
        return None
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _largest_variance(least: float, most: float) -> float:
    """Return the largest variance of a row whose rate lies between two values."""
    rate = min(max(0.5, least), most)
    return rate * (1 - rate)


@lru_cache
def _gap_reach(levels: int, rates: int, confidence: float, power: float) -> Callable[[float], float]:
    """Return, by seeded simulation and in standard errors of a rate, which bound a true gap is shown to keep."""
    draws = np.random.Generator(np.random.PCG64(0)).standard_normal((20_000, rates, levels))
    half_width = float(np.quantile(np.ptp(draws, axis=2).max(axis=1), confidence))
    between = np.linspace(0, 1, levels)

    def reach(gap: float) -> float:
        return half_width + float(np.quantile(np.ptp(draws + gap * between, axis=2).max(axis=1), power))

    return reach


def _z(probability: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(probability))
