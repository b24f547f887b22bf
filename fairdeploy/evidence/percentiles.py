"""Percentiles of latencies and their bounds, free of any distribution, where neighbouring runs resemble each other."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
PERCENTILE_METHOD = "order statistics, runs correlated"


def percentile(samples: ArrayLike, percent: float) -> float:
    """Return the smallest sample that at least `percent` of the samples do not exceed (no interpolation)."""
    return float(np.quantile(np.asarray(samples, dtype=float), percent / 100, method="inverted_cdf"))


def percentile_bounds(samples: ArrayLike, percent: float, confidence: float) -> tuple[float | None, float | None]:
    """Distribution-free one-sided bounds of a percentile from order statistics (David and Nagaraja 2003, sec. 7.1).

    Neighbouring runs resemble each other, so n runs count as n / `batch_inflation` independent ones; the binomial
    distribution is continued to such numbers by the incomplete beta function. With independent ones it is the usual
    bound.

    Parameters
    ----------
    samples : array [n]
        In the order in which they were drawn.
    percent : float
        In (0, 100).
    confidence : float
        Of each bound by itself.

    Returns
    -------
    lower, upper : float or None
        None where there are too few samples for a bound.
    """
    drawn = np.asarray(samples, dtype=float)
    if not len(drawn):
        return None, None
    runs = len(drawn) / batch_inflation(drawn > percentile(drawn, percent))
    ascending, share = np.sort(drawn), percent / 100
    mirrored = _upper_order_statistic(-ascending[::-1], runs, 1 - share, confidence)
    upper = _upper_order_statistic(ascending, runs, share, confidence)
    return None if mirrored is None else -mirrored, upper


def batch_inflation(events: ArrayLike) -> float:
    """Return by how much the variance of the mean of a series of 0 and 1 exceeds that of independent ones, at least 1.

    Batch means of about sqrt(n) neighbours each (Law and Kelton, Simulation Modeling and Analysis, sec. 9.5.3).

    Parameters
    ----------
    events : array of bool [n]
        In order of time.
    """
    series = np.asarray(events, dtype=float)
    batches = math.isqrt(len(series))
    spread = float(series.var())
    if batches < 2 or not spread:
        return 1.0
    means = np.array([batch.mean() for batch in np.array_split(series, batches)])
    return max(1.0, len(series) / batches * float(means.var(ddof=1)) / spread)


def _upper_order_statistic(ascending: Floats, runs: float, share: float, confidence: float) -> float | None:
    """Return the smallest sample that is above the percentile with this confidence, were there `runs` of them."""
    from scipy.special import betainc

    rank = np.arange(1, len(ascending) + 1) * (runs / len(ascending))
    below = betainc(runs - rank + 1, rank, 1 - share)  # P(fewer than `rank` of `runs` samples lie below the percentile)
    enough = np.flatnonzero(below >= confidence)
    return float(ascending[enough[0]]) if len(enough) else None
