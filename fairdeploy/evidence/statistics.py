"""Statistics: any metric as a function of a table label x prediction, with bounds from one joint resampling.

A rate is a sum over rows; these are not (a precision's denominator depends on the predictions, a macro recall is a mean
of rates), so their bounds come from a Bayesian bootstrap (Rubin 1981): rows get gamma weights within the table label x
reference x deployed, clusters exponential weights by their bucket, the same for both networks. One row more (or one
cluster that moves as one) is put where it moves the statistic furthest in the direction of the bound: an imprecise
Dirichlet model with s = 1 (Walley 1996). For a proportion these bounds are exactly Clopper and Pearson's; no cell looks
certain because it never erred, and no replicate is undefined. A user adds a statistic with `register` or as an entry
point of the group ``fairdeploy.metrics``.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import entry_points

import numpy as np
from numpy.typing import NDArray

from fairdeploy.errors import ConfigError
from fairdeploy.evidence.cells import Cells, cell
from fairdeploy.evidence.tally import BUCKETS, Tally

GROUP = "fairdeploy.metrics"
REPLICATES = 2_000
CHUNK_NUMBERS = 4_000_000
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Pair = tuple[Floats, Floats]
Value = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Statistic:
    """A metric as a function of tables; call it on a tally for its value.

    Attributes
    ----------
    name, words : str
        As in configuration files, and as in sentences.
    value : callable
        ``tables [..., label, prediction] -> array [...]``; NaN where undefined. Tables hold weights that need not be
        whole.
    binary : bool
        Whether it needs two classes; class 1 is the positive one.
    """

    name: str
    words: str
    value: Value
    binary: bool = True

    def __call__(
        self,
        tally: Tally,
        group: Mapping[str, str] | None = None,
        *,
        context: Mapping[str, str] | None = None,
        of: str = "deployed",
    ) -> float | None:
        """Return the value for the ``deployed`` or the ``reference`` predictions, None where undefined."""
        part = cell(tally.schema, group or {}, context or {})
        combinations, counts = _joint(tally, part)
        value = self.of(_margin(counts.sum(0), combinations, of, len(tally.schema.classes)))[0]
        return None if np.isnan(value) else float(value)

    def of(self, tables: Floats) -> Floats:
        """Return the values of tables [..., label, prediction]; division by 0 is NaN, not a warning.

        Raises
        ------
        ConfigError
            If it needs two classes and the tables have more.
        """
        if self.binary and tables.shape[-1] != 2:
            raise ConfigError(f"{self.name} needs two classes, not {tables.shape[-1]}: name one with 'class:'")
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self.value(tables), dtype=float)


@dataclass(frozen=True)
class Estimate:
    """A statistic per cell, and what a resampling says of it; arrays [cells].

    Attributes
    ----------
    n : array of int
        Rows.
    deployed, reference : array of float
        Values; NaN where undefined.
    quantisation : array of float
        By how much a value may differ from that of unbinned scores; 0 for functions of counts. Bounds include it.
    method : str
    lower, upper, change_lower, change_upper : array [replicates, cells]
        Draws for the lower and the upper bound of the deployed value and of its change.
    """

    n: Ints
    deployed: Floats
    reference: Floats
    quantisation: Floats
    method: str
    lower: Floats = field(repr=False)
    upper: Floats = field(repr=False)
    change_lower: Floats = field(repr=False)
    change_upper: Floats = field(repr=False)

    @property
    def change(self) -> Floats:
        """Deployed minus reference."""
        return self.deployed - self.reference

    def bounds(self, one_sided_confidence: float) -> Pair:
        """Return one-sided lower and upper bounds of the deployed value; NaN where undefined."""
        return _quantiles(self.lower, self.upper, one_sided_confidence, self.quantisation)

    def change_bounds(self, one_sided_confidence: float) -> Pair:
        """Return one-sided lower and upper bounds of deployed - reference, paired; NaN where undefined."""
        return _quantiles(self.change_lower, self.change_upper, one_sided_confidence, 2 * self.quantisation)


def estimate(tally: Tally, statistic: Statistic, part: Cells, *, seed: int) -> Estimate:
    """Estimate a statistic of both networks in each cell of a part.

    Parameters
    ----------
    tally : Tally
    statistic : Statistic
    part : Cells
        From `fairdeploy.evidence.cells`.
    seed : int
        The same seed gives the same bytes, whatever else is estimated; two statistics see the same weights.

    Raises
    ------
    ConfigError
        If the statistic needs two classes and the tally has more.
    """
    size = len(tally.schema.classes)
    combinations, counts = _joint(tally, part)
    margins = [_margin(counts.sum(0), combinations, of, size) for of in ("deployed", "reference")]
    deployed, reference = (statistic.of(tables) for tables in margins)
    rows = counts.sum((0, 2)).astype(np.int64)
    extra = _Extra(statistic, margins[0], margins[1])
    draws: list[list[Floats]] = [[], [], [], []]
    for weighted, spare in _replicates(tally, counts, part, seed=seed, size=size):
        tables = [_margin(weighted, combinations, of, size) for of in ("deployed", "reference")]
        for kept, found in zip(draws, extra.draws(tables[0], tables[1], spare), strict=True):
            kept.append(found)
    how = "clusters" if tally.schema.clustered else "rows"
    return Estimate(
        rows,
        deployed,
        reference,
        np.zeros(len(rows)),
        f"Bayesian bootstrap of {how}, one more against, {REPLICATES} replicates",
        *(np.concatenate(kept) for kept in draws),
    )


class _Extra:
    """One more row per cell: where it lowers and raises the deployed value and its change most."""

    def __init__(self, statistic: Statistic, deployed: Floats, reference: Floats) -> None:
        self.statistic, size = statistic, deployed.shape[-1]
        wrong = [(label + 1) % size for label in range(size)]
        self.places = [
            (label, first, second)
            for label in range(size)
            for first in (label, wrong[label])
            for second in (label, wrong[label])
        ]
        values, changes = [], []
        for label, first, second in self.places:
            with_one, other = deployed.copy(), reference.copy()
            with_one[:, label, second] += 1
            other[:, label, first] += 1
            values.append(statistic.of(with_one))
            changes.append(values[-1] - statistic.of(other))
        self.furthest = [
            np.where(np.isnan(stack), -np.inf, sign * np.array(stack)).argmax(0)
            for stack, sign in ((values, -1), (values, 1), (changes, -1), (changes, 1))
        ]

    def draws(self, deployed: Floats, reference: Floats, spare: Floats) -> list[Floats]:
        """Return the four kinds of draws [replicates, cells] of weighted tables; `spare` is the one row's weight."""
        found = []
        for number, chosen in enumerate(self.furthest):
            label, first, second = np.array(self.places)[chosen].T
            value = self._with(deployed, label, second, spare)
            found.append(value - self._with(reference, label, first, spare) if number >= 2 else value)
        return found

    def _with(self, tables: Floats, label: Ints, prediction: Ints, spare: Floats) -> Floats:
        more = tables.copy()
        more[:, np.arange(tables.shape[1]), label, prediction] += spare
        return self.statistic.of(more)


