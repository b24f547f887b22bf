"""Changes that are no sum over paired rows, and reversals between a whole and its parts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from fairdeploy.evidence.cells import Cells
from fairdeploy.evidence.metrics import RateMetric
from fairdeploy.evidence.records import Change, Reference, Reversal, Shift
from fairdeploy.evidence.resampling import REPLICATES, Contrast, Floats, Resampled, Tables, resample
from fairdeploy.evidence.statistics import Estimate, method
from fairdeploy.evidence.tally import Tally

COMPARED = ("accuracy", "true_positive_rate", "false_positive_rate", "selection_rate")
Cell = tuple[tuple[str, str], ...]
EXCESS_DROP, NORMALISED_CHANGE = "_excess_drop", "_normalised_change"


def excess_drop(tally: Tally, metric: RateMetric, part: Cells, *, seed: int) -> Estimate:
    """Estimate by how much more a rate fell in each cell than for everyone (CEAG; Hashemizadeh et al. 2024).

    ``(reference - deployed of the cell) - (reference - deployed of everyone)``; its `bounds` are those of that number,
    `reference` and `change_bounds` are NaN.

    Parameters
    ----------
    part : Cells
        Over attributes only, so that its cells together are everyone.
    """
    return lone_estimates(tally, part, resample(tally, part, (excess(metric),), seed=seed))[0]


def normalised_change(tally: Tally, metric: RateMetric, part: Cells, *, seed: int) -> Estimate:
    """Estimate ``(deployed - reference) / reference`` of a rate in each cell (Hooker et al. 2020, sec. 3).

    `reference` and `change_bounds` are NaN; undefined where the reference's rate is 0.
    """
    return lone_estimates(tally, part, resample(tally, part, (normalised(metric),), seed=seed))[0]


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


def lone_estimates(tally: Tally, part: Cells, drawn: Sequence[Resampled]) -> list[Estimate]:
    """Take numbers that were resampled as the `deployed` ones of estimates that have no reference."""
    rows = part.take(tally.sums(part.axes)).sum(0)
    nothing = np.full(len(rows), np.nan)
    none_drawn = np.full((REPLICATES, len(rows)), np.nan)
    return [
        Estimate(
            rows,
            one.value,
            nothing,
            np.zeros(len(rows)),
            method(tally),
            one.lower,
            one.upper,
            none_drawn,
            none_drawn,
        )
        for one in drawn
    ]


def rate_of(metric: RateMetric, tables: Floats) -> Floats:
    """Return a rate of tables [..., label, prediction] as an array [...]; NaN without denominator."""
    hits, misses = _entries(metric, tables.shape[-1])
    successes, failures = (
        np.asarray(sum(tables[..., label, prediction] for label, prediction in one)) for one in (hits, misses)
    )
    rate: Floats = successes / (successes + failures)
    return rate


@lru_cache(maxsize=64)
def _entries(metric: RateMetric, size: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return which (label, prediction) are hits of a rate and which its misses."""
    label, prediction = np.indices((size, size)).reshape(2, -1)
    admitted, hit = metric.denominator(label), metric.indicator(label, prediction)
    hits, misses = (
        list(zip(label[one].tolist(), prediction[one].tolist(), strict=True))
        for one in (admitted & hit, admitted & ~hit)
    )
    return hits, misses


def excess(metric: RateMetric) -> Contrast:
    """Make the contrast of `excess_drop`."""

    def contrast(tables: Tables) -> Floats:
        own = rate_of(metric, tables.reference) - rate_of(metric, tables.deployed)
        everyone = rate_of(metric, tables.everyone_reference) - rate_of(metric, tables.everyone_deployed)
        return own - everyone

    return contrast


def normalised(metric: RateMetric) -> Contrast:
    """Make the contrast of `normalised_change`."""

    def contrast(tables: Tables) -> Floats:
        before = rate_of(metric, tables.reference)
        relative: Floats = np.where(before > 0, rate_of(metric, tables.deployed) / before - 1, np.nan)
        return relative

    return contrast
