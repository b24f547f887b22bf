"""One joint resampling for everything that is no sum over rows: a Bayesian bootstrap with one more row against.

Rows get gamma weights within the table label x reference x deployed of their cell, clusters exponential weights by
their bucket (Rubin 1981), the same for both networks, all metrics and all cells. One row more (or one cluster that
moves as one) is put where it moves the number furthest towards the bound: an imprecise Dirichlet model with s = 1
(Walley 1996). For a proportion these bounds are exactly Clopper and Pearson's; no cell looks certain because it never
erred, and no replicate is undefined. A mean of rates can err in several denominators at once, so each label with fewer
than `FEW_ROWS` rows (or clusters) of a cell gets a row of its own.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from fairdeploy.evidence.cells import Cells, Outcomes, outcomes
from fairdeploy.evidence.tally import BUCKETS, Tally

REPLICATES = 2_000
CHUNK_NUMBERS = 4_000_000
FEW_ROWS = 10
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Tables:
    """Weights by label and prediction, arrays [..., cells, label, prediction]; everyone's are [..., 1, label, ...]."""

    deployed: Floats
    reference: Floats
    everyone_deployed: Floats
    everyone_reference: Floats

    def plus(self, labels: Iterable[tuple[int, Ints, Ints, Floats]]) -> Tables:
        """Add rows (label, reference [cells], deployed [cells], weight [..., cells]) to each cell.

        Everyone's tables grow by each cell's own rows, so they become [..., cells, label, prediction].
        """
        cells = np.arange(self.deployed.shape[-3])
        more = [
            np.broadcast_to(tables, self.deployed.shape).copy()
            for tables in (self.deployed, self.reference, self.everyone_deployed, self.everyone_reference)
        ]
        for label, reference, deployed, weight in labels:
            for tables, prediction in zip(more, (deployed, reference, deployed, reference), strict=True):
                tables[..., cells, label, prediction] += weight
        return Tables(*more)


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
    together = rows_together(found.counts.sum(2)) if tally.schema.clustered else np.ones(len(part.groups))
    labelled = plain.deployed.sum(-1).T
    with np.errstate(invalid="ignore", divide="ignore"):
        values = [contrast(plain) for contrast in contrasts]
        worst = _worst(plain, contrasts, labelled, together)
        draws: list[list[Floats]] = [[] for _ in worst]
        for weighted, spare in _replicates(tally, found, part, seed=seed, size=size):
            tables, known = _tables(found, weighted, size), dict[bytes, Tables]()
            for number, rows in enumerate(worst):
                key = b"".join(one.tobytes() for row in rows for one in row[1:])
                if key not in known:
                    known[key] = tables.plus(
                        (label, first, second, spare[label] * (chosen * together))
                        for label, first, second, chosen in rows
                    )
                draws[number].append(contrasts[number // 2](known[key]))
    undefined = [np.where(np.isnan(value), np.nan, 0.0) for value in values]
    return [
        Resampled(
            value, np.concatenate(draws[2 * at]) + undefined[at], np.concatenate(draws[2 * at + 1]) + undefined[at]
        )
        for at, value in enumerate(values)
    ]


def _worst(
    plain: Tables, contrasts: Sequence[Contrast], labelled: Floats, together: Floats
) -> list[list[tuple[int, Ints, Ints, NDArray[np.bool_]]]]:
    """Say for each contrast's lower and upper bound which row of each label to add, and in which cells, each [cells].

    A row is one that each network has right or wrong: (label, reference, deployed). `labelled` are the rows there are,
    [label, cells], and `together` how many of them belong to one cluster.
    """
    size, cells = labelled.shape
    few = (labelled > 0) & (labelled < FEW_ROWS * together)
    moved = []
    for label in range(size):
        answers = (label, (label + 1) % size)
        for first, second in product(answers, answers):
            place = label, np.full(cells, first), np.full(cells, second)
            tables = plain.plus([(*place, np.ones(cells))])
            moved.append([contrast(tables) for contrast in contrasts])
    found = []
    for contrast, sign in product(range(len(contrasts)), (-1, 1)):
        towards = sign * np.array([values[contrast] for values in moved]).reshape(size, 4, cells)
        towards = np.where(np.isnan(towards), -np.inf, towards)
        reached, chosen = towards.max(1), towards.argmax(1)
        furthest = ((reached == reached.max(0)) * (1 + (labelled > 0))).argmax(0)  # of equals, a label that has rows
        rows = []
        for label in range(size):
            first, second = ((label + wrong) % size for wrong in divmod(chosen[label], 2))
            rows.append((label, first, second, few[label] | (furthest == label)))
        found.append(rows)
    return found


def _tables(found: Outcomes, weighted: Floats, size: int) -> Tables:
    deployed, reference = (
        (weighted @ np.eye(size * size)[found.label * size + prediction]).reshape(*weighted.shape[:-1], size, size)
        for prediction in (found.deployed, found.reference)
    )
    return Tables(deployed, reference, deployed.sum(-3, keepdims=True), reference.sum(-3, keepdims=True))


def _replicates(tally: Tally, found: Outcomes, part: Cells, *, seed: int, size: int) -> Iterator[tuple[Floats, Floats]]:
    """Yield chunks of weights [replicates, cells, k], and of those of one more row [label, replicates, cells]."""
    _, cells, k = found.counts.shape
    chunk = max(1, CHUNK_NUMBERS // max(1, cells * max(k, size * size)))
    rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32("/".join(part.axes).encode())]))
    weights = cluster_weights(seed) if tally.schema.clustered else None
    for start in range(0, REPLICATES, chunk):
        many = min(chunk, REPLICATES - start)
        if weights is not None:
            weighted = (weights[start : start + many] @ found.counts.reshape(BUCKETS, -1)).reshape(many, cells, k)
        else:
            weighted = rng.standard_gamma(found.counts.sum(0), (many, cells, k))
        yield weighted, rng.standard_exponential((size, many, cells))


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