def _joint(tally: Tally, part: Cells) -> tuple[tuple[Ints, ...], Floats]:
    """Return the (label, reference, deployed) that occur, each [k], and their rows [buckets, cells, k]."""
    at = tally.coordinates
    size = len(tally.schema.classes)
    outcome = (at["label"] * size + at["reference"]) * size + at["deployed"]
    seen, place = np.unique(outcome, return_inverse=True)
    levels = tuple(len(tally.schema.levels(axis)) for axis in part.axes)
    shape = (BUCKETS, *levels, len(seen))
    flat = np.ravel_multi_index((*(at[axis] for axis in ("bucket", *part.axes)), place), shape)
    counts = np.bincount(flat, weights=tally.counts.astype(float), minlength=math.prod(shape)).astype(float)
    counts = counts.reshape(BUCKETS, math.prod(levels), len(seen))
    return tuple(np.array(np.unravel_index(seen, (size,) * 3), dtype=np.int64)), counts[:, part.keep]


def _margin(weighted: Floats, combinations: tuple[Ints, ...], of: str, size: int) -> Floats:
    """Turn weights [..., k] into tables [..., label, prediction of the deployed or the reference network]."""
    label, reference, deployed = combinations
    place = label * size + (deployed if of == "deployed" else reference)
    tables: Floats = weighted @ np.eye(size * size)[place]
    return tables.reshape(*weighted.shape[:-1], size, size)


