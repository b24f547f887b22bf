"""One joint resampling for everything that is no sum over rows: a Bayesian bootstrap with one more row against.

Rows get gamma weights within the table label x reference x deployed of their cell, clusters exponential weights by
their bucket (Rubin 1981), the same for both networks, all metrics and all cells. One row more (or one cluster that
moves as one) is put where it moves the number furthest towards the bound: an imprecise Dirichlet model with s = 1
(Walley 1996). For a proportion these bounds are exactly Clopper and Pearson's; no cell looks certain because it never
erred, and no replicate is undefined.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fairdeploy.evidence.cells import Cells, Outcomes, outcomes
from fairdeploy.evidence.tally import BUCKETS, Tally

REPLICATES = 2_000
CHUNK_NUMBERS = 4_000_000
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Tables:
    """Weights by label and prediction, arrays [..., cells, label, prediction]; everyone's are [..., 1, label, ...]."""

    deployed: Floats
    reference: Floats
    everyone_deployed: Floats
    everyone_reference: Floats

    def plus(self, place: tuple[Ints, Ints, Ints], weight: Floats) -> Tables:
        """Add one row of a weight [..., cells] at (label, reference, deployed) of each cell.

        Everyone's tables grow by each cell's own row, so they become [..., cells, label, prediction].
        """
        label, first, second = place
        cells = np.arange(self.deployed.shape[-3])

        def add(tables: Floats, prediction: Ints) -> Floats:
            more = np.broadcast_to(tables, self.deployed.shape).copy()
            more[..., cells, label, prediction] += weight
            return more

        return Tables(
            add(self.deployed, second),
            add(self.reference, first),
            add(self.everyone_deployed, second),
            add(self.everyone_reference, first),
        )


Contrast = Callable[[Tables], Floats]


@dataclass(frozen=True)
class Resampled:
    """A number per cell [cells], and its draws for a lower and an upper bound [replicates, cells]."""

    value: Floats
    lower: Floats
    upper: Floats


def resample(tally: Tally, part: Cells, contrasts: Sequence[Contrast], *, seed: int) -> list[Resampled]:
    """Resample several numbers of each cell together.

    Parameters
    ----------
    tally : Tally
    part : Cells
        Its cells together are everyone.
    contrasts : sequence of callable
        ``Tables -> array [..., cells]``, NaN where undefined; only proportions may matter.
    seed : int
        The same seed gives the same bytes, whatever else is resampled.
    """
    found, size = outcomes(tally, part), len(tally.schema.classes)
    plain = _tables(found, found.counts.sum(0), size)
    places = _places(size)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = [contrast(plain) for contrast in contrasts]
        one = np.ones(plain.deployed.shape[0])
        moved = [plain.plus(_everywhere(place, len(one)), one) for place in places]
        furthest = []
        for contrast in contrasts:
            with_one = np.array([contrast(tables) for tables in moved])
            furthest += [np.where(np.isnan(with_one), -np.inf, sign * with_one).argmax(0) for sign in (-1, 1)]
        draws: list[list[Floats]] = [[] for _ in furthest]
        for weighted, spare in _replicates(tally, found, part, seed=seed, size=size):
            tables = _tables(found, weighted, size)
            more: dict[bytes, Tables] = {}
            for number, chosen in enumerate(furthest):
                if chosen.tobytes() not in more:
                    label, first, second = np.array(places)[chosen].T
                    more[chosen.tobytes()] = tables.plus((label, first, second), spare)
                draws[number].append(contrasts[number // 2](more[chosen.tobytes()]))
    undefined = [np.where(np.isnan(value), np.nan, 0.0) for value in values]
    return [
        Resampled(
            value, np.concatenate(draws[2 * at]) + undefined[at], np.concatenate(draws[2 * at + 1]) + undefined[at]
        )
        for at, value in enumerate(values)
    ]


def _places(size: int) -> list[tuple[int, int, int]]:
    """List (label, reference, deployed) of rows that each network has right or wrong, for each label."""
    answers = [(label, (label + 1) % size) for label in range(size)]
    return [(label, first, second) for label in range(size) for first in answers[label] for second in answers[label]]


def _everywhere(place: tuple[int, int, int], cells: int) -> tuple[Ints, Ints, Ints]:
    label, first, second = (np.full(cells, one) for one in place)
    return label, first, second


def _tables(found: Outcomes, weighted: Floats, size: int) -> Tables:
    deployed, reference = (
        (weighted @ np.eye(size * size)[found.label * size + prediction]).reshape(*weighted.shape[:-1], size, size)
        for prediction in (found.deployed, found.reference)
    )
    return Tables(deployed, reference, deployed.sum(-3, keepdims=True), reference.sum(-3, keepdims=True))


def _replicates(tally: Tally, found: Outcomes, part: Cells, *, seed: int, size: int) -> Iterator[tuple[Floats, Floats]]:
    """Yield chunks of (weights [replicates, cells, k], the one more row's weight [replicates, cells])."""
    _, cells, k = found.counts.shape
    chunk = max(1, CHUNK_NUMBERS // max(1, cells * max(k, size * size)))
    rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32("/".join(part.axes).encode())]))
    clustered = tally.schema.clustered
    weights, together = cluster_weights(seed) if clustered else None, rows_together(found.counts.sum(2))
    for start in range(0, REPLICATES, chunk):
        many = min(chunk, REPLICATES - start)
        if weights is not None:
            weighted = (weights[start : start + many] @ found.counts.reshape(BUCKETS, -1)).reshape(many, cells, k)
        else:
            weighted = rng.standard_gamma(found.counts.sum(0), (many, cells, k))
        yield weighted, rng.standard_exponential((many, cells)) * (together if clustered else 1.0)


@lru_cache(maxsize=2)
def cluster_weights(seed: int, buckets: int = BUCKETS) -> Floats:
    """Return exponential weights [replicates, buckets]: a Bayesian bootstrap of all buckets, empty ones included."""
    return np.random.Generator(np.random.PCG64([seed, buckets])).standard_exponential((REPLICATES, buckets))


def rows_together(n: Floats) -> Floats:
    """Estimate from rows [buckets, cells] how many of a cell belong to one cluster, seen from a row; at least 1.

    Chance meetings of clusters in one bucket are taken off: with rows that choose their buckets by themselves a sum of
    squares of N + N (N - 1) / buckets is expected.
    """
    rows = n.sum(0)
    met = ((n**2).sum(0) - rows**2 / len(n)) / (1 - 1 / len(n))
    found: Floats = np.maximum(1.0, np.divide(met, rows, out=np.ones_like(rows), where=rows > 0))
    return found
