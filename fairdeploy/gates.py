"""Gates: what must hold, and the verdict on each cell. A bound decides, never a point estimate."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fairdeploy.evidence.records import Group, Level, Reference
from fairdeploy.records import Record

Status = Literal["pass", "fail", "inconclusive", "undefined", "waived"]
Condition = Literal["min", "max", "max_drop", "max_increase", "max_ratio"]


class Rule(Record):
    """One condition on one metric.

    Changes (`max_drop`, `max_increase`, `max_ratio`) say what they are measured against.
    """

    metric: str
    condition: Condition
    bound: float
    against: Reference | None = None
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    level: Level | None = None
    required: bool = True
    where: str = ""

    @property
    def name(self) -> str:
        """Stable name, as in ``true_positive_rate.max_drop.compact``."""
        return ".".join(filter(None, (self.metric, self.condition, self.against)))


class Gates(Record):
    """The rules of one target, project-wide ones first; digested before anything is evaluated."""

    rules: tuple[Rule, ...]


class CellVerdict(Record):
    """One rule on one cell, with everything that decided it.

    `lower` and `upper` are the one-sided bounds at the rule's confidence; `forecast` is what evidence of too low
    a level would have said. `unit` is "rate", "ratio", "ms" or "MB".
    """

    rule: str
    metric: str
    condition: Condition
    against: Reference | None
    group: Group
    status: Status
    bound: float
    value: float | None
    lower: float | None
    upper: float | None
    unit: Literal["rate", "ratio", "ms", "MB"]
    n: int | None
    method: str
    confidence: float
    reason: str
    rows_needed: int | None = None
    forecast: Status | None = None
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
