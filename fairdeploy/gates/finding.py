"""What is found in one cell, and how a bound decides it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from fairdeploy.evidence.clusters import Effective
from fairdeploy.evidence.metrics import words
from fairdeploy.evidence.records import Group
from fairdeploy.evidence.tally import Tally
from fairdeploy.gates.records import Rule, Status, Unit


@dataclass(frozen=True)
class Finding:
    """One cell's verdict and what decided it; the fields are those of `CellVerdict`."""

    group: Group
    status: Status
    value: float | None
    lower: float | None
    upper: float | None
    unit: Unit
    n: int | None
    method: str
    reason: str
    rows_needed: int | None = None
    context: Group = field(default_factory=dict)


def missing(rule: Rule, reason: str) -> Finding:
    """Say that nothing is known; a waiver does not cover it, since there is nothing to accept."""
    text = f"The {rule.words} is not known: {reason}."
    return Finding({}, "inconclusive", None, None, None, rule.unit, None, "none", text)


def undefined(rule: Rule, group: Group, context: Group, why: str = "no rows", n: int = 0) -> Finding:
    """Say that a cell has no denominator."""
    text = f"The {rule.words} of {named(group, context)} is undefined: {why}."
    return Finding(group, "undefined", None, None, None, rule.unit, n, "none", text, context=context)


def decide(lower: float, upper: float, bound: float, *, at_least: bool = False) -> Status:
    """Compare both one-sided bounds with what is allowed."""
    if at_least:
        return "pass" if lower > bound else "fail" if upper < bound else "inconclusive"
    return "pass" if upper < bound else "fail" if lower > bound else "inconclusive"


def named(group: Group, context: Group) -> str:
    """Name a cell in a sentence: "skin tone VI in light dark"."""
    return f"{words(group)} in {words(context)}" if context else words(group)


def parts(rule: Rule, tally: Tally) -> Iterator[tuple[Group, Tally]]:
    """Yield the whole tally and, under ``within``, the rows of each level of that context (``unknown`` if it has any).

    A level without rows is yielded, too: its cells are undefined.
    """
    yield {}, tally
    if rule.within is None:
        return
    levels, at = tally.schema.levels(rule.within), tally.coordinates[rule.within]
    for code, level in enumerate(levels):
        inside = at == code
        if code < len(levels) - 1 or inside.any():
            yield {rule.within: level}, Tally(tally.schema, tally.cells[inside], tally.counts[inside])


def bucket_counts(summary: Effective) -> list[int | None]:
    """Return the non-empty buckets of each cell, None where rows are not clustered."""
    return [None] * len(summary.n) if summary.buckets is None else summary.buckets.tolist()
