"""Where to start from when no gate is set: the smallest margins that the rows at hand can prove."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from fairdeploy.evidence import Tally
from fairdeploy.evidence.cells import cells
from fairdeploy.evidence.metrics import RATES
from fairdeploy.evidence.plans import Assumptions, plan_rule
from fairdeploy.evidence.records import Group, Reference
from fairdeploy.evidence.two_samples import difference_bounds
from fairdeploy.evidence.unpaired import unpaired_changes
from fairdeploy.gates import Condition, Rule

TWO_CLASSES: tuple[tuple[str, Condition], ...] = (
    ("true_positive_rate", "max_drop"),
    ("false_positive_rate", "max_increase"),
)
NOTHING: Mapping[Reference, Tally] = MappingProxyType({})
MORE_CLASSES: tuple[tuple[str, Condition], ...] = (("accuracy", "max_drop"),)


@dataclass(frozen=True)
class Margin:
    """The smallest margin of a change that can be proven in every group, rounded up to a tenth of a point.

    `group` is the one that needs it to be so large, with its `rows`; `margin` is None where none can be proven there.
    """

    metric: str
    condition: Condition
    against: Reference
    margin: float | None
    group: Group
    rows: int


def provable_margins(
    tallies: Mapping[Reference, Tally], unpaired: Mapping[Reference, Tally] = NOTHING
) -> tuple[Margin, ...]:
    """Return margins to start from, at the planner's power, if in truth nothing changed.

    They take for granted that predictions flip as often as they did in these rows; where the reference saw other rows,
    that every cell has the reference's rate there.
    """
    return tuple(
        _unpaired_margin(tally, unpaired[against], against, metric, condition)
        if against in unpaired
        else _margin(tally, against, metric, condition)
        for against, tally in tallies.items()
        for metric, condition in (TWO_CLASSES if len(tally.schema.classes) == 2 else MORE_CLASSES)
    )


def _margin(tally: Tally, against: Reference, metric: str, condition: Condition) -> Margin:
    flipped = int(tally.counts[tally.coordinates["reference"] != tally.coordinates["deployed"]].sum())
    assumed = Assumptions(flip_rate=(flipped + 1) / (tally.rows + 2))
    rule = Rule(metric=metric, condition=condition, bound=0.01, against=against)  # the margin does not depend on it
    planned = plan_rule(rule, tally, assumptions=assumed)
    weakest = max(planned, key=lambda row: 1.0 if row.smallest_margin is None else row.smallest_margin)
    margin = weakest.smallest_margin
    return Margin(
        metric, condition, against, _rounded(margin), weakest.group,
        weakest.rows_available,
    )  # fmt: skip


def _unpaired_margin(
    deployed: Tally, reference: Tally, against: Reference, metric: str, condition: Condition
) -> Margin:
    """Return the gate's own bound of the weakest cell at an outcome so unlucky that the planner's power excludes it."""
    from scipy.special import ndtri

    rule = Rule(metric=metric, condition=condition, bound=0.01, against=against)
    parts = [*cells(deployed, contexts=False, intersections=False)]
    groups, sign = sum(len(part.groups) for part in parts), -1 if condition == "max_drop" else 1
    reach = float(ndtri(1 - (1 - Assumptions().power) / groups))
    found: list[tuple[float, Group, int]] = []
    for part in parts:
        change = unpaired_changes(deployed, reference, RATES[metric], part)
        ours, theirs = change.deployed_rate, change.reference_rate
        n, m = ours.n / ours.effect, theirs.n / theirs.effect
        rate = (theirs.successes + 1) / (theirs.n + 2)
        error = np.sqrt(rate * (1 - rate) * (1 / np.maximum(n, 1e-9) + 1 / np.maximum(m, 1e-9)))
        unlucky = np.clip(rate + sign * reach * error, 0, 1)
        lower, upper = difference_bounds(unlucky * n, n, rate * m, m, rule.confidence)
        needed = -lower if condition == "max_drop" else upper
        found += zip(needed.tolist(), part.groups, ours.n.tolist(), strict=True)
    margin, group, rows = max(found, key=lambda one: one[0])
    return Margin(metric, condition, against, _rounded(margin), group, rows)


def _rounded(margin: float | None) -> float | None:
    """Round up to a tenth of a point; None where nothing below 1 is left."""
    return None if margin is None or margin > 0.999 else math.ceil(margin * 1000) / 1000
