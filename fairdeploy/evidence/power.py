"""Check a planned number of rows: draw data as the plan assumes them, and gate them with the gate's own bound."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fairdeploy.evidence import metrics
from fairdeploy.evidence.clusters import effective_change, effective_rate
from fairdeploy.evidence.gaps import gap_estimate
from fairdeploy.evidence.intervals import two_sided
from fairdeploy.evidence.metrics import GapMetric, PairedCounts, RateMetric
from fairdeploy.evidence.plans import Assumptions, PlannedRule, expected_rate
from fairdeploy.evidence.tally import BUCKETS, Schema, Tally

RUNS = 1_000
GAP_RUNS = 200
Ints = NDArray[np.int64]


def simulated_power(
    rule: PlannedRule,
    n: int,
    *,
    assumptions: Assumptions,
    rows_per_cluster: float = 1.0,
    levels: int = 2,
    runs: int | None = None,
    seed: int = 0,
) -> float:
    """Return the share of simulated cells with n rows that the gate's own bound lets pass.

    Its standard error is at most ``0.5 / sqrt(runs)``. The rows of a cluster share one draw with probability
    ``sqrt(icc)`` each, so that any two of them correlate by `icc`.

    Parameters
    ----------
    rule : PlannedRule
        On a change, a rate or a gap.
    n : int
        Rows of the metric's denominator in the cell; for a gap, in each level.
    assumptions : Assumptions
        The truth to draw from.
    rows_per_cluster : float
        1 where rows are not clustered.
    levels : int
        Levels of a gap, their true rates evenly between the ends of the assumed gap.
    runs : int, optional
        `RUNS`, for gaps `GAP_RUNS` by default.
    seed : int
        The same seed gives the same share.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    if rule.metric in metrics.GAPS:
        metric = metrics.GAPS[rule.metric]
        rates = np.clip(assumptions.rate - np.linspace(0, assumptions.gap, levels), 0, 1).tolist()
        tallies = [
            draw_levels(rng, metric, n, rates, rows_per_cluster=rows_per_cluster, icc=assumptions.icc)
            for _ in range(runs or GAP_RUNS)
        ]
        upper = [
            gap_estimate(one, metric, "level", seed=run).interval(rule.confidence)[1] for run, one in enumerate(tallies)
        ]
        return float(np.mean(np.array(upper) < rule.bound))
    clustered, runs = rows_per_cluster > 1, runs or RUNS
    if rule.condition in ("max_drop", "max_increase"):
        chances = [(assumptions.flip_rate + assumptions.loss) / 2, (assumptions.flip_rate - assumptions.loss) / 2]
        (lost, gained), rows = draw_cells(rng, n, chances, runs, rows_per_cluster=rows_per_cluster, icc=assumptions.icc)
        counts = PairedCounts(rows, 0 * rows, 0 * rows, lost, gained)
        bounds = effective_change(counts, clustered=clustered).bounds(rule.confidence)
    else:
        chances = [expected_rate(rule, assumptions)]
        (hits,), rows = draw_cells(rng, n, chances, runs, rows_per_cluster=rows_per_cluster, icc=assumptions.icc)
        bounds = effective_rate(hits, rows, clustered=clustered).clopper_pearson(two_sided(rule.confidence))
    passed = bounds[0] > rule.bound if rule.condition == "min" else bounds[1] < rule.bound
    return float(passed.mean())


def draw_cells(
    rng: np.random.Generator, n: int, chances: Sequence[float], cells: int, *, rows_per_cluster: float, icc: float
) -> tuple[list[Ints], Ints]:
    """Draw the outcomes of n rows, independently for each of many cells.

    Parameters
    ----------
    chances : sequence of float
        Of each outcome; what is left to 1 is the last, which is not returned.

    Returns
    -------
    outcomes : list of array of int [buckets, cells]
        How many rows had each outcome; one bucket where rows are not clustered.
    rows : array of int [buckets, cells]
    """
    probabilities = [*chances, max(0.0, 1 - sum(chances))]
    if rows_per_cluster <= 1:
        drawn = rng.multinomial(n, probabilities, (1, cells))
        return [drawn[..., at] for at in range(len(chances))], np.full((1, cells), n)
    clusters = max(1, round(n / rows_per_cluster))
    size = np.full(clusters, n // clusters) + (np.arange(clusters) < n % clusters)
    alike = rng.binomial(size, np.sqrt(icc), (cells, clusters))
    shared = rng.choice(len(probabilities), (cells, clusters), p=probabilities)
    own = rng.multinomial(size - alike, probabilities)
    place = rng.integers(0, BUCKETS, (cells, clusters)) * cells + np.arange(cells)[:, None]

    def per_bucket(values: NDArray[np.int64]) -> Ints:
        sums = np.bincount(place.ravel(), weights=values.ravel(), minlength=BUCKETS * cells)
        return np.rint(sums).astype(np.int64).reshape(BUCKETS, cells)

    outcomes = [per_bucket(own[..., at] + alike * (shared == at)) for at in range(len(chances))]
    return outcomes, per_bucket(np.broadcast_to(size, (cells, clusters)))


def draw_levels(
    rng: np.random.Generator, metric: GapMetric, n: int, rates: Sequence[float], *, rows_per_cluster: float, icc: float
) -> Tally:
    """Draw a tally of the attribute ``level``: n rows of each level for each rate, no cluster in two levels."""
    names = tuple(f"level {at}" for at in range(len(rates)))
    schema = Schema(attributes={"level": names}, contexts={}, classes=("no", "yes"), clustered=rows_per_cluster > 1)
    counts = np.zeros(schema.shape, dtype=np.int64)
    for one in metric.rates:
        assert isinstance(one, RateMetric)  # what has a formula is a share of rows
        label = int(one.denominator(np.array([0, 1]))[1])
        for at, rate in enumerate(rates):
            (hits,), rows = draw_cells(rng, n, [rate], 1, rows_per_cluster=rows_per_cluster, icc=icc)
            hit = int(one.indicator(np.array([label]), np.array([1]))[0])
            for predicted, drawn in ((hit, hits), (1 - hit, rows - hits)):
                counts[: len(drawn), at, label, predicted, predicted] += drawn[:, 0]
    cells = np.flatnonzero(counts)
    return Tally(schema, cells, counts.ravel()[cells])
