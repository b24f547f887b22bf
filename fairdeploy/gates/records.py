"""What gates and verdicts look like on disk."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from fairdeploy.evidence.metrics import FLIPS, GAPS, RATES
from fairdeploy.evidence.records import Group, Level, Reference
from fairdeploy.evidence.scores import SCORES
from fairdeploy.evidence.statistics import STATISTICS, load, names
from fairdeploy.gates.visible import name_of_a_person, reason_in_words
from fairdeploy.records import Record

Status = Literal["pass", "fail", "inconclusive", "undefined", "waived"]
Condition = Literal["min", "max", "max_drop", "max_increase", "max_ratio", "max_spread"]
Unit = Literal["rate", "ratio", "ms", "MB", "MiB"]
Kind = Literal["fairness", "latency", "size"]
Effect = Literal["waives", "expired", "unneeded", "unmatched"]

CHANGES: tuple[Condition, ...] = ("max_drop", "max_increase", "max_ratio")
EXCESS = "_excess_drop"
EVERYONE = "everyone"
LATENCY = re.compile(r"latency_p([1-9][0-9]?)_ms")
SIZES: dict[str, Unit] = {"size_mb": "MB", "peak_memory_mb": "MiB"}
LEAST_BOUND = 1e-9
LARGEST_RATIO = 1000.0
LARGEST_AMOUNT = 1e9  # ms, MB or MiB
PLAIN_WORDS = {
    **{metric.name: metric.words for family in (RATES, GAPS, FLIPS, STATISTICS, SCORES) for metric in family.values()},
    **{f"{metric.name}{EXCESS}": f"excess drop of {metric.words}" for metric in RATES.values()},
    "worst_group_accuracy": "accuracy",
    "size_mb": "artifact's size",
    "peak_memory_mb": "peak memory",
}


def conditions_of(metric: str, *, across: bool = False) -> tuple[Condition, ...]:
    """Return the conditions that a metric takes, also `across` targets; none for an unknown metric."""
    if metric in RATES:
        spread: tuple[Condition, ...] = ("max_spread",) if across else ()
        return ("min", "max", "max_drop", "max_increase", "max_ratio", *spread)
    if metric in STATISTICS or metric in SCORES:
        return ("min", "max", "max_drop", "max_increase")
    if metric in GAPS:
        return ("min",) if GAPS[metric].ratio else ("max", "max_increase")
    if metric == "worst_group_accuracy":
        return ("min",)
    if LATENCY.fullmatch(metric):
        return ("max", "max_ratio")
    if metric in PLAIN_WORDS:
        return ("max",)
    return ("min", "max", "max_drop", "max_increase") if metric in names() else ()


def needs_reference(metric: str, condition: str) -> bool:
    """Say whether a condition is about a change, so that `against` must be said."""
    return condition in CHANGES or metric in FLIPS or metric.endswith(EXCESS)


def bounds_of(metric: str, condition: str) -> tuple[float, float]:
    """Return the least and the largest bound that evidence could reach: beyond, nothing passes or nothing fails."""
    if condition == "max_ratio":
        return LEAST_BOUND, LARGEST_RATIO
    return LEAST_BOUND, LARGEST_AMOUNT if metric in SIZES or LATENCY.fullmatch(metric) else 1 - LEAST_BOUND


def is_binary(metric: str) -> bool:
    """Whether a metric needs two classes, so that `class` must be said where there are more."""
    of = metric.removesuffix(EXCESS)
    found = RATES.get(of) or GAPS.get(of) or FLIPS.get(of) or SCORES.get(of)
    return found.binary if found else of in names() and load(of).binary


def words_of(metric: str) -> str:
    """Return a metric as in a sentence; one that a package brings is imported."""
    percentile = LATENCY.fullmatch(metric)
    return f"p{percentile[1]} latency" if percentile else PLAIN_WORDS.get(metric) or load(metric).words


class Rule(Record):
    """One condition on one metric.

    Changes (`max_drop`, `max_increase`, `max_ratio`) say what they are measured against. `within` names a context
    within whose levels every group is judged as well, `intersections` adds those of all attributes; `of_class` is the
    class that stands against all others, where there are more than two.
    """

    metric: str
    condition: Condition
    bound: float = Field(strict=True)
    against: Reference | None = None
    confidence: Annotated[float, Field(gt=0.5, lt=1, strict=True)] = 0.95
    level: Level | None = None
    required: bool = Field(default=True, strict=True)
    within: str | None = None
    of_class: str | None = None
    intersections: bool = Field(default=False, strict=True)
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
        words = words_of(self.metric)
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
        return "size" if self.metric in SIZES else "fairness"

    @property
    def is_fairness(self) -> bool:
        """Whether it is about predictions, not about latency, size or memory."""
        return self.kind == "fairness"

    @property
    def unit(self) -> Unit:
        """Unit of the bound."""
        if self.condition == "max_ratio" or (self.metric in GAPS and GAPS[self.metric].ratio):
            return "ratio"
        return "ms" if self.kind == "latency" else SIZES.get(self.metric, "rate")

    @model_validator(mode="after")
    def _condition_fits(self) -> Rule:
        if self.condition not in conditions_of(self.metric, across=True):
            raise ValueError(f"{self.metric} takes {conditions_of(self.metric)}, not {self.condition}")
        if needs_reference(self.metric, self.condition) != (self.against is not None):
            raise ValueError(f"{self.name}: changes, and only they, say against which reference")
        least, most = bounds_of(self.metric, self.condition)
        if not least <= self.bound <= most:
            raise ValueError(
                f"{self.name}: a bound of {self.bound} can never pass or never fail: give one from {least} to {most}"
            )
        if not self.is_fairness and (self.within or self.of_class or self.intersections):
            raise ValueError(f"{self.name}: has no groups, so no context, class or intersections either")
        if self.metric in SCORES and (self.within or self.of_class):
            raise ValueError(f"{self.name}: scores are counted per group, not within contexts or for one class")
        if self.of_class and not is_binary(self.metric):
            raise ValueError(f"{self.name}: is about all classes together, so it takes no class")
        return self


class Gates(Record):
    """The rules of one target, project-wide ones first; digested before a target is run."""

    rules: tuple[Rule, ...]


def _no_number(value: Any) -> Any:
    if isinstance(value, int | float):
        raise ValueError("write a date, as in 2026-12-31")
    return value


_STRIPPED = StringConstraints(strip_whitespace=True)


class Waiver(Record):
    """A named person's acceptance of one named cell until a date; never more than that cell.

    `rule` is the rule's name and `bound` its bound, so that neither another rule nor a loosened one is covered. It
    holds up to and on the day that it expires.
    """

    target: str = Field(min_length=1)
    rule: str = Field(min_length=1)
    bound: float = Field(strict=True)
    group: Group
    context: Group = {}
    reason: Annotated[str, _STRIPPED, AfterValidator(reason_in_words)]
    approver: Annotated[str, _STRIPPED, AfterValidator(name_of_a_person)]
    expires: Annotated[date, BeforeValidator(_no_number)]


class WaiverUse(Record):
    """What became of a waiver on the day it was held against; `note` says why."""

    waiver: Waiver
    effect: Effect
    note: str
    judged_on: date


class CellVerdict(Record):
    """One rule on one cell, with everything that decided it.

    `lower` and `upper` are the one-sided bounds at the rule's confidence; `forecast` is what evidence of too low
    a level would have said. Under ``max_drop`` and ``max_increase`` `value` and its bounds are the drop and the
    increase: a fall by 3 points is +0.03 under ``max_drop``. A gap's group is ``{attribute: "*"}``. `target` names the
    worst one where a rule is over all targets.
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
    target: str | None = None
    required: bool = True
    where: str = ""

    @property
    def address(self) -> tuple[str, ...]:
        """The rule, then group and context, as they are typed: ``accuracy.min``, ``skin_tone=VI`` or ``everyone``."""
        levels = {**self.group, **self.context}.items()
        return self.rule, *([f"{axis}={level}" for axis, level in levels] or [EVERYONE])


class Verdict(Record):
    """The verdict on one target: every cell, one word, and what became of each waiver; `target` "*" is all of them."""

    schema_version: Literal[1] = 1
    target: str
    status: Status
    sentence: str
    cells: tuple[CellVerdict, ...]
    waivers: tuple[WaiverUse, ...] = ()
    gates_digest: str
    evidence_digest: str
