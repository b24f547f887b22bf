"""Scores: an additive histogram of what a network says with which confidence, and the metrics that need it.

With two classes a row's score is P(positive) and its label is the true class; with more it is the largest probability,
and the label says whether that class was right. Scores fall into `BINS` equal bins, so every metric here states by how
much it may differ from that of the scores themselves. Rows are dealt to `BUCKETS` random groups (sixteenths of a
tally's buckets), which are resampled by a Bayesian bootstrap, with one more row (or cluster) put where it does most
harm; its deviations are stretched for the few groups there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fairdeploy.errors import ConfigError, DataError
from fairdeploy.evidence.cells import Cells, cell
from fairdeploy.evidence.encoding import BUCKETS as TALLY_BUCKETS
from fairdeploy.evidence.encoding import classes
from fairdeploy.evidence.resampling import REPLICATES, Floats, cluster_weights, rows_together
from fairdeploy.evidence.statistics import Estimate
from fairdeploy.evidence.tally import Counts, Schema, counted, placed

BUCKETS = 32
BINS = 100
ECE_BINS = 10
STRETCH = 1.07  # sqrt((B + 1) / (B - 1)) for the bootstrap's variance times t(31) / z at 95 %
CENTRES: Floats = (np.arange(BINS) + 0.5) / BINS


@dataclass(frozen=True, eq=False)
class Scores(Counts):
    """Rows per bucket, group, label and bin of the score. Make it with `count`, `zero` or `from_json`; adds with ``+``.

    Its schema has no contexts.
    """

    kind: ClassVar[str] = "score histogram"
    head: ClassVar[Mapping[str, Any]] = {"format": "fairdeploy-scores/1", "buckets": BUCKETS, "bins": BINS}

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the dimensions, in the order of `shape`."""
        return ("bucket", *self.schema.attributes, "label", "bin")

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of each dimension; the first are the buckets."""
        return (BUCKETS, *(len(levels) for levels in self.schema.attributes.values()), 2, BINS)

    @classmethod
    def count(
        cls,
        schema: Schema,
        *,
        ids: ArrayLike,
        labels: ArrayLike,
        attributes: Mapping[str, ArrayLike],
        clusters: ArrayLike | None,
        scores: ArrayLike,
    ) -> Scores:
        """Count rows; all arrays have length n and the same order.

        Parameters
        ----------
        ids, labels, attributes, clusters : array [n]
            As for `Tally.count`.
        scores : array [n] or [n, classes]
            P(positive), or the probabilities of all classes; [n] only with two classes.

        Raises
        ------
        DataError
            As `Tally.count`; for scores that are NaN, infinite or outside [0, 1], with the first such row (from 0).
        """
        schema = Schema(attributes=schema.attributes, contexts={}, classes=schema.classes, clustered=schema.clustered)
        base, rows = placed(schema, ids, clusters, (attributes, {}))
        groups = TALLY_BUCKETS // BUCKETS
        inner = int(np.prod([len(levels) for levels in schema.attributes.values()], dtype=np.int64))
        base = base // inner // groups * inner + base % inner
        given = _checked(scores, rows, len(schema.classes))
        if np.shape(labels) != (rows,):
            raise DataError(f"labels: {np.size(labels)} rows, but there are {rows} ids")
        label = classes("labels", labels, len(schema.classes))
        if len(schema.classes) > 2:
            label, given = (given.argmax(axis=1) == label).astype(np.int64), given.max(axis=1)
        elif given.ndim == 2:
            given = given[:, 1]
        place = np.minimum((given * BINS).astype(np.int64), BINS - 1)
        empty = cls.zero(schema)
        return cls(schema, *counted((base * 2 + label) * BINS + place, empty.shape))


def _checked(scores: ArrayLike, rows: int, size: int) -> Floats:
    try:
        given = np.asarray(scores)
        if given.dtype.kind not in "fiu":
            raise ValueError
        given = given.astype(float)
    except (ValueError, TypeError) as error:
        raise DataError("scores: give numbers from 0 to 1, not text or other objects") from error
    if given.shape not in ((rows, size), *([(rows,)] if size == 2 else [])):
        wanted = f"[{rows}] or [{rows}, 2]" if size == 2 else f"[{rows}, {size}]"
        raise DataError(f"scores have shape {list(given.shape)}; give {wanted}, one row for each id")
    bad = ~((given >= 0) & (given <= 1))
    if bad.any():
        row = int(np.argwhere(bad)[0][0])
        raise DataError(f"scores: row {row} is {given[row].tolist()}; give numbers from 0 to 1 ({bad.sum()} are not)")
    return given


class Draws(NamedTuple):
    """What a resampling says of a metric in each cell.

    Attributes
    ----------
    value, quantisation : array [cells]
    lower, upper : array [replicates, cells]
        Draws for a lower and for an upper bound of the value, each with one more row that speaks against it.
    """

    value: Floats
    quantisation: Floats
    lower: Floats
    upper: Floats


@dataclass(frozen=True)
class ScoreMetric:
    """A metric of a score histogram; call it on `Scores` for its value.

    Attributes
    ----------
    name, words : str
    draws : callable
        ``(tables [buckets, cells, label, bin], those of everyone, weights [replicates, buckets], one more row's weights
        [2, replicates, cells]) -> Draws``.
    binary : bool
        Whether it needs two classes.
    """

    name: str
    words: str
    draws: Callable[[Floats, Floats, Floats, Floats], Draws]
    binary: bool = True

    def __call__(self, scores: Scores, group: Mapping[str, str] | None = None) -> float | None:
        """Return the value, None where undefined; how exact it is says `quantisation`."""
        return _defined(self._plain(scores, group).value)

    def quantisation(self, scores: Scores, group: Mapping[str, str] | None = None) -> float | None:
        """Return by how much the value may differ from that of unbinned scores, None where undefined."""
        return _defined(self._plain(scores, group).quantisation)

    def _plain(self, scores: Scores, group: Mapping[str, str] | None) -> Draws:
        self.check(scores)
        tables = _tables(scores, cell(scores.schema, group or {}, {}))
        nothing = np.zeros((2, 1, 1))
        return self.draws(tables, _tables(scores, cell(scores.schema, {}, {})), np.ones((1, BUCKETS)), nothing)

    def check(self, scores: Scores) -> None:
        """Raise ConfigError if it needs two classes and there are more."""
        if self.binary and len(scores.schema.classes) != 2:
            raise ConfigError(f"{self.name} needs two classes, not {len(scores.schema.classes)}")


def estimate_scores(
    metric: ScoreMetric, deployed: Scores, reference: Scores | None, part: Cells, *, seed: int
) -> Estimate:
    """Estimate a metric of the deployed scores in each cell, and its change against the reference's.

    Parameters
    ----------
    metric : ScoreMetric
    deployed, reference : Scores
        Of the same rows; without a reference its values and the change are NaN.
    part : Cells
        Over attributes only.
    seed : int
        The same seed gives the same bytes, whatever else is estimated.

    Raises
    ------
    ConfigError
        If the metric needs two classes and there are more.
    DataError
        If the two are not of the same rows.
    """
    metric.check(deployed)
    if reference is not None:
        _check_same_rows(deployed, reference)
    everyone = cell(deployed.schema, {}, {})
    tables = _tables(deployed, part)
    n = tables.sum((2, 3))
    weights = cluster_weights(seed, BUCKETS)
    together = rows_together(n) if deployed.schema.clustered else np.ones(n.shape[1])
    spare = np.random.Generator(np.random.PCG64([seed, BUCKETS, 1])).standard_exponential((2, REPLICATES, 1)) * together
    found = metric.draws(tables, _tables(deployed, everyone), weights, spare)
    if reference is None:
        nothing = np.full_like(found.lower, np.nan)
        other = Draws(np.full_like(found.value, np.nan), np.zeros_like(found.value), nothing, nothing)
    else:
        other = metric.draws(_tables(reference, part), _tables(reference, everyone), weights, spare)
    change = found.value - other.value
    return Estimate(
        n.sum(0).astype(np.int64),
        found.value,
        other.value,
        np.maximum(found.quantisation, other.quantisation),
        f"Bayesian bootstrap of {BUCKETS} random groups of "
        f"{'clusters' if deployed.schema.clustered else 'rows'}, {REPLICATES} replicates",
        _stretched(found.lower, found.value),
        _stretched(found.upper, found.value),
        _stretched(found.lower - other.upper, change, least=-1.0),
        _stretched(found.upper - other.lower, change, least=-1.0),
    )


def _stretched(drawn: Floats, value: Floats, *, least: float = 0.0) -> Floats:
    return np.clip(value + STRETCH * (drawn - value), least, 1.0)


def _check_same_rows(deployed: Scores, reference: Scores) -> None:
    """Refuse histograms whose rows differ; with many classes labels (right or wrong) may."""
    same = deployed.schema == reference.schema
    if same:
        axes = tuple(deployed.schema.attributes)
        labels = [None] if len(deployed.schema.classes) > 2 else [0, 1]
        for label in labels:
            first, other = (
                one.sums(axes, None if label is None else one.coordinates["label"] == label)
                for one in (deployed, reference)
            )
            same = same and np.array_equal(first, other)
    if not same:
        raise DataError("the scores of the artifact and of its reference are not of the same rows")


def _tables(scores: Scores, part: Cells) -> Floats:
    """Return rows [buckets, cells, label, bin]."""
    at = scores.coordinates
    levels = tuple(len(scores.schema.levels(axis)) for axis in part.axes)
    shape = (BUCKETS, *levels, 2, BINS)
    flat = np.ravel_multi_index(tuple(at[axis] for axis in ("bucket", *part.axes, "label", "bin")), shape)
    every = np.bincount(flat, weights=scores.counts.astype(float), minlength=int(np.prod(shape))).astype(float)
    return every.reshape(BUCKETS, -1, 2, BINS)[:, part.keep]


def _defined(value: Floats) -> float | None:
    return None if np.isnan(value[0]) else float(value[0])


def _calibration(tables: Floats, everyone: Floats, weights: Floats, spare: Floats) -> Draws:
    """Expected calibration error of 10 equal-width bins (Naeini et al. 2015, eq. 3): |positives - sum of scores| / n.

    A sum of absolute values is biased upwards, and a bootstrap doubles that; lower bounds, of a value and on the
    reference's side of a change, allow for it by
    ``|error(estimate) - error(truth)| <= sum over bins of |estimate - truth|``.
    """
    buckets, cells = tables.shape[:2]
    off = (tables[:, :, 1] - tables.sum(2) * CENTRES).reshape(buckets, cells, ECE_BINS, -1).sum(-1)
    n = tables.sum((2, 3))
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = off.sum(0) / n.sum(0)[:, None]
        value = np.abs(mean).sum(-1)
        gaps, rows = (weights @ off.reshape(buckets, -1)).reshape(len(weights), cells, ECE_BINS), weights @ n
        total, more = np.abs(gaps).sum(-1), rows + spare[0]
        deviation = (np.abs(gaps - rows[..., None] * mean).sum(-1) + spare[0]) / more
        quantisation = np.where(np.isnan(value), np.nan, 0.5 / BINS)
        return Draws(value, quantisation, value - deviation, (total + spare[0]) / more)


def _auc(positives: Floats, negatives: Floats, weights: Floats, spare: Floats) -> Draws:
    """P(a positive scores higher than a negative) of counts [buckets, cells, bin]; equal bins count half.

    One more positive and one more negative lose, or win, every comparison.
    """
    below = np.cumsum(negatives, axis=-1) - negatives / 2
    pairs = np.einsum("bcs,dcs->cbd", positives, below, optimize=True)
    ties = np.einsum("cs,cs->c", positives.sum(0), negatives.sum(0))
    p, n = positives.sum(-1), negatives.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        every = p.sum(0) * n.sum(0)
        value, quantisation = pairs.sum((1, 2)) / every, ties / every / 2
        won = np.einsum("rcd,rd->rc", np.einsum("rb,cbd->rcd", weights, pairs, optimize=True), weights, optimize=True)
        p, n = weights @ p, weights @ n
        more = (p + spare[0]) * (n + spare[1])
        undefined = np.where(every > 0, 0.0, np.nan)
        low, high = won / more + undefined, (more - (p * n - won)) / more + undefined
        return Draws(value, quantisation, low, high)


expected_calibration_error = ScoreMetric(
    "expected_calibration_error", "expected calibration error", _calibration, binary=False
)
area_under_curve = ScoreMetric(
    "area_under_curve",
    "area under the ROC curve",
    lambda tables, _, weights, spare: _auc(tables[:, :, 1], tables[:, :, 0], weights, spare),
)
cross_area_under_curve = ScoreMetric(
    "cross_area_under_curve",
    "cross area under the ROC curve",
    lambda tables, everyone, weights, spare: _auc(tables[:, :, 1], everyone[:, :, 0] - tables[:, :, 0], weights, spare),
)

SCORES: dict[str, ScoreMetric] = {
    one.name: one for one in (expected_calibration_error, area_under_curve, cross_area_under_curve)
}
