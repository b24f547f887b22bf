"""What a network does to each group, and whether two ways of pruning differ in it.

All but the threshold-free quantities come from a *table*: rows by cluster, group, label and prediction. A record holds
its own table, so that two arms are compared from their committed rows alone. Rows without a group stand last; a group
without negatives (presence) is held against those that belong to no group.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fair_data import Split, Task
from numpy.typing import NDArray
from scipy import stats

from fairdeploy.errors import DataError
from fairdeploy.evidence.resampling import cluster_weights

THRESHOLD = 0.5
COMMON_FPR = 0.07
PERMUTATIONS = 100
CONFIDENCE = 0.95
EQUAL = " if equal"
GAPS = ("equalized_odds_difference", "true_positive_rate_gap", "demographic_parity_difference", "gap_at_common_fpr")

Floats = NDArray[np.float64]
Record = Mapping[str, Any]


def records(scores: Mapping[str, Floats], split: Split, task: Task, *, dense: str) -> dict[str, Record]:
    """Describe networks by what they say of the same rows.

    Parameters
    ----------
    scores : dict of str to array [n]
        Each network's probabilities of class 1; `THRESHOLD` and more is a yes.
    split : Split
    task : Task
    dense : str
        The network that drops are counted from.

    Returns
    -------
    dict of str to dict
        Per network a flat record: `quantities`; ``auc:GROUP`` and the worst; ``gap_at_common_fpr``, the gap in true
        positive rates with a threshold for each group that lets `COMMON_FPR` of its negatives pass; each of `GAPS`
        once more with ``" if equal"``, its mean when groups are exchanged at random within scene and label; and
        ``table``. What is not defined is left out.

    Raises
    ------
    DataError
        If scores are not a probability for each row; names the network.
    """
    for name, said in scores.items():
        if np.shape(said) != (len(split),) or not np.all((said >= 0) & (said <= 1)):
            raise DataError(f"scores of '{name}': one probability for each of the {len(split)} rows is needed")
    if dense not in scores:
        raise DataError(f"no scores of the dense network '{dense}': there are {', '.join(scores)}")
    exchanged = _exchanged(split)
    reference = table(scores[dense] >= THRESHOLD, split, task)
    return {name: _record(np.asarray(said), split, task, reference, exchanged) for name, said in scores.items()}


def table(yes: NDArray[np.bool_], split: Split, task: Task) -> Floats:
    """Count rows: array [clusters, groups and none, label, prediction]."""
    shape = (task.clusters, len(task.groups) + 1, 2, 2)
    groups = np.where(split.groups < 0, len(task.groups), split.groups)
    place = np.ravel_multi_index((split.clusters, groups, split.labels, yes.astype(np.int64)), shape)
    return np.bincount(place, minlength=int(np.prod(shape))).reshape(shape).astype(float)


def quantities(counted: Floats, groups: Sequence[str], dense: Floats) -> dict[str, Floats]:
    """Return everything that follows from counts.

    Parameters
    ----------
    counted, dense : array [..., groups and none, label, prediction]
        Of the network and of the dense one, on the same rows.
    groups : sequence of str

    Returns
    -------
    dict of str to array [...]
        NaN where a group has no rows of a label that the quantity needs. ``excess_drop`` is a group's loss of accuracy
        beyond that of all groups; ``worst`` the largest of its kind. A group's accuracy is that of its own rows.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        known, rows = counted[..., : len(groups), :, :], counted.sum(-1)
        fpr, tpr = np.moveaxis(known[..., 1] / rows[..., : len(groups), :], -1, 0)
        everyone = counted[..., 1].sum(-2) / rows.sum(-2)
        share = np.where(np.isnan(fpr + tpr), np.nan, known[..., 1].sum(-1) / known.sum((-1, -2)))
        accuracy, before = (_accuracy(one[..., : len(groups), :, :]) for one in (counted, dense))
        lost = before - accuracy
        of_all = _accuracy(dense[..., : len(groups), :, :].sum(-3)) - _accuracy(known.sum(-3))
        excess = lost - of_all[..., None]
        found = {
            "accuracy": _accuracy(counted.sum(-3)),
            "accuracy_lost": _accuracy(dense.sum(-3)) - _accuracy(counted.sum(-3)),
            "balanced_accuracy": (1 - everyone[..., 0] + everyone[..., 1]) / 2,
            "worst_group_accuracy": accuracy.min(-1),
            "worst_true_positive_rate": tpr.min(-1),
            "worst_accuracy_lost": lost.max(-1),
            "worst_excess_drop": excess.max(-1),
            "equalized_odds_difference": np.maximum(np.ptp(tpr, -1), np.ptp(fpr, -1)),
            "true_positive_rate_gap": np.ptp(tpr, -1),
            "demographic_parity_difference": np.ptp(share, -1),
        }
    each = {"accuracy": accuracy, "tpr": tpr, "fpr": fpr, "excess_drop": excess}
    for name, values in each.items():
        found |= {f"{name}:{group}": values[..., place] for place, group in enumerate(groups)}
    return found


