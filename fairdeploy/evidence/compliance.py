"""What rules for audits ask beyond a gate: impact ratios, four fifths, and how unequal error rates are.

Computed from the rates that evidence holds, for each attribute and for their intersections. Nothing here decides.

- Impact ratio: a category's selection rate over that of the most selected category (NYC Local Law 144, 6 RCNY 5-301);
  rows whose category is unknown are in none and are counted; a category under 2 % of the rows may be left out of the
  ratios, is left out here, and is listed with its rate.
- Four fifths: a ratio below 4/5 (EEOC, 29 CFR 1607.4 D); it looks at the point and knows no interval.
- Error rates: each group's over the geometric mean, largest over smallest (NIST FRTE part 8, ISO/IEC 19795-10), and
  the Gini coefficient with the factor n / (n - 1) for few groups (GARBE; Howard et al., ICPR workshops 2022).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from fairdeploy.evidence.records import EvidenceRecord, Group, Interval, Rate
from fairdeploy.evidence.tally import UNKNOWN
from fairdeploy.records import Record

SMALL_SHARE = 0.02
FOUR_FIFTHS = 0.8
ERRORS = ("false_negative_rate", "false_positive_rate")


class Category(Record):
    """One category: its share of all rows, its selection rate, and its impact ratio unless it was left out."""

    group: Group
    n: int
    share: float
    selection_rate: float | None
    interval: Interval | None
    impact_ratio: float | None
    below_four_fifths: bool | None
    left_out: bool


class Impact(Record):
    """Impact ratios over one attribute or over the intersections of several; `unknown` rows are in no category."""

    attributes: tuple[str, ...]
    rows: int
    unknown: int
    most_selected: Group | None
    categories: tuple[Category, ...]


class GroupError(Record):
    """One group's error rate, and that rate over the geometric mean of all groups'."""

    group: Group
    n: int
    rate: float | None
    over_geometric_mean: float | None


class Inequity(Record):
    """How unequal one error rate is; None where a group has no denominator, or a rate of 0 leaves it undefined."""

    metric: str
    attributes: tuple[str, ...]
    groups: tuple[GroupError, ...]
    max_over_geometric_mean: float | None
    max_over_min: float | None
    gini: float | None


class Compliance(Record):
    """Everything above for one artifact; empty where the metric needs two classes and there are more."""

    impacts: tuple[Impact, ...]
    inequities: tuple[Inequity, ...]


def compliance(record: EvidenceRecord) -> Compliance:
    """Compute impact ratios and inequities of the deployed predictions from the rates in evidence."""
    axes = dict.fromkeys(_axes(rate) for rate in record.rates if rate.group)
    return Compliance(
        impacts=tuple(
            _impact(names, rates) for names in axes if (rates := _over(record.rates, "selection_rate", names))
        ),
        inequities=tuple(
            _inequity(metric, names, rates)
            for names in axes
            for metric in ERRORS
            if (rates := _over(record.rates, metric, names))
        ),
    )


def _axes(rate: Rate) -> tuple[str, ...]:
    return tuple(sorted(rate.group))


def _over(rates: Iterable[Rate], metric: str, names: tuple[str, ...]) -> list[Rate]:
    """Return one metric's rates over some attributes, and everyone's first."""
    found = [one for one in rates if one.metric == metric and not one.context]
    return [one for one in found if not one.group] + [one for one in found if one.group and _axes(one) == names]


def _impact(names: tuple[str, ...], rates: Sequence[Rate]) -> Impact:
    everyone, *groups = rates
    known = [one for one in groups if UNKNOWN not in one.group.values()]
    share = {id(one): one.n / everyone.n if everyone.n else 0.0 for one in known}
    counted = [one for one in known if one.value is not None and share[id(one)] >= SMALL_SHARE]
    most = max(counted, key=lambda one: one.value or 0.0, default=None)
    categories = []
    for one in known:
        ratio = one.value / most.value if one in counted and most and most.value and one.value is not None else None
        categories.append(
            Category(
                group=one.group,
                n=one.n,
                share=share[id(one)],
                selection_rate=one.value,
                interval=one.interval,
                impact_ratio=ratio,
                below_four_fifths=None if ratio is None else ratio < FOUR_FIFTHS,
                left_out=share[id(one)] < SMALL_SHARE,
            )
        )
    return Impact(
        attributes=names,
        rows=everyone.n,
        unknown=everyone.n - sum(one.n for one in known),
        most_selected=most.group if most else None,
        categories=tuple(categories),
    )


def _inequity(metric: str, names: tuple[str, ...], rates: Sequence[Rate]) -> Inequity:
    known = [one for one in rates if one.group and UNKNOWN not in one.group.values()]
    values = [one.value for one in known if one.value is not None]
    complete = len(values) == len(known) > 1
    mean = math.exp(math.fsum(map(math.log, values)) / len(values)) if complete and min(values) > 0 else None
    return Inequity(
        metric=metric,
        attributes=names,
        groups=tuple(
            GroupError(
                group=one.group,
                n=one.n,
                rate=one.value,
                over_geometric_mean=one.value / mean if mean and one.value is not None else None,
            )
            for one in known
        ),
        max_over_geometric_mean=max(values) / mean if mean else None,
        max_over_min=max(values) / min(values) if mean else None,
        gini=_gini(values) if complete else None,
    )


def _gini(values: Sequence[float]) -> float | None:
    n, total = len(values), math.fsum(values)
    if total == 0:
        return None
    return math.fsum(abs(a - b) for a in values for b in values) / (2 * (n - 1) * total)
