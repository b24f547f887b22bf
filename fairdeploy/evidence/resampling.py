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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fairdeploy.evidence.cells import Cells, Outcomes, outcomes
from fairdeploy.evidence.tally import BUCKETS, Tally

REPLICATES = 2_000
CHUNK_NUMBERS = 4_000_000
SLICE_NUMBERS = 100_000
FEW_ROWS = 10
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Network = Literal["deployed", "reference"]


@dataclass(frozen=True)
class Rows:
    """One row more in each of the `chosen` cells: its label, and what each network predicts, arrays [cells]."""

    label: int
    predictions: Mapping[Network, Ints]
    chosen: NDArray[np.bool_]

    def key(self, network: Network) -> tuple[int, bytes, bytes]:
        """Say what it adds to the tables of a network."""
        return self.label, self.predictions[network].tobytes(), self.chosen.tobytes()


@dataclass(frozen=True)
class Tables:
    """Weights by label and prediction, arrays [..., cells, label, prediction]; everyone's are [..., 1, label, ...].

    With rows added to each cell, everyone's grow by each cell's own and become [..., cells, label, prediction]. A table
    is made when it is first asked for: most numbers need one of the four.
    """

    counted: Mapping[Network, Floats]  # [label, prediction, ..., cells]: work on an entry is work on one block
    rows: Sequence[Rows] = ()
    weights: Floats | None = None
    made: dict[Any, Floats] = field(default_factory=dict, repr=False)

    @property
    def deployed(self) -> Floats:
        """Of the deployed predictions."""
        return self._table("deployed")

    @property
    def reference(self) -> Floats:
        """Of the reference's predictions."""
        return self._table("reference")

    @property
    def everyone_deployed(self) -> Floats:
        """Of the deployed predictions, over all cells."""
        return self._table("deployed", everyone=True)

    @property
    def everyone_reference(self) -> Floats:
        """Of the reference's predictions, over all cells."""
        return self._table("reference", everyone=True)

    def plus(self, rows: Sequence[Rows], weights: Floats) -> Tables:
        """Add rows of weights [rows, ..., cells]; whatever is added to these tables, a label weighs the same."""
        return Tables(self.counted, rows, weights, self.made)

    def _table(self, network: Network, *, everyone: bool = False) -> Floats:
        key = (network, everyone, *(one.key(network) for one in self.rows))
        if key not in self.made:
            counted = self.counted[network]
            self.made[key] = self._grown(counted.sum(-1, keepdims=True) if everyone else counted, network)
        return np.moveaxis(self.made[key], (0, 1), (-2, -1))

    def _grown(self, tables: Floats, network: Network) -> Floats:
        if self.weights is None:
            return tables
        tables = np.broadcast_to(tables, (*tables.shape[:2], *self.weights.shape[1:])).copy()
        for one, weight in zip(self.rows, self.weights, strict=True):
            predicted = one.predictions[network]
            for prediction in set(predicted[one.chosen].tolist()):
                tables[one.label, prediction] += weight * (one.chosen & (predicted == prediction))
        return tables


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
    with np.errstate(invalid="ignore", divide="ignore"):
        values = [contrast(plain) for contrast in contrasts]
        worst = _worst(plain, contrasts, together)
        drawn = np.empty((len(worst), REPLICATES, len(part.groups)))
        for where, weighted, spare in _replicates(tally, found, part, seed=seed, size=size):
            tables, weights = _tables(found, weighted, size), spare * together
            for number, rows in enumerate(worst):
                drawn[number, where] = contrasts[number // 2](tables.plus(rows, weights))
    for number, value in enumerate(values):
        drawn[2 * number : 2 * number + 2, :, np.isnan(value)] = np.nan
    return [Resampled(value, drawn[2 * number], drawn[2 * number + 1]) for number, value in enumerate(values)]


def _worst(plain: Tables, contrasts: Sequence[Contrast], together: Floats) -> list[list[Rows]]:
    """Say for each contrast's lower and upper bound which row of each label to add, and in which cells.

    A row is one that each network has right or wrong. `together` says how many rows of a cell [cells] belong to one
    cluster.
    """
    labelled = plain.deployed.sum(-1).T  # [label, cells]
    size, cells = labelled.shape
    few = (labelled > 0) & (labelled < FEW_ROWS * together)
    moves = []
    for label in range(size):
        answers = (label, (label + 1) % size)
        for reference, deployed in product(answers, answers):
            predictions: dict[Network, Ints] = {
                "reference": np.full(cells, reference),
                "deployed": np.full(cells, deployed),
            }
            moves.append(Rows(label, predictions, np.ones(cells, dtype=bool)))
    each = np.eye(len(moves))[:, :, None] * np.ones(cells)  # one row at a time
    moved = Tables({network: one[:, :, None] for network, one in plain.counted.items()}, moves, each)
    values = [contrast(moved).reshape(size, 4, cells) for contrast in contrasts]
    found = []
    for number, sign in product(range(len(contrasts)), (-1, 1)):
        towards = sign * values[number]
        towards = np.where(np.isnan(towards), -np.inf, towards)
        reached, chosen = towards.max(1), towards.argmax(1)
        furthest = ((reached == reached.max(0)) * (1 + (labelled > 0))).argmax(0)  # of equals, a label that has rows
        rows = []
        for label in range(size):
            first, second = ((label + wrong) % size for wrong in divmod(chosen[label], 2))
            rows.append(Rows(label, {"reference": first, "deployed": second}, few[label] | (furthest == label)))
        found.append(rows)
    return found


def _tables(found: Outcomes, weighted: Floats, size: int) -> Tables:
    """Sort weights [..., cells, k] by label and prediction."""
    shape = (size, size, *weighted.shape[:-1])
    counted: dict[Network, Floats] = {"deployed": np.zeros(shape), "reference": np.zeros(shape)}
    for at, (label, reference, deployed) in enumerate(zip(found.label, found.reference, found.deployed, strict=True)):
        counted["deployed"][label, deployed] += weighted[..., at]
        counted["reference"][label, reference] += weighted[..., at]
    return Tables(counted)


def _replicates(
    tally: Tally, found: Outcomes, part: Cells, *, seed: int, size: int
) -> Iterator[tuple[slice, Floats, Floats]]:
    """Yield which replicates, weights [replicates, cells, k], and those of one more row [label, replicates, cells].

    They are drawn in chunks that fit into memory and yielded in slices that fit into a processor's cache.
    """
    _, cells, k = found.counts.shape
    chunk, few = (max(1, numbers // max(1, cells * max(k, size * size))) for numbers in (CHUNK_NUMBERS, SLICE_NUMBERS))
    rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32("/".join(part.axes).encode())]))
    weights = cluster_weights(seed) if tally.schema.clustered else None
    for start in range(0, REPLICATES, chunk):
        many = min(chunk, REPLICATES - start)
        if weights is not None:
            weighted = (weights[start : start + many] @ found.counts.reshape(BUCKETS, -1)).reshape(many, cells, k)
        else:
            weighted = rng.standard_gamma(found.counts.sum(0), (many, cells, k))
        spare = rng.standard_exponential((size, many, cells))
        for at in range(0, many, few):
            until = min(at + few, many)
            yield slice(start + at, start + until), weighted[at:until], spare[:, at:until]


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
