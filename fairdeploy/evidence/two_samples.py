"""Intervals of the difference and ratio of two independent proportions. All work on arrays; counts may be fractions.

Without rows an interval is everything that can be.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from fairdeploy.evidence.intervals import (
    Floats,
    Pair,
    clopper_pearson,
    floats,
    invert,
    over_root,
    squared_and_added,
    two_sided,
)

LARGEST_LOG = 30.0  # a ratio beyond e^30 is no ratio of counts
FEW = 10


def newcombe(
    successes: ArrayLike, n: ArrayLike, other_successes: ArrayLike, other_n: ArrayLike, confidence: float
) -> Pair:
    """Newcombe's interval of the difference of two independent proportions (1998, Statistics in Medicine 17, 873).

    Method 10 there: Wilson intervals, squared and added. For showing.
    """
    x, n, y, m = floats(successes, n, other_successes, other_n)
    return squared_and_added(x, n, y, m, np.zeros_like(x), confidence)


def score_difference(
    successes: ArrayLike, n: ArrayLike, other_successes: ArrayLike, other_n: ArrayLike, confidence: float
) -> Pair:
    """Score interval of the difference of two independent proportions (Miettinen and Nurminen 1985, eq. 8 and 9).

    Parameters
    ----------
    successes, n, other_successes, other_n : array [...]
        The difference is ``successes / n - other_successes / other_n``.
    confidence : float
        Two-sided.

    Returns
    -------
    lower, upper : array [...]
        In [-1, 1]; everything where one of the samples is empty.
    """
    return _difference(difference_z, floats(successes, n, other_successes, other_n), confidence)


def difference_bounds(
    successes: ArrayLike, n: ArrayLike, other_successes: ArrayLike, other_n: ArrayLike, one_sided_confidence: float
) -> Pair:
    """Return the bounds of a difference of independent proportions that a gate may rely on.

    The wider of the score interval and the one corrected for skewness; where a sample shows no variation, the exact
    bound of the other alone if that is wider. All outcomes were enumerated with the true difference exactly at a
    margin of 1 to 10 points and a nominal error of 5 %: it errs in at most 6.0 % for 50 to 2,000 rows against 50 to
    2,000 (the score interval alone: 6.6 % with 2,000 against 100).
    """
    counts = floats(successes, n, other_successes, other_n)
    confidence = two_sided(one_sided_confidence)
    lower, upper = _difference(difference_z, counts, confidence)
    skewed_lower, skewed_upper = _difference(skewed_difference_z, counts, confidence)
    lower, upper = np.minimum(lower, skewed_lower), np.maximum(upper, skewed_upper)
    x, n, y, m = counts
    (low, high), (other_low, other_high) = clopper_pearson(x, n, confidence), clopper_pearson(y, m, confidence)
    flat, other_flat = (n > 0) & ((x <= 0) | (x >= n)), (m > 0) & ((y <= 0) | (y >= m))
    p, q = np.where(x <= 0, 0.0, 1.0), np.where(y <= 0, 0.0, 1.0)
    lower = np.where(flat, np.minimum(lower, p - other_high), lower)
    upper = np.where(flat, np.maximum(upper, p - other_low), upper)
    return (
        np.where(other_flat, np.minimum(lower, low - q), lower),
        np.where(other_flat, np.maximum(upper, high - q), upper),
    )


def _difference(statistic: Callable[..., Floats], counts: list[Floats], confidence: float) -> Pair:
    x, n, y, m = counts
    known = (n > 0) & (m > 0)
    x, n, y, m = (np.where(known, one, fallback) for one, fallback in ((x, 0), (n, 1), (y, 0), (m, 1)))
    lower, upper = invert(lambda d: statistic(x, n, y, m, d), x / n - y / m, -1.0, 1.0, confidence)
    return np.where(known, lower, -1.0), np.where(known, upper, 1.0)


def difference_z(
    successes: ArrayLike, n: ArrayLike, other_successes: ArrayLike, other_n: ArrayLike, difference: ArrayLike
) -> Floats:
    """Return the score statistic for a true difference of two independent proportions; all denominators positive.

    ``ndtr`` of it is the one-sided p-value of "the difference is at least this". The nuisance is its maximum likelihood
    estimate under that difference, in closed form (Miettinen and Nurminen 1985, Statistics in Medicine 4, appendix I).
    """
    x, n, y, m, d = floats(successes, n, other_successes, other_n, difference)
    rate, other = _likeliest(x, n, y, m, d)
    variance = (rate * (1 - rate) / n + other * (1 - other) / m) * _small_sample(n + m)
    return over_root(x / n - y / m - d, variance)


def skewed_difference_z(
    successes: ArrayLike, n: ArrayLike, other_successes: ArrayLike, other_n: ArrayLike, difference: ArrayLike
) -> Floats:
    """Return `difference_z` corrected for skewness (Gart and Nam 1990, Biometrics 46, 637), for unlike samples."""
    x, n, y, m, d = floats(successes, n, other_successes, other_n, difference)
    rate, other = _likeliest(x, n, y, m, d)
    first, second = rate * (1 - rate) / n, other * (1 - other) / m
    third = first * (1 - 2 * rate) / n - second * (1 - 2 * other) / m
    return _unskewed(x / n - y / m - d, first + second, third, n + m)


def _likeliest(x: Floats, n: Floats, y: Floats, m: Floats, d: Floats) -> Pair:
    """Return the two rates that are likeliest among those that differ by `d`: the root of a cubic."""
    total, hits = n + m, x + y
    square = (n + 2 * m) * d - total - hits
    linear = (m * d - total - 2 * y) * d + hits
    constant = y * d * (1 - d)
    turn = square**3 / (3 * total) ** 3 - square * linear / (6 * total**2) + constant / (2 * total)
    reach = np.sqrt(np.maximum((square / (3 * total)) ** 2 - linear / (3 * total), 0))
    reach = np.where(turn < 0, -reach, reach)
    cosine = np.divide(turn, reach**3, out=np.zeros_like(turn), where=reach != 0)
    angle = (np.pi + np.arccos(np.clip(cosine, -1, 1))) / 3
    other = np.clip(2 * reach * np.cos(angle) - square / (3 * total), np.maximum(0, -d), np.minimum(1, 1 - d))
    return other + d, other


def score_ratio(
    successes: ArrayLike, n: ArrayLike, other_successes: ArrayLike, other_n: ArrayLike, confidence: float
) -> Pair:
    """Score interval of the ratio of two independent proportions (Miettinen and Nurminen 1985, eq. 10 and 11).

    Parameters
    ----------
    successes, n, other_successes, other_n : array [...]
        The ratio is ``(successes / n) / (other_successes / other_n)``.
    confidence : float
        Two-sided.

    Returns
    -------
    lower, upper : array [...]
        In [0, inf]; everything where a sample is empty or has no success in the denominator.
    """
    return _ratio(ratio_z, floats(successes, n, other_successes, other_n), confidence)


def ratio_bounds(
    successes: ArrayLike, n: ArrayLike, other_successes: ArrayLike, other_n: ArrayLike, one_sided_confidence: float
) -> Pair:
    """Return the bounds of a ratio of independent proportions that a gate may rely on.

    As `difference_bounds`; besides, where a sample has fewer than `FEW` successes, the quotient of both exact bounds at
    half the error each, if that is wider. All outcomes were enumerated with true ratios of .8 to 1.5 and a nominal
    error of 5 %: the upper bound errs in at most 5.9 % for 50 to 1,000 rows against 50 to 1,000 (the score interval
    alone: 11 % with 300 against 50), the lower in at most 6.0 %.
    """
    counts = floats(successes, n, other_successes, other_n)
    confidence = two_sided(one_sided_confidence)
    lower, upper = _ratio(ratio_z, counts, confidence)
    skewed_lower, skewed_upper = _ratio(skewed_ratio_z, counts, confidence)
    lower, upper = np.minimum(lower, skewed_lower), np.maximum(upper, skewed_upper)
    x, n, y, m = counts
    flat, other_flat, few = (x <= 0) | (x >= n), y >= m, np.minimum(x, y) < FEW
    p, each = np.where(x <= 0, 0.0, 1.0), two_sided((1 + one_sided_confidence) / 2)
    (low, high), (other_low, other_high) = clopper_pearson(x, n, confidence), clopper_pearson(y, m, confidence)
    (least, most), (other_least, other_most) = clopper_pearson(x, n, each), clopper_pearson(y, m, each)
    with np.errstate(divide="ignore", invalid="ignore"):
        exact = (
            (flat, p / other_high, p / other_low),
            (other_flat, low, high),
            (few, least / other_most, most / other_least),
        )
    for where, wider_lower, wider_upper in exact:
        lower = np.where(where, np.fmin(lower, wider_lower), lower)
        upper = np.where(where, np.fmax(upper, wider_upper), upper)
    return lower, upper


def _ratio(statistic: Callable[..., Floats], counts: list[Floats], confidence: float) -> Pair:
    x, n, y, m = counts
    known = (n > 0) & (m > 0) & (x + y > 0)
    x, n, y, m = (np.where(known, one, 1.0) for one in (x, n, y, m))
    with np.errstate(divide="ignore"):
        estimate = np.log(x / n) - np.log(y / m)
    lower, upper = invert(
        lambda log: statistic(x, n, y, m, np.exp(log)), estimate, -LARGEST_LOG, LARGEST_LOG, confidence
    )
    lower, upper = np.where(x > 0, np.exp(lower), 0.0), np.where(y > 0, np.exp(upper), np.inf)
    return np.where(known, lower, 0.0), np.where(known, upper, np.inf)


def ratio_z(
    successes: ArrayLike, n: ArrayLike, other_successes: ArrayLike, other_n: ArrayLike, ratio: ArrayLike
) -> Floats:
    """Return the score statistic for a true ratio of two independent proportions; all denominators positive.

    ``ndtr`` of it is the one-sided p-value of "the ratio is at least this". Koopman's (1984, Biometrics 40) is the
    same without the correction for few rows.
    """
    x, n, y, m, r = floats(successes, n, other_successes, other_n, ratio)
    rate, other = _likeliest_ratio(x, n, y, m, r)
    variance = (rate * (1 - rate) / n + r**2 * other * (1 - other) / m) * _small_sample(n + m)
    return over_root(x / n - r * y / m, variance)


def skewed_ratio_z(
    successes: ArrayLike, n: ArrayLike, other_successes: ArrayLike, other_n: ArrayLike, ratio: ArrayLike
) -> Floats:
    """Return `ratio_z` corrected for skewness (Gart and Nam 1988, Biometrics 44, 323), for unlike samples."""
    x, n, y, m, r = floats(successes, n, other_successes, other_n, ratio)
    rate, other = _likeliest_ratio(x, n, y, m, r)
    first, second = rate * (1 - rate) / n, r**2 * other * (1 - other) / m
    third = first * (1 - 2 * rate) / n - r * second * (1 - 2 * other) / m
    return _unskewed(x / n - r * y / m, first + second, third, n + m)


def _unskewed(distance: Floats, variance: Floats, third: Floats, total: Floats) -> Floats:
    """Return z that solves ``distance / root(variance) = z + t (z^2 - 1)`` with t = third / (6 variance^1.5)."""
    t = over_root(third, variance**3) / 6
    shifted = over_root(distance, variance * _small_sample(total)) + t
    return np.where(variance > 0, 2 * shifted / (1 + np.sqrt(np.maximum(1 + 4 * t * shifted, 0))), shifted)


def _likeliest_ratio(x: Floats, n: Floats, y: Floats, m: Floats, r: Floats) -> Pair:
    """Return the two rates that are likeliest among those whose ratio is `r`: the root of a quadratic."""
    linear = r * (n + y) + x + m
    root = np.sqrt(np.maximum(linear**2 - 4 * r * (n + m) * (x + y), 0))
    other = np.clip(2 * (x + y) / (linear + root), 0, np.minimum(1, 1 / r))
    return r * other, other


def _small_sample(total: Floats) -> Floats:
    """Miettinen and Nurminen's correction of the variance for few rows, N / (N - 1)."""
    return np.divide(total, total - 1, out=np.full_like(total, np.inf), where=total > 1)