def _replicates(tally: Tally, counts: Floats, part: Cells, *, seed: int, size: int) -> Iterator[tuple[Floats, Floats]]:
    """Yield chunks of (weights [replicates, cells, k], the one more row's weight [replicates, cells])."""
    _, cells, k = counts.shape
    chunk = max(1, CHUNK_NUMBERS // max(1, cells * max(k, size * size)))
    rng = np.random.Generator(np.random.PCG64([seed, zlib.crc32("/".join(part.axes).encode())]))
    clusters, together = cluster_weights(seed), rows_together(counts.sum(2))
    table = counts.sum(0)
    for start in range(0, REPLICATES, chunk):
        many = min(chunk, REPLICATES - start)
        if tally.schema.clustered:
            weighted = (clusters[start : start + many] @ counts.reshape(BUCKETS, -1)).reshape(many, cells, k)
            yield weighted, together * rng.standard_exponential((many, cells))
        else:
            yield rng.standard_gamma(table, (many, cells, k)), rng.standard_exponential((many, cells))


@lru_cache(maxsize=2)
def cluster_weights(seed: int, buckets: int = BUCKETS) -> Floats:
    """Return exponential weights [replicates, buckets]: a Bayesian bootstrap of all buckets, empty ones included."""
    return np.random.Generator(np.random.PCG64([seed, buckets])).standard_exponential((REPLICATES, buckets))


def rows_together(n: Floats) -> Floats:
    """Estimate from rows [buckets, cells] how many of a cell belong to one cluster, seen from a row; at least 1.

    Chance meetings of clusters in one bucket are taken off: if each row had a bucket of its own choice, a sum of
    squares of N + N (N - 1) / buckets would be expected.
    """
    rows = n.sum(0)
    met = ((n**2).sum(0) - rows**2 / len(n)) / (1 - 1 / len(n))
    found: Floats = np.maximum(1.0, np.divide(met, rows, out=np.ones_like(rows), where=rows > 0))
    return found


def _quantiles(lower: Floats, upper: Floats, confidence: float, quantisation: Floats) -> Pair:
    low = np.quantile(lower, 1 - confidence, axis=0, method="lower") - quantisation
    high = np.quantile(upper, confidence, axis=0, method="higher") + quantisation
    return low, high


def names() -> list[str]:
    """Return the names of all statistics, built in, registered or installed, sorted; nothing is imported."""
    return sorted({*STATISTICS, *(entry.name for entry in entry_points(group=GROUP))})


def load(name: str) -> Statistic:
    """Return a statistic by name; one that a package brings is imported and registered now.

    Raises
    ------
    ConfigError
        If nobody registers the name (the known ones are given), or its file cannot be imported.
    """
    if name not in STATISTICS:
        found = {entry.name: entry for entry in entry_points(group=GROUP)}
        if name not in found:
            raise ConfigError(f"unknown statistic '{name}'; known: {', '.join(names())}")
        try:
            register(found[name].load())
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"statistic '{name}' ({found[name].value}) cannot be imported: {error}") from error
        if name not in STATISTICS:
            raise ConfigError(f"statistic '{name}' ({found[name].value}) calls itself otherwise: use one name")
    return STATISTICS[name]


def register(statistic: Statistic) -> Statistic:
    """Make a statistic known under its name, and return it.

    Raises
    ------
    ConfigError
        If it is no `Statistic`, its name is taken or is no identifier, or its function is not vectorised.
    """
    from fairdeploy.evidence.metrics import FLIPS, GAPS, RATES

    if not isinstance(statistic, Statistic):
        raise ConfigError(f"{statistic!r} is no Statistic: give Statistic(name, words, value)")
    taken = {*RATES, *GAPS, *FLIPS, *STATISTICS} - ({statistic.name} if STATISTICS.get(statistic.name) else set())
    if not statistic.name.isidentifier() or statistic.name in taken:
        raise ConfigError(f"the name '{statistic.name}' is taken, or no identifier: choose another")
    if STATISTICS.get(statistic.name, statistic) is not statistic:
        raise ConfigError(f"two statistics are called '{statistic.name}': rename one")
    tables = np.arange(1.0, 25.0).reshape(3, 2, 2, 2)
    whole = statistic.of(tables)
    if whole.shape != (3, 2) or not np.array_equal(whole[1, 1], statistic.of(tables[1, 1]), equal_nan=True):
        raise ConfigError(f"{statistic.name}: give one value per table, tables [..., label, prediction] -> [...]")
    STATISTICS[statistic.name] = statistic
    return statistic


def _recalls(tables: Floats) -> Floats:
    """Mean over all labels of the share that is predicted right; NaN where a label has no rows."""
    recalls: Floats = np.diagonal(tables, axis1=-2, axis2=-1) / tables.sum(-1)
    return np.asarray(recalls.mean(-1))


positive_predictive_value = Statistic(
    "positive_predictive_value", "positive predictive value", lambda t: t[..., 1, 1] / (t[..., 0, 1] + t[..., 1, 1])
)
negative_predictive_value = Statistic(
    "negative_predictive_value", "negative predictive value", lambda t: t[..., 0, 0] / (t[..., 0, 0] + t[..., 1, 0])
)
balanced_accuracy = Statistic("balanced_accuracy", "balanced accuracy", _recalls, binary=False)
f1_score = Statistic(
    "f1_score", "F1 score", lambda t: 2 * t[..., 1, 1] / (2 * t[..., 1, 1] + t[..., 0, 1] + t[..., 1, 0])
)

STATISTICS: dict[str, Statistic] = {
    one.name: one for one in (positive_predictive_value, negative_predictive_value, balanced_accuracy, f1_score)
}
