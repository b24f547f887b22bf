"""Changes that are no sum over paired rows, and reversals between a whole and its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fairdeploy.evidence.cells import Cells, cells
from fairdeploy.evidence.metrics import RATES, RateMetric
from fairdeploy.evidence.records import Change, Reference, Reversal, Shift
from fairdeploy.evidence.resampling import Contrast, Floats, Tables, resample
from fairdeploy.evidence.scores import Scores
from fairdeploy.evidence.shown import CONFIDENCE, estimated, interval
from fairdeploy.evidence.statistics import Estimate, method
from fairdeploy.evidence.tally import Tally

COMPARED = ("accuracy", "true_positive_rate", "false_positive_rate", "selection_rate")
Cell = tuple[tuple[str, str], ...]
EXCESS_DROP, NORMALISED_CHANGE = "_excess_drop", "_normalised_change"


def excess_drop(tally: Tally, metric: RateMetric, part: Cells, *, seed: int) -> Estimate:
    """Estimate by how much more a rate fell in each cell than for everyone (CEAG; Tran et al., ICLR 2024, eq. 3).

    ``(reference - deployed of the cell) - (reference - deployed of everyone)``; its `bounds` are those of that number,
    `reference` and `change_bounds` are NaN.

    Parameters
    ----------
    part : Cells
        Over attributes only, so that its cells together are everyone.
    """
    return _compared(tally, part, (_excess(metric),), seed)[0]


def normalised_change(tally: Tally, metric: RateMetric, part: Cells, *, seed: int) -> Estimate:
    """Estimate ``(deployed - reference) / reference`` of a rate in each cell (Hooker et al. 2020, sec. 3).

    `reference` and `change_bounds` are NaN; undefined where the reference's rate is 0.
    """
    return _compared(tally, part, (_normalised(metric),), seed)[0]


def shift_records(tally: Tally, against: Reference, scores: Mapping[str, Scores], *, seed: int) -> tuple[Shift, ...]:
    """State the change of every statistic and score metric in every cell; excess drops and normalised changes, too."""
    binary = len(tally.schema.classes) == 2
    compared = [RATES[name] for name in COMPARED if binary or not RATES[name].binary]
    deployed = scores.get("deployed") if against in scores else None
    found: list[Shift] = []
    for part in cells(tally, contexts=True, intersections=True):
        for name, estimate in estimated(part, tally, deployed, scores.get(against), seed):
            bounds = estimate.change_bounds((1 + CONFIDENCE) / 2)
            found += _records(name, against, part, estimate, estimate.change, bounds)
        if any(part.contexts) or not part.axes:
            continue
        contrasts = [(one.name + EXCESS_DROP, _excess(one)) for one in compared]
        contrasts += [(one.name + NORMALISED_CHANGE, _normalised(one)) for one in compared]
        numbers = _compared(tally, part, [contrast for _, contrast in contrasts], seed)
        for (name, _), estimate in zip(contrasts, numbers, strict=True):
            found += _records(name, against, part, estimate, estimate.deployed, estimate.bounds((1 + CONFIDENCE) / 2))
    return tuple(found)


def reversal_records(changes: Sequence[Change], shifts: Sequence[Shift]) -> tuple[Reversal, ...]:
    """Find the groups whose number over everything has one sign and within every level of a context the other.

    The paired change of a rate is a mean of those of its parts with the same weights before and after, so it cannot
    reverse. What can: the excess drop of a group, whose rows may lie in other contexts than everyone's, and statistics
    whose denominators move.
    """
    changed = {_place(one): one.change for one in changes}
    numbers = {_place(one): one.change for one in shifts if not one.metric.endswith((EXCESS_DROP, NORMALISED_CHANGE))}
    for (metric, against, group, context), own in changed.items():
        if metric in COMPARED and group:
            everyone = changed[metric, against, (), context]
            drop = None if own is None or everyone is None else everyone - own
            numbers[metric + EXCESS_DROP, against, group, context] = drop
    within: dict[tuple[str, Reference, Cell, str], dict[str, float]] = {}
    for (metric, against, group, context), number in numbers.items():
        for axis, level in context:
            levels = within.setdefault((metric, against, group, axis), {})
            if number is not None:
                levels[level] = number
    found = []
    for (metric, against, group, axis), levels in within.items():
        whole = numbers[metric, against, group, ()]
        if whole and len(levels) > 1 and all(number * whole < 0 for number in levels.values()):
            found.append(
                Reversal(metric=metric, against=against, group=dict(group), context=axis, change=whole, within=levels)
            )
    return tuple(found)


def _place(one: Change | Shift) -> tuple[str, Reference, Cell, Cell]:
    return one.metric, one.against, tuple(one.group.items()), tuple(one.context.items())


def _compared(tally: Tally, part: Cells, contrasts: Sequence[Contrast], seed: int) -> list[Estimate]:
    rows = part.take(tally.sums(part.axes)).sum(0)
    nothing = np.full(len(rows), np.nan)
    return [
        Estimate(
            rows,
            one.value,
            nothing,
            np.zeros(len(rows)),
            method(tally),
            one.lower,
            one.upper,
            np.full_like(one.lower, np.nan),
            np.full_like(one.upper, np.nan),
        )
        for one in resample(tally, part, contrasts, seed=seed)
    ]


def _records(
    metric: str, against: Reference, part: Cells, estimate: Estimate, change: Floats, bounds: tuple[Floats, Floats]
) -> list[Shift]:
    lower, upper = bounds

    def number(values: Floats, at: int) -> float | None:
        return None if np.isnan(values[at]) else float(values[at])

    return [
        Shift(
            metric=metric,
            against=against,
            group=group,
            context=context,
            n=int(estimate.n[at]),
            reference=number(estimate.reference, at),
            deployed=None if np.isnan(estimate.reference[at]) else number(estimate.deployed, at),
            change=number(change, at),
            interval=None if np.isnan(change[at]) else interval(lower[at], upper[at], estimate.method),
            quantisation=0.0 if np.isnan(estimate.quantisation[at]) else float(estimate.quantisation[at]),
        )
        for at, (group, context) in enumerate(zip(part.groups, part.contexts, strict=True))
    ]


def _rate(metric: RateMetric, tables: Floats) -> Floats:
    size = tables.shape[-1]
    label, prediction = (one.ravel() for one in np.indices((size, size)))
    admitted = metric.denominator(label)
    counted = metric.indicator(label, prediction) & admitted
    flat = tables.reshape(*tables.shape[:-2], size * size)
    rate: Floats = (flat @ counted.astype(float)) / (flat @ admitted.astype(float))
    return rate


def _excess(metric: RateMetric) -> Contrast:
    def contrast(tables: Tables) -> Floats:
        own = _rate(metric, tables.reference) - _rate(metric, tables.deployed)
        everyone = _rate(metric, tables.everyone_reference) - _rate(metric, tables.everyone_deployed)
        return own - everyone

    return contrast


def _normalised(metric: RateMetric) -> Contrast:
    def contrast(tables: Tables) -> Floats:
        before = _rate(metric, tables.reference)
        relative: Floats = np.where(before > 0, _rate(metric, tables.deployed) / before - 1, np.nan)
        return relative

    return contrast
