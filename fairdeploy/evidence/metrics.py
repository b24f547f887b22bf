"""Metrics as functions of a tally, under the field's names and in fairlearn's convention.

A rate is an indicator on (label, prediction) over the rows that its denominator admits. A gap is the largest rate of
an attribute's levels minus the smallest, or the smallest divided by the largest; equalized odds takes the worse of two
gaps. A level without denominator leaves a gap undefined (None), never 0, and so does a ratio of zeros; only ``unknown``
is passed over, and only when it has no rows at all. What is no sum over rows is in `fairdeploy.evidence.statistics`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairdeploy.errors import ConfigError
from fairdeploy.evidence.cells import Outcomes, cell
from fairdeploy.evidence.statistics import Statistic, balanced_accuracy, positive_predictive_value
from fairdeploy.evidence.tally import UNKNOWN, Tally

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class PairedCounts:
    """Counts of one metric per bucket and level, each an int64 array [buckets, levels, ...].

    `n` is the denominator; `reference` and `deployed` count rows whose indicator is 1; `lost` those where it fell
    from 1 (reference) to 0 (deployed), `gained` the reverse.
    """

    n: Ints
    reference: Ints
    deployed: Ints
    lost: Ints
    gained: Ints

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of the arrays."""
        return tuple(cls.__dataclass_fields__)

    def map(self, change: Callable[[Ints], Ints]) -> PairedCounts:
        """Apply a function to each of the arrays."""
        return PairedCounts(*(change(getattr(self, name)) for name in self.names()))


@dataclass(frozen=True)
class RateMetric:
    """A rate; call it on a tally for its value.

    Attributes
    ----------
    name, words : str
        As in configuration files, and as in sentences.
    indicator : callable
        ``(labels, predictions) -> bool array``.
    denominator : callable
        ``labels -> bool array``: the rows that count.
    binary : bool
        Whether it needs two classes; class 1 is the positive one.
    """

    name: str
    words: str
    indicator: Callable[[Ints, Ints], Bools]
    denominator: Callable[[Ints], Bools]
    binary: bool = True

    def __call__(
        self,
        tally: Tally,
        group: Mapping[str, str] | None = None,
        *,
        context: Mapping[str, str] | None = None,
        of: str = "deployed",
    ) -> float | None:
        """Return the rate of the ``deployed`` or the ``reference`` predictions, None without denominator."""
        part = cell(tally.schema, group or {}, context or {})
        counts = self.counts(tally, part.axes).map(part.take)
        n = counts.n.sum()
        return float(getattr(counts, of).sum() / n) if n else None

    def counts(self, tally: Tally, axes: Sequence[str] = ()) -> PairedCounts:
        """Count per bucket and level of the given attributes and contexts.

        Raises
        ------
        ConfigError
            If the metric needs two classes and the tally has more.
        """
        if self.binary and len(tally.schema.classes) != 2:
            raise ConfigError(
                f"{self.name} needs two classes, not {len(tally.schema.classes)}: with many classes use accuracy"
            )
        at = tally.coordinates
        columns = self._columns(at["label"], at["reference"], at["deployed"])
        return PairedCounts(*(tally.sums(axes, column) for column in columns))

    def within(self, found: Outcomes) -> PairedCounts:
        """Count in cells whose outcomes are counted already, as arrays [buckets, cells]."""
        columns = np.stack(self._columns(found.label, found.reference, found.deployed)).astype(float)
        return PairedCounts(*np.moveaxis(found.counts @ columns.T, -1, 0).astype(np.int64))

    def _columns(self, label: Ints, reference: Ints, deployed: Ints) -> tuple[Bools, ...]:
        """Return what one row adds to each of the arrays of `PairedCounts`."""
        admitted = self.denominator(label)
        before = self.indicator(label, reference) & admitted
        after = self.indicator(label, deployed) & admitted
        return admitted, before, after, before & ~after, after & ~before


