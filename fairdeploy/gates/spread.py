"""How far the targets differ: the largest difference of a group's rate between two of them.

All targets predict the same rows, and their tallies deal these to the same buckets, so buckets are resampled jointly.
The bound holds for all pairs of targets and all cells at once: the largest deviation over the cells, each divided by
its own mean (Romano and Wolf 2005). Targets that never differed are not certain never to: each pair's spread is at
least that of a score test with `SCORE_Z2` differing rows more than were seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairdeploy.evidence import metrics
from fairdeploy.evidence.cells import cells
from fairdeploy.evidence.clusters import effective_rate
from fairdeploy.evidence.records import Group
from fairdeploy.evidence.tally import Tally
from fairdeploy.gates.finding import Finding, decide, named, parts, undefined
from fairdeploy.gates.records import Rule
from fairdeploy.gates.sentences import points, rows, sure

REPLICATES = 2_000
SCORE_Z2 = 1.96**2
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class _Cell:
    """One cell's rows [buckets] and, for each target, those whose indicator is 1 [targets, buckets]."""

    group: Group
    context: Group
    n: Ints
    hits: Ints


def spreads(rule: Rule, names: Sequence[str], tallies: Sequence[Tally], *, seed: int) -> list[Finding]:
    """Hold a ``max_spread`` against every cell; `tallies` are the targets', of the same rows and schema."""
    found = list(_cells(rule, tallies))
    clustered = tallies[0].schema.clustered
    draws = [_ranges(cell, clustered=clustered, seed=seed) if cell.n.any() else None for cell in found]
    relative = [one / one.mean() for one in draws if one is not None]
    reach = float(np.quantile(np.max(relative, axis=0), rule.confidence, method="higher")) if relative else 0.0
    return [
        undefined(rule, cell.group, cell.context)
        if one is None
        else _finding(rule, names, cell, reach * float(one.mean()))
        for cell, one in zip(found, draws, strict=True)
    ]


def _cells(rule: Rule, tallies: Sequence[Tally]) -> Iterator[_Cell]:
    metric = metrics.RATES[rule.metric]
    for same in zip(*(list(parts(rule, tally)) for tally in tallies), strict=True):
        context = same[0][0]
        for cell in cells(same[0][1], contexts=False, intersections=rule.intersections):
            counts = [metric.counts(tally, cell.axes).map(cell.take) for _, tally in same]
            for at, group in enumerate(cell.groups):
                yield _Cell(group, context, counts[0].n[:, at], np.stack([one.deployed[:, at] for one in counts]))


def _finding(rule: Rule, names: Sequence[str], cell: _Cell, margin: float) -> Finding:
    n = int(cell.n.sum())
    rates = cell.hits.sum(1) / n
    spread = float(np.ptp(rates))
    lower, upper = max(0.0, spread - margin), min(1.0, spread + margin)
    status, needed = decide(lower, upper, rule.bound), None
    text = f"The {rule.words} of {named(cell.group, cell.context)} differs by {points(spread)} points between targets"
    text += f" ({names[int(rates.argmax())]} against {names[int(rates.argmin())]})" if spread else ""
    reason = f"{text}{sure(rule, status, lower, upper, points)}."
    if status == "inconclusive":
        if spread < rule.bound:
            needed = math.ceil(n * (margin / (rule.bound - spread)) ** 2)
        reason = f"{reason[:-1]}: {rows(n, needed, None)}."
    method = f"joint bootstrap of buckets over {len(names)} targets, {REPLICATES} replicates"
    return Finding(cell.group, status, spread, lower, upper, "rate", n, method, reason, needed, cell.context)


def _ranges(cell: _Cell, *, clustered: bool, seed: int) -> Floats:
    """Return the range over the targets of (estimate - truth) in each replicate."""
    filled = cell.n > 0
    hits, n = cell.hits[:, filled], cell.n[filled]
    rng = np.random.Generator(np.random.PCG64([seed, len(n)]))
    weights = rng.multinomial(len(n), np.full(len(n), 1 / len(n)), REPLICATES).astype(float)
    apart = hits - hits.mean(0)  # what all targets share moves no spread
    drawn = weights @ apart.T / (weights @ n)[:, None] - apart.sum(1) / n.sum()
    effect = max(float(effective_rate(one[:, None], n[:, None], clustered=clustered).effect[0]) for one in hits)
    differing = np.abs(hits[:, None] - hits[None]).sum(-1).max(-1)
    least = np.sqrt(effect * (differing + effect * SCORE_Z2) / 2) / n.sum()
    lacking = np.sqrt(np.maximum(least**2 - drawn.var(axis=0), 0))
    ranges: Floats = np.ptp(drawn + lacking * rng.standard_normal(drawn.shape), axis=1)
    return ranges
