"""How others would decide a release, on the rows or counts that we decide it on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy.stats import t as student

from fairdeploy.evidence import Tally, metrics

Word = Literal["pass", "fail", "inconclusive"]
FAIRLEARN_REPLICATES = 200
FAIRLEARN_QUANTILES = (0.05, 0.95)
TFMA_REPLICATES = 20
CHANGES = (metrics.true_positive_rate, metrics.accuracy)


def point_gate_on_the_gap(tally: Tally, max_increase: float) -> Word:
    """Pass if no attribute's equalized odds difference grew by more than allowed, as measured."""
    for attribute in tally.schema.attributes:
        before, after = (_equalized_odds_difference(tally, attribute, of) for of in ("reference", "deployed"))
        if after - before > max_increase:
            return "fail"
    return "pass"


def _equalized_odds_difference(tally: Tally, attribute: str, of: str) -> float:
    parts = [metric.counts(tally, (attribute,)) for metric in metrics.equalized_odds_difference.rates]
    rates = [getattr(part, of).sum(0)[part.n.any(0)] / part.n.sum(0)[part.n.any(0)] for part in parts]
    return float(max(np.ptp(one) for one in rates))


def fairlearn_intervals(tally: Tally, bound: float, seed: int) -> Word:
    """Hold MetricFrame's 90 % bootstrap intervals of the differences of TPR and FPR against the bound on the gap."""
    rng = np.random.Generator(np.random.PCG64(seed))
    intervals = [fairlearn_difference_ci(tally, attribute, rng) for attribute in tally.schema.attributes]
    lower, upper = (float(max(side)) for side in zip(*intervals, strict=True))
    return "pass" if upper <= bound else "fail" if lower > bound else "inconclusive"


def fairlearn_difference_ci(tally: Tally, attribute: str, rng: np.random.Generator) -> tuple[float, float]:
    """Return the larger of the 5 % and of the 95 % quantiles of ``difference_ci()`` for TPR and FPR.

    MetricFrame draws rows with replacement and takes percentiles of each metric's largest minus smallest rate. Rows of
    one level, label and prediction are alike, so their numbers are drawn from a multinomial instead: the same
    distribution, a thousand times as fast.
    """
    parts = [metric.counts(tally, (attribute,)) for metric in metrics.equalized_odds_difference.rates]
    hits, rows = (np.stack([getattr(part, name).sum(0) for part in parts]) for name in ("deployed", "n"))
    kept = rows.sum(0) > 0
    counts = np.stack([hits[:, kept], rows[:, kept] - hits[:, kept]])
    drawn = rng.multinomial(tally.rows, (counts / tally.rows).ravel(), FAIRLEARN_REPLICATES)
    positive, negative = np.moveaxis(drawn.reshape(FAIRLEARN_REPLICATES, *counts.shape), 1, 0)
    differences = np.ptp(positive / np.maximum(positive + negative, 1), axis=2)
    lower, upper = np.quantile(differences, FAIRLEARN_QUANTILES, axis=0).max(axis=1)
    return float(lower), float(upper)


def tfma_change_threshold(tally: Tally, margins: Sequence[float]) -> Word:
    """TFMA's GenericChangeThreshold: in every slice, the measured change of each metric is at least -margin.

    ``evaluators/metrics_validator.py`` compares ``float(metric)``: the t-interval is shown beside it, not used.
    """
    slices = [part for metric, margin in zip(CHANGES, margins, strict=True) for part in _slices(tally, metric, margin)]
    return "fail" if any(gained - lost < -margin * n for lost, gained, n, margin in slices) else "pass"


def tfma_interval(tally: Tally, margins: Sequence[float], seed: int) -> Word:
    """The same rule, were it decided by TFMA's 95 % t-interval of the change from 20 Poisson bootstrap samples.

    The Poisson(1) weights of equal rows add up to Poisson(rows), so counts are drawn instead of rows.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    words: set[Word] = set()
    for metric, margin in zip(CHANGES, margins, strict=True):
        for lost, gained, n, _ in _slices(tally, metric, margin):
            drawn = rng.poisson((lost, gained, n - lost - gained), (TFMA_REPLICATES, 3))
            changes = (drawn[:, 1] - drawn[:, 0]) / drawn.sum(1)
            reach = float(student.ppf(0.975, TFMA_REPLICATES - 1)) * changes.std(ddof=1)
            change = (gained - lost) / n
            words.add("pass" if change - reach >= -margin else "fail" if change + reach < -margin else "inconclusive")
    return "fail" if "fail" in words else "inconclusive" if "inconclusive" in words else "pass"


def _slices(tally: Tally, metric: metrics.RateMetric, margin: float) -> list[tuple[int, int, int, float]]:
    found = []
    for axes in ((), *((name,) for name in tally.schema.attributes)):
        counts = metric.counts(tally, axes).map(lambda one: one.sum(0).ravel())
        for lost, gained, n in zip(counts.lost.tolist(), counts.gained.tolist(), counts.n.tolist(), strict=True):
            if n:
                found.append((lost, gained, n, margin))
    return found
