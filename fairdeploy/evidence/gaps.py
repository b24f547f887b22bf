"""Simultaneous intervals of gaps that hold also where the true gap is 0.

``|gap(estimate) - gap(truth)| <= range over groups of (estimate - truth)``, whatever the truth. So with q the quantile
of that range under a joint bootstrap, [gap - q, gap + q] covers; the percentile bootstrap of the gap itself covers a
true gap of 0 in 0 to 37 % of runs. A ratio is a gap of logarithms, with half a hit and half a miss added to each rate
(Walter 1975), so that a rate of 0 has one. Rows are resampled given their group and label, clusters by their bucket,
which keeps what groups share where each cluster holds rows of them all. A resample cannot know of what it has not
seen: where nothing differs it has no spread at all. So every group gets noise of its own, as if `UNSEEN_MOVES` of its
effective rows might have moved: with two groups and no difference in n clusters that bounds the gap by 3.1 / n (the
"rule of three" has 3.0 / n), and fades against what was seen as n grows (``benchmarks/coverage.py``).
Statistics that are no rates bring the draws of `fairdeploy.evidence.statistics.estimate`.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from fairdeploy.evidence.cells import over
from fairdeploy.evidence.clusters import EffectiveRate, effective_rate
from fairdeploy.evidence.metrics import GapMetric, RateMetric, present_levels
from fairdeploy.evidence.statistics import Estimate, Statistic, estimate
from fairdeploy.evidence.tally import BUCKETS, Tally

REPLICATES = 2_000
UNSEEN_MOVES = 2.5
TINY = 1e-12
NOTHING: Mapping[str, Estimate] = MappingProxyType({})
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class GapEstimate:
    """A gap and the deviations that a bootstrap gives it.

    Attributes
    ----------
    value : float or None
        None if a level has no denominator, if there is only one level, or if a ratio's rates are all 0.
    highest, lowest : str or None
        The levels between which the gap lies.
    undefined : tuple of str
        Levels without denominator.
    smallest_n : int
        Smallest denominator of a level.
    smallest_buckets : int or None
        Non-empty buckets of that level; None where rows are not clustered.
    deviations : array [replicates]
        Sorted ranges of (estimate - truth) over the levels; of logarithms for a ratio.
    method : str
    centre : float or None
        Of a ratio only: its value with half a hit and half a miss added to each rate.
    """

    value: float | None
    highest: str | None
    lowest: str | None
    undefined: tuple[str, ...]
    smallest_n: int
    smallest_buckets: int | None
    deviations: Floats
    method: str
    centre: float | None = None

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return the interval that covers the true gap with the given confidence; [0, 1] when undefined."""
        if self.value is None:
            return 0.0, 1.0
        margin = float(np.quantile(self.deviations, confidence, method="higher"))
        if self.centre is None:
            return max(0.0, self.value - margin), min(1.0, self.value + margin)
        return min(self.value, self.centre * np.exp(-margin)), min(1.0, max(self.value, self.centre * np.exp(margin)))

    @property
    def why_undefined(self) -> str:
        """In words, why there is no value; empty if there is one."""
        if self.value is not None:
            return ""
        if self.undefined:
            return f"no rows for {', '.join(self.undefined)}"
        return "there is only one level" if self.highest is None else "no level has a rate above 0"


def gap_estimate(
    tally: Tally, metric: GapMetric, attribute: str, *, seed: int, statistics: Mapping[str, Estimate] = NOTHING
) -> GapEstimate:
    """Estimate a gap of the deployed predictions over the levels of one attribute.

    Parameters
    ----------
    tally : Tally
    metric : GapMetric
    attribute : str
    seed : int
        The same seed gives the same bytes, whatever else is estimated before.
    statistics : mapping of name to Estimate
        Those that were estimated already, with this seed, over the levels of the attribute.

    Raises
    ------
    ConfigError
        If the metric needs two classes and the tally has more.
    """
    levels = present_levels(tally, attribute)
    rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32(f"{metric.name}/{attribute}".encode())]))
    parts = []
    for rate in metric.rates:
        if isinstance(rate, Statistic):
            found = statistics.get(rate.name) or estimate(tally, rate, over(tally, (attribute,), ()), seed=seed)
            parts.append(_statistic(tally, found, attribute, len(levels), metric.ratio))
        else:
            parts.append(_part(rng, tally, rate, attribute, len(levels), metric.ratio, seed))
    method = f"joint bootstrap of {'clusters' if tally.schema.clustered else 'rows'}, {REPLICATES} replicates"
    sizes = [size for part in parts for size in zip(part.n.tolist(), part.buckets.tolist(), strict=True)]
    rows, buckets = min(sizes, default=(0, 0))
    missing = tuple(level for at, level in enumerate(levels) if any(np.isnan(part.rates[at]) for part in parts))
    gap = GapEstimate(None, None, None, missing, rows, buckets if tally.schema.clustered else None, np.zeros(0), method)
    if missing or len(levels) < 2:
        return gap
    gaps = [_ratio(part.rates) if metric.ratio else float(np.ptp(part.rates)) for part in parts]
    worst = int(np.argmin(gaps) if metric.ratio else np.argmax(gaps))
    rates = parts[worst].rates
    gap = replace(gap, highest=levels[int(rates.argmax())], lowest=levels[int(rates.argmin())])
    if metric.ratio and any(not part.rates.any() for part in parts):
        return gap
    return replace(
        gap,
        value=gaps[worst],
        deviations=np.sort(np.maximum.reduce([part.ranges for part in parts])),
        centre=min(_ratio(part.smoothed) for part in parts) if metric.ratio else None,
    )