@dataclass(frozen=True)
class GapMetric:
    """The largest gap of some rates over the levels of one attribute; call it on a tally for its value.

    Attributes
    ----------
    name, words : str
    rates : tuple of RateMetric or Statistic
        The worst of their gaps counts.
    ratio : bool
        Smallest / largest rate, which a gate bounds by `min`; else largest - smallest, bounded by `max`.
    """

    name: str
    words: str
    rates: tuple[RateMetric | Statistic, ...]
    ratio: bool = False

    @property
    def binary(self) -> bool:
        """Whether it needs two classes."""
        return any(rate.binary for rate in self.rates)

    def __call__(self, tally: Tally, attribute: str, *, of: str = "deployed") -> float | None:
        """Return the gap of one network's predictions; None where it is undefined."""
        levels = present_levels(tally, attribute)
        gaps = []
        for metric in self.rates:
            rates = [metric(tally, {attribute: level}, of=of) for level in levels]
            known = [rate for rate in rates if rate is not None]
            if len(known) < len(levels) or len(levels) < 2 or (self.ratio and not max(known)):
                return None
            gaps.append(min(known) / max(known) if self.ratio else max(known) - min(known))
        return min(gaps) if self.ratio else max(gaps)


@dataclass(frozen=True)
class FlipMetric:
    """The share of all rows whose prediction differs from the reference's, all or in one direction."""

    name: str
    words: str
    indicator: Callable[[Ints, Ints], Bools]
    binary: bool = True

    def counts(self, tally: Tally, axes: Sequence[str] = ()) -> tuple[Ints, Ints]:
        """Return (flipped rows, all rows), each [buckets, levels, ...]."""
        at = tally.coordinates
        if self.binary and len(tally.schema.classes) != 2:
            raise ConfigError(f"{self.name} needs two classes, not {len(tally.schema.classes)}: use flip_rate")
        return tally.sums(axes, self.indicator(at["reference"], at["deployed"])), tally.sums(axes)

    def within(self, found: Outcomes) -> PairedCounts:
        """Count in cells whose outcomes are counted already, as arrays [buckets, cells]; the reference never flips."""
        flipped = self.indicator(found.reference, found.deployed)
        n, hits = (found.counts @ one.astype(float) for one in (np.ones(len(flipped)), flipped))
        none = np.zeros(n.shape, np.int64)
        return PairedCounts(n.astype(np.int64), none, hits.astype(np.int64), none, hits.astype(np.int64))


def worst_group_accuracy(tally: Tally, attribute: str) -> float | None:
    """Return the smallest accuracy of an attribute's levels; None if a declared level has no rows."""
    rates = [accuracy(tally, {attribute: level}) for level in present_levels(tally, attribute)]
    known = [rate for rate in rates if rate is not None]
    return min(known) if len(known) == len(rates) else None


def present_levels(tally: Tally, attribute: str) -> tuple[str, ...]:
    """Return every declared level, and ``unknown`` if it has rows."""
    levels = tally.schema.levels(attribute)
    return levels if tally.sums((attribute,)).sum(0)[-1] else levels[:-1]


def words(group: Mapping[str, str]) -> str:
    """Name a group in a sentence: ``{"skin_tone": "VI"}`` is "skin tone VI", ``{}`` is "everyone"."""
    parts = []
    for axis, level in group.items():
        name = axis.replace("_", " ")
        parts.append(
            f"all levels of {name}" if level == ALL else f"unknown {name}" if level == UNKNOWN else f"{name} {level}"
        )
    return " and ".join(parts) or "everyone"


ALL = "*"  # a cell over all levels of an attribute


def _all(label: Any) -> Bools:
    return np.ones(len(label), dtype=bool)