@dataclass(frozen=True)
class Comparison:
    """The difference, first arm minus second, in one quantity: mean over seeds, and two 95 % intervals.

    Attributes
    ----------
    quantity : str
    seeds : int
    first, second, difference : float
    clusters : (float, float), optional
        Over clusters, which weigh the same in every seed that has them; None for what tables do not tell.
    over_seeds : (float, float), optional
        Student's t; None with one seed.
    clear : bool
        Whether both intervals are there and neither holds 0.
    """

    quantity: str
    seeds: int
    first: float
    second: float
    difference: float
    clusters: tuple[float, float] | None
    over_seeds: tuple[float, float] | None
    clear: bool


def compare(
    first: Sequence[Record], second: Sequence[Record], dense: Sequence[Record], *, task: Task, seed: int = 0
) -> dict[str, Comparison]:
    """Compare two arms over seeds, paired by rows.

    Parameters
    ----------
    first, second, dense : sequence of dict
        Records of one network per seed, in the same order of seeds.
    task : Task
    seed : int
        Of the bootstrap.

    Returns
    -------
    dict of str to Comparison
        By quantity, for each that all records of both arms have.

    Raises
    ------
    DataError
        If there are no records, or those of a seed are not of the same rows.
    """
    if not first or not len(first) == len(second) == len(dense):
        raise DataError(
            f"compare: {len(first)}, {len(second)} and {len(dense)} records: one of each per seed is needed"
        )
    drawn: dict[str, Floats] = {}
    for place, several in enumerate(zip(first, second, dense, strict=True)):
        tables = [unpack(one["table"], task) for one in several]
        if not all(np.array_equal(one.sum(-1), tables[0].sum(-1)) for one in tables):
            raise DataError(f"compare: the records of seed number {place} are not of the same rows")
        one, other, reference = _resampled(tables, seed)
        whose = [quantities(arm, task.groups, reference) for arm in (one, other)]
        for name in whose[0]:
            drawn[name] = drawn.get(name, 0) + (whose[0][name] - whose[1][name]) / len(first)
    names = [name for name, value in first[0].items() if isinstance(value, float) and not name.endswith(EQUAL)]
    shared = [name for name in names if all(name in one for one in (*first, *second))]
    return {
        name: _comparison(
            name, np.array([one[name] for one in first]), np.array([one[name] for one in second]), drawn.get(name)
        )
        for name in shared
    }


def pack(counted: Floats) -> str:
    """Write a table as text."""
    return base64.b64encode(zlib.compress(counted.astype("<u4").tobytes(), 9)).decode()


def unpack(text: str, task: Task) -> Floats:
    """Read what `pack` wrote.

    Raises
    ------
    DataError
        If it is not a table of this task.
    """
    try:
        counted = np.frombuffer(zlib.decompress(base64.b64decode(text)), "<u4")
        return counted.reshape(task.clusters, len(task.groups) + 1, 2, 2).astype(float)
    except (ValueError, zlib.error) as error:
        raise DataError(f"a record's table is not one of the task '{task.name}': {error}") from error


def _record(said: Floats, split: Split, task: Task, dense: Floats, exchanged: NDArray[np.int64]) -> Record:
    counted = table(said >= THRESHOLD, split, task)
    found = {name: float(value) for name, value in quantities(counted.sum(0), task.groups, dense.sum(0)).items()}
    aucs = {f"auc:{group}": auc for group, auc in zip(task.groups, _aucs(said, split, task), strict=True)}
    found |= {**aucs, "worst_auc": min(aucs.values()), "gap_at_common_fpr": _gap_at_common_fpr(said, split, task)}
    equal = [_gaps(said[order], split, task) for order in exchanged]
    found |= {f"{name}{EQUAL}": float(np.mean([one[name] for one in equal])) for name in GAPS}
    return {**{name: value for name, value in found.items() if not np.isnan(value)}, "table": pack(counted)}