@dataclass(frozen=True)
class _Part:
    """One rate over the levels [levels], its denominators, and the ranges of its deviations [replicates]."""

    rates: Floats
    smoothed: Floats
    n: NDArray[np.int64]
    buckets: NDArray[np.int64]
    ranges: Floats


def _part(
    rng: np.random.Generator, tally: Tally, rate: RateMetric, attribute: str, levels: int, ratio: bool, seed: int
) -> _Part:
    counts = rate.counts(tally, (attribute,))
    n, hits = counts.n[:, :levels], counts.deployed[:, :levels]
    rows, successes = n.sum(0), hits.sum(0)
    rates = np.divide(successes, rows, out=np.full(levels, np.nan), where=rows > 0)
    smoothed = (successes + 0.5) / (rows + 1)
    if not rows.all():
        return _Part(rates, smoothed, rows, (n > 0).sum(0), np.zeros(REPLICATES))
    summary = effective_rate(hits, n, clustered=tally.schema.clustered)
    if tally.schema.clustered:
        drawn = _resample_buckets(seed, tally, hits, n)
    else:
        drawn = _resample_rows(seed, rate, attribute, successes, rows, len(tally.schema.classes))
    if ratio:
        deviations = _top_up(rng, np.log((drawn * rows + 0.5) / (rows + 1) / smoothed), summary, relative=True)
    else:
        deviations = _top_up(rng, drawn - rates, summary)
    return _Part(rates, smoothed, rows, (n > 0).sum(0), np.ptp(deviations, axis=1))


def _statistic(tally: Tally, found: Estimate, attribute: str, levels: int, ratio: bool) -> _Part:
    """As for a rate; the range is that between the draws for upper and those for lower bounds."""
    low, high, values = (found.lower[:, :levels], found.upper[:, :levels], found.deployed[:levels])
    if ratio:
        low, high, values = (np.log(np.maximum(one, TINY)) for one in (low, high, values))
    buckets = (tally.sums((attribute,))[:, :levels] > 0).sum(0)
    ranges = (high - values).max(1) - (low - values).min(1)
    return _Part(found.deployed[:levels], found.deployed[:levels], found.n[:levels], buckets, ranges)


def _ratio(rates: Floats) -> float:
    return float(rates.min() / rates.max()) if rates.max() else 1.0


def _resample_rows(
    seed: int, rate: RateMetric, attribute: str, hits: NDArray[np.int64], n: NDArray[np.int64], size: int
) -> Floats:
    """Return a rate's replicates [replicates, levels]; those of its complement are the same rows'."""
    label, prediction = np.indices((size, size)).reshape(2, -1)
    admitted = rate.denominator(label)
    hit = rate.indicator(label, prediction)[admitted]
    what = attribute.encode() + admitted.tobytes() + (hit ^ hit[0]).tobytes()
    if hit[0]:
        return 1 - _drawn(seed, what, (n - hits).tobytes(), n.tobytes())
    return _drawn(seed, what, hits.tobytes(), n.tobytes())


@lru_cache(maxsize=8)
def _drawn(seed: int, what: bytes, hits: bytes, n: bytes) -> Floats:
    """Draw a rate's replicates [replicates, levels]; kept for the other gaps that take it."""
    successes, rows = np.frombuffer(hits, np.int64), np.frombuffer(n, np.int64)
    rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32(what)]))
    drawn: Floats = rng.binomial(rows, successes / rows, (REPLICATES, len(rows))) / rows
    return drawn


def _resample_buckets(seed: int, tally: Tally, hits: NDArray[np.int64], n: NDArray[np.int64]) -> Floats:
    filled = np.flatnonzero(tally.sums(())).tobytes()
    drawn_hits, drawn = (_resampled_sums(seed, filled, one.tobytes()) for one in (hits, n))
    overall = hits.sum(0) / n.sum(0)
    # a replicate that drew none of a group's buckets says nothing about it: the top-up speaks for it
    return np.where(drawn > 0, drawn_hits / np.maximum(drawn, 1), overall)


@lru_cache(maxsize=8)
def _resampled_sums(seed: int, filled: bytes, counts: bytes) -> Floats:
    """Return counts [buckets, levels] of resampled buckets [replicates, levels]; kept for the other gaps as well."""
    return _times_drawn(seed, filled) @ np.frombuffer(counts, np.int64).reshape(BUCKETS, -1)


@lru_cache(maxsize=2)
def _times_drawn(seed: int, filled: bytes) -> Floats:
    """Return how often each bucket is drawn [replicates, buckets]; the same for all metrics and attributes."""
    buckets = np.frombuffer(filled, np.intp)
    rng = np.random.Generator(np.random.PCG64([seed, BUCKETS]))
    drawn = buckets[rng.integers(0, len(buckets), (REPLICATES, len(buckets)))]
    replicate = np.arange(REPLICATES)[:, None]
    times = np.bincount((replicate * BUCKETS + drawn).ravel(), minlength=REPLICATES * BUCKETS)
    return times.reshape(REPLICATES, BUCKETS).astype(float)


def _top_up(rng: np.random.Generator, drawn: Floats, summary: EffectiveRate, *, relative: bool = False) -> Floats:
    """Add each group's own noise: the spread of `UNSEEN_MOVES` among its effective rows (of its log: relative)."""
    n = summary.n / summary.effect
    spread = math.sqrt(UNSEEN_MOVES) / n
    if relative:
        spread = spread * (n + 1) / (summary.successes / summary.effect + 0.5)
    raised: Floats = drawn + spread * rng.standard_normal(drawn.shape)
    return raised