accuracy = RateMetric("accuracy", "accuracy", lambda label, prediction: prediction == label, _all, binary=False)
true_positive_rate = RateMetric(
    "true_positive_rate", "true positive rate", lambda _, prediction: prediction == 1, lambda label: label == 1
)
false_positive_rate = RateMetric(
    "false_positive_rate", "false positive rate", lambda _, prediction: prediction == 1, lambda label: label == 0
)
selection_rate = RateMetric("selection_rate", "selection rate", lambda _, prediction: prediction == 1, _all)

true_negative_rate = RateMetric(
    "true_negative_rate", "true negative rate", lambda _, prediction: prediction == 0, lambda label: label == 0
)
false_negative_rate = RateMetric(
    "false_negative_rate", "false negative rate", lambda _, prediction: prediction == 0, lambda label: label == 1
)

demographic_parity_difference = GapMetric(
    "demographic_parity_difference", "demographic parity difference", (selection_rate,)
)
equalized_odds_difference = GapMetric(
    "equalized_odds_difference", "equalized odds difference", (true_positive_rate, false_positive_rate)
)
equal_opportunity_difference = GapMetric(
    "equal_opportunity_difference", "equal opportunity difference", (true_positive_rate,)
)
accuracy_difference = GapMetric("accuracy_difference", "accuracy difference", (accuracy,))
false_positive_rate_difference = GapMetric(
    "false_positive_rate_difference", "false positive rate difference", (false_positive_rate,)
)
predictive_parity_difference = GapMetric(
    "predictive_parity_difference", "predictive parity difference", (positive_predictive_value,)
)
balanced_accuracy_difference = GapMetric(
    "balanced_accuracy_difference", "balanced accuracy difference", (balanced_accuracy,)
)
demographic_parity_ratio = GapMetric(
    "demographic_parity_ratio", "demographic parity ratio", (selection_rate,), ratio=True
)
equalized_odds_ratio = GapMetric(
    "equalized_odds_ratio", "equalized odds ratio", (true_positive_rate, false_positive_rate), ratio=True
)
equal_opportunity_ratio = GapMetric(
    "equal_opportunity_ratio", "equal opportunity ratio", (true_positive_rate,), ratio=True
)
accuracy_ratio = GapMetric("accuracy_ratio", "accuracy ratio", (accuracy,), ratio=True)
false_positive_rate_ratio = GapMetric(
    "false_positive_rate_ratio", "false positive rate ratio", (false_positive_rate,), ratio=True
)
true_negative_rate_ratio = GapMetric(
    "true_negative_rate_ratio", "true negative rate ratio", (true_negative_rate,), ratio=True
)
false_negative_rate_ratio = GapMetric(
    "false_negative_rate_ratio", "false negative rate ratio", (false_negative_rate,), ratio=True
)

flip_rate = FlipMetric("flip_rate", "flip rate", lambda reference, deployed: reference != deployed, binary=False)
flip_rate_to_negative = FlipMetric(
    "flip_rate_to_negative", "rate of flips to negative", lambda reference, deployed: reference > deployed
)
flip_rate_to_positive = FlipMetric(
    "flip_rate_to_positive", "rate of flips to positive", lambda reference, deployed: reference < deployed
)

RATES = {
    m.name: m
    for m in (
        accuracy,
        true_positive_rate,
        false_positive_rate,
        selection_rate,
        true_negative_rate,
        false_negative_rate,
    )
}
GAPS = {
    m.name: m
    for m in (
        demographic_parity_difference,
        equalized_odds_difference,
        equal_opportunity_difference,
        accuracy_difference,
        false_positive_rate_difference,
        predictive_parity_difference,
        balanced_accuracy_difference,
        demographic_parity_ratio,
        equalized_odds_ratio,
        equal_opportunity_ratio,
        accuracy_ratio,
        false_positive_rate_ratio,
        true_negative_rate_ratio,
        false_negative_rate_ratio,
    )
}
FLIPS = {m.name: m for m in (flip_rate, flip_rate_to_negative, flip_rate_to_positive)}