def _accuracy(counted: Floats) -> Floats:
    share: Floats = (counted[..., 0, 0] + counted[..., 1, 1]) / counted.sum((-1, -2))
    return share


def _exchanged(split: Split) -> NDArray[np.int64]:
    """Return orders of the rows [permutations, n], each shuffling the rows of known group in a scene and label."""
    random = np.random.default_rng(0)
    known = np.flatnonzero(split.groups >= 0)
    stratum = 2 * split.scenes[known] + split.labels[known]
    there = known[np.argsort(stratum, kind="stable")]
    orders = np.tile(np.arange(len(split)), (PERMUTATIONS, 1))
    for order in orders:
        order[there] = known[np.lexsort((random.random(len(known)), stratum))]
    return orders


def _gaps(said: Floats, split: Split, task: Task) -> dict[str, float]:
    counted = table(said >= THRESHOLD, split, task).sum(0)
    found = quantities(counted, task.groups, counted)
    return {name: float(found[name]) for name in GAPS[:-1]} | {GAPS[-1]: _gap_at_common_fpr(said, split, task)}


def _sides(said: Floats, split: Split, task: Task) -> list[tuple[Floats, Floats]]:
    """Return the scores of each group's negatives and positives, sorted; where it has none, of those in no group."""
    sides = []
    for group in range(len(task.groups)):
        one, zero = (said[(split.groups == group) & (split.labels == label)] for label in (1, 0))
        nobody = said[(split.groups < 0) & (split.labels == 0)]
        sides.append((np.sort(zero if len(zero) else nobody), np.sort(one)))
    return sides


def _aucs(said: Floats, split: Split, task: Task) -> list[float]:
    """Return each group's share of pairs in which the positive scores higher; of a tie half (Mann and Whitney)."""
    found = []
    for negatives, positives in _sides(said, split, task):
        below = np.searchsorted(negatives, positives, "left") + np.searchsorted(negatives, positives, "right")
        found.append(
            float(below.sum() / (2 * len(negatives) * len(positives))) if below.size and len(negatives) else np.nan
        )
    return found


def _gap_at_common_fpr(said: Floats, split: Split, task: Task) -> float:
    """Return the gap in true positive rates at one false positive rate; equal scores pass in part."""
    rates = []
    for negatives, positives in _sides(said, split, task):
        if not len(negatives) or not len(positives):
            return np.nan
        threshold = negatives[len(negatives) - 1 - int(COMMON_FPR * len(negatives))]
        above = [1 - np.searchsorted(one, threshold, "right") / len(one) for one in (negatives, positives)]
        tied = [np.mean(one == threshold) for one in (negatives, positives)]
        rates.append(above[1] + (COMMON_FPR - above[0]) / tied[0] * tied[1])
    return float(np.ptp(rates))


def _resampled(tables: Sequence[Floats], seed: int) -> list[Floats]:
    """Draw tables [replicates, groups and none, label, prediction] by weighing clusters; labels keep their totals."""
    weights = cluster_weights(seed, len(tables[0]))
    drawn = [np.tensordot(weights, one, 1) for one in tables]
    kept = tables[0].sum((0, 1, 3)) / np.maximum(drawn[0].sum((1, 3)), 1e-300)
    return [one * kept[:, None, :, None] for one in drawn]


def _comparison(name: str, first: Floats, second: Floats, drawn: Floats | None) -> Comparison:
    tail = (1 - CONFIDENCE) / 2
    differences = first - second
    clusters = over_seeds = None
    if drawn is not None:
        lower, upper = np.quantile(drawn, (tail, 1 - tail))
        clusters = (float(lower), float(upper))
    if len(differences) > 1:
        half = stats.t.ppf(1 - tail, len(differences) - 1) * stats.sem(differences)
        over_seeds = (float(differences.mean() - half), float(differences.mean() + half))
    clear = all(one is not None and (one[0] > 0 or one[1] < 0) for one in (clusters, over_seeds))
    means = (float(first.mean()), float(second.mean()), float(differences.mean()))
    return Comparison(name, len(differences), *means, clusters, over_seeds, clear)
