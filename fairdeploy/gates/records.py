"""What gates and verdicts look like on disk."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Literal

from pydantic import Field, model_validator

from fairdeploy.evidence.metrics import FLIPS, GAPS, RATES
from fairdeploy.evidence.records import Group, Level, Reference
from fairdeploy.records import Record

Status = Literal["pass", "fail", "inconclusive", "undefined", "waived"]
Condition = Literal["min", "max", "max_drop", "max_increase", "max_ratio"]
Unit = Literal["rate", "ratio", "ms", "MB", "MiB"]
Kind = Literal["fairness", "latency", "size"]

CHANGES: tuple[Condition, ...] = ("max_drop", "max_increase", "max_ratio")
PLAIN_WORDS = {
    **{metric.name: metric.words for family in (RATES, GAPS, FLIPS) for metric in family.values()},
    "worst_group_accuracy": "accuracy",
    "size_mb": "artifact's size",
    "peak_memory_mb": "peak memory",
}
LATENCY = re.compile(r"latency_p([1-9][0-9]?)_ms")


def conditions_of(metric: str) -> tuple[Condition, ...]:
    """Return the conditions that a metric takes; none for an unknown metric."""
    if metric in RATES:
        return ("min", "max", "max_drop", "max_increase")
    if metric == "worst_group_accuracy":
        return ("min",)
    if LATENCY.fullmatch(metric):
        return ("max", "max_ratio")
    return ("max",) if metric in PLAIN_WORDS else ()


def needs_reference(metric: str, condition: str) -> bool:
    """Say whether a condition is about a change, so that `against` must be said."""
    return condition in CHANGES or metric in FLIPS


class Rule(Record):
    """One condition on one metric.

    Changes (`max_drop`, `max_increase`, `max_ratio`) say what they are measured against. `within` names a context
    within whose levels every group is judged as well, `intersections` adds those of all attributes; `of_class` is the
    class that stands against all others, where there are more than two.
    """

    metric: str
    condition: Condition
    bound: float
    against: Reference | None = None
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    level: Level | None = None
    required: bool = True
    within: str | None = None
    of_class: str | None = None
    intersections: bool = False
    where: str = ""

    @property
    def name(self) -> str:
        """Stable name, as in ``true_positive_rate.max_drop.compact``."""
        parts = (
            self.metric,
            self.condition,
            self.against,
            f"within {self.within}" if self.within else None,
            f"class {self.of_class}" if self.of_class else None,
            "intersections" if self.intersections else None,
        )
        return ".".join(filter(None, parts))

    @property
    def words(self) -> str:
        """The metric as in a sentence."""
        percentile = LATENCY.fullmatch(self.metric)
        words = f"p{percentile[1]} latency" if percentile else PLAIN_WORDS[self.metric]
        return f"{words} (class {self.of_class})" if self.of_class else words

    @property
    def reference_words(self) -> str:
        """What a change is measured against, as in a sentence."""
        return "reference" if self.against == "reference" else f"{self.against} network"

    @property
    def at_least(self) -> bool:
        """Whether the bound is the least that is required, not the most that is allowed."""
        return self.condition == "min"

    @property
    def kind(self) -> Kind:
        """What kind of evidence it needs."""
        if LATENCY.fullmatch(self.metric):
            return "latency"
        return "size" if self.metric in ("size_mb", "peak_memory_mb") else "fairness"

    @property
    def is_fairness(self) -> bool:
        """Whether it is about predictions, not about latency, size or memory."""
        return self.kind == "fairness"

    @property
    def unit(self) -> Unit:
        """Unit of the bound."""
        if self.kind == "latency":
            return "ratio" if self.condition == "max_ratio" else "ms"
        sizes: dict[str, Unit] = {"size_mb": "MB", "peak_memory_mb": "MiB"}
        return sizes.get(self.metric, "rate")

    @model_validator(mode="after")
    def _condition_fits(self) -> Rule:
        if self.condition not in conditions_of(self.metric):
            raise ValueError(f"{self.metric} takes {conditions_of(self.metric)}, not {self.condition}")
        if needs_reference(self.metric, self.condition) != (self.against is not None):
            raise ValueError(f"{self.name}: changes, and only they, say against which reference")
        if self.bound <= 0 or (self.unit == "rate" and self.bound >= 1):
            raise ValueError(f"{self.name}: a bound of {self.bound} can never pass or never fail")
        return self


class Gates(Record):
    """The rules of one target, project-wide ones first; digested before a target is run."""

    rules: tuple[Rule, ...]


class Waiver(Record):
    """A named person's acceptance of one named cell until a date; never more than that cell.

    `rule` is the rule's name and `bound` its bound, so that neither another rule nor a loosened one is covered.
    """

    target: str = Field(min_length=1)
    rule: str = Field(min_length=1)
    bound: float
    group: Group
    context: Group = {}
    reason: str = Field(min_length=10)
    approver: str = Field(min_length=3)
    expires: date


class CellVerdict(Record):
    """One rule on one cell, with everything that decided it.

    `lower` and `upper` are the one-sided bounds at the rule's confidence; `forecast` is what evidence of too low
    a level would have said. Under ``max_drop`` and ``max_increase`` `value` and its bounds are the drop and the
    increase: a fall by 3 points is +0.03 under ``max_drop``. A gap's group is ``{attribute: "*"}``.
    """

    rule: str
    metric: str
    condition: Condition
    against: Reference | None
    group: Group
    context: Group = {}
    of_class: str | None = None
    status: Status
    bound: float
    value: float | None
    lower: float | None
    upper: float | None
    unit: Unit
    n: int | None
    method: str
    confidence: float
    reason: str
    rows_needed: int | None = None
    forecast: Status | None = None
    waiver: Waiver | None = None
    required: bool = True
    where: str = ""


class Verdict(Record):
    """The verdict on one target: every cell, and one word."""

    schema_version: Literal[1] = 1
    target: str
    status: Status
    sentence: str
    cells: tuple[CellVerdict, ...]
    gates_digest: str
    evidence_digest: str
