"""Change of a rate where the reference saw other rows: two independent samples, several times wider than paired ones.

Each side's counts are divided by its own design effect. Where the same clusters (people) stand on both sides their
rates rise and fall together, so that taking the sides as independent is cautious.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairdeploy.errors import DataError
from fairdeploy.evidence.cells import Cells, cells
from fairdeploy.evidence.clusters import EffectiveRate, effective_rate
from fairdeploy.evidence.intervals import Floats, Pair
from fairdeploy.evidence.metrics import RATES, RateMetric
from fairdeploy.evidence.records import Reference, Shift
from fairdeploy.evidence.shown import CONFIDENCE, interval
from fairdeploy.evidence.tally import Tally
from fairdeploy.evidence.two_samples import difference_bounds, ratio_bounds, score_difference

METHOD = "Miettinen-Nurminen, unpaired"
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class UnpairedChange:
    """Rates of the deployed artifact and of its reference on rows of their own, per cell; arrays [cells].

    Attributes
    ----------
    deployed_rate, reference_rate : EffectiveRate
    """

    deployed_rate: EffectiveRate
    reference_rate: EffectiveRate

    @property
    def n(self) -> Ints:
        """Rows in the deployed denominator, not divided by the design effect."""
        return self.deployed_rate.n

    @property
    def reference_n(self) -> Ints:
        """Rows in the reference's denominator, not divided by the design effect."""
        return self.reference_rate.n

    @property
    def deployed(self) -> Floats:
        """Deployed rate; NaN without rows."""
        return _rate(self.deployed_rate)

    @property
    def reference(self) -> Floats:
        """Reference's rate; NaN without rows."""
        return _rate(self.reference_rate)

    @property
    def change(self) -> Floats:
        """Deployed minus reference, so a fall is negative; NaN where a side has no rows."""
        return self.deployed - self.reference

    @property
    def ratio(self) -> Floats:
        """Deployed divided by reference; NaN where a side has no rows or the reference's rate is 0."""
        quotient: Floats = np.divide(
            self.deployed, self.reference, out=np.full(len(self.n), np.nan), where=self.reference > 0
        )
        return quotient

    @property
    def notes(self) -> tuple[str, ...]:
        """What to append to the name of the method, per cell: of the side that has more to say."""
        both = zip(self.deployed_rate.notes, self.reference_rate.notes, strict=True)
        return tuple(max(pair, key=len) for pair in both)

    def interval(self, confidence: float) -> Pair:
        """Two-sided score interval of the change (Miettinen and Nurminen 1985), for showing."""
        return score_difference(*self._counts(), confidence)

    def bounds(self, one_sided_confidence: float) -> Pair:
        """One-sided bounds of the change that a gate may rely on (`difference_bounds`); [-1, 1] without rows."""
        return difference_bounds(*self._counts(), one_sided_confidence)

    def ratio_bounds(self, one_sided_confidence: float) -> Pair:
        """One-sided bounds of the ratio that a gate may rely on (`two_samples.ratio_bounds`)."""
        return ratio_bounds(*self._counts(), one_sided_confidence)

    def _counts(self) -> tuple[Floats, Floats, Floats, Floats]:
        ours, theirs = self.deployed_rate, self.reference_rate
        return (
            ours.successes / ours.effect,
            ours.n / ours.effect,
            theirs.successes / theirs.effect,
            theirs.n / theirs.effect,
        )


def unpaired_changes(deployed: Tally, reference: Tally, metric: RateMetric, part: Cells) -> UnpairedChange:
    """Compare the deployed predictions of one tally with the reference's predictions of another.

    Parameters
    ----------
    deployed : Tally
        Its deployed predictions are read.
    reference : Tally
        Of other rows; its reference predictions are read.
    metric : RateMetric
    part : Cells
        Cells to compare, of `deployed`'s schema.

    Raises
    ------
    DataError
        If the two tallies count different groups, contexts or classes.
    ConfigError
        If the metric needs two classes and there are more.
    """
    _check_comparable(deployed, reference)
    ours, theirs = (metric.counts(tally, part.axes) for tally in (deployed, reference))
    return UnpairedChange(
        effective_rate(part.take(ours.deployed), part.take(ours.n), clustered=deployed.schema.clustered),
        effective_rate(part.take(theirs.reference), part.take(theirs.n), clustered=reference.schema.clustered),
    )


def unpaired_records(deployed: Tally, reference: Tally, against: Reference) -> tuple[Shift, ...]:
    """State the unpaired change of every rate in every cell; raises as `unpaired_changes`."""
    binary = len(deployed.schema.classes) == 2
    found = []
    for part in cells(deployed, contexts=True, intersections=True):
        for metric in (one for one in RATES.values() if binary or not one.binary):
            change = unpaired_changes(deployed, reference, metric, part)
            lower, upper = change.interval(CONFIDENCE)
            for at, (group, context) in enumerate(zip(part.groups, part.contexts, strict=True)):
                known = not np.isnan(change.change[at])
                found.append(
                    Shift(
                        metric=metric.name,
                        against=against,
                        group=group,
                        context=context,
                        n=int(change.n[at]),
                        reference=float(change.reference[at]) if change.reference_n[at] else None,
                        deployed=float(change.deployed[at]) if change.n[at] else None,
                        change=float(change.change[at]) if known else None,
                        paired=False,
                        interval=interval(lower[at], upper[at], METHOD + change.notes[at]) if known else None,
                    )
                )
    return tuple(found)


def check_unpaired(tallies: Mapping[Reference, Tally], unpaired: Mapping[Reference, Tally]) -> None:
    """Refuse tallies in which anything but the labels or the reference's own predictions could be taken for a pair.

    Raises
    ------
    DataError
        If a reference has no tally of the deployed predictions, that tally holds other references than the labels, the
        reference's tally holds other predictions than its own, or the two count other groups, contexts or classes.
    """
    for name, reference in unpaired.items():
        if name not in tallies:
            raise DataError(
                f"the {name} saw other rows, but there is no tally of the deployed predictions to go with it"
            )
        at, own = tallies[name].coordinates, reference.coordinates
        _check_comparable(tallies[name], reference)
        if (at["reference"] != at["label"]).any():
            raise DataError(f"the {name} saw other rows, so in the deployed tally the labels stand in its place")
        if (own["reference"] != own["deployed"]).any():
            raise DataError(f"the tally of the {name}'s own rows holds its predictions twice, as deployed ones, too")


def _check_comparable(deployed: Tally, reference: Tally) -> None:
    ours, theirs = deployed.schema, reference.schema
    for what in ("attributes", "contexts", "classes"):
        if getattr(ours, what) != getattr(theirs, what):
            raise DataError(
                f"the reference's tally has other {what} than the deployed one's: {getattr(theirs, what)}, not "
                f"{getattr(ours, what)}; count both with the same schema"
            )


def _rate(side: EffectiveRate) -> Floats:
    rate: Floats = np.divide(side.successes, side.n, out=np.full(len(side.n), np.nan), where=side.n > 0)
    return rate
