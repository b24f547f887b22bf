"""Where to start from when no gate is set: the smallest margins that the rows at hand can prove."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from fairdeploy.evidence import Tally
from fairdeploy.evidence.plans import Assumptions, plan_rule
from fairdeploy.evidence.records import Group, Reference
from fairdeploy.gates import Condition, Rule

TWO_CLASSES: tuple[tuple[str, Condition], ...] = (
    ("true_positive_rate", "max_drop"),
    ("false_positive_rate", "max_increase"),
)
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


def provable_margins(tallies: Mapping[Reference, Tally]) -> tuple[Margin, ...]:
    """Return margins to start from, at the planner's power, if in truth nothing changed.

    They take for granted that predictions flip as often as they did in these rows.
    """
    return tuple(
        _margin(tally, against, metric, condition)
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
        metric, condition, against, None if margin is None else math.ceil(margin * 1000) / 1000, weakest.group,
        weakest.rows_available,
    )  # fmt: skip
