"""Look up one number of a record: a rate, a change or a shift of one metric in one group and context."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Protocol, TypeVar

from fairdeploy.evidence.records import Change, EvidenceRecord, Group, Rate, Shift

EVERYWHERE: Mapping[str, str] = MappingProxyType({})


class _Compared(Protocol):
    @property
    def metric(self) -> str: ...
    @property
    def against(self) -> str: ...
    @property
    def group(self) -> Group: ...
    @property
    def context(self) -> Group: ...


One = TypeVar("One", bound=_Compared)


def find_rate(evidence: EvidenceRecord, metric: str, group: Group) -> Rate | None:
    """Return the rate of one metric in one group over all contexts, if evidence has it."""
    return next((one for one in evidence.rates if (one.metric, one.group) == (metric, group) and not one.context), None)


def find_change(
    evidence: EvidenceRecord,
    metric: str,
    against: str | None,
    group: Group,
    context: Mapping[str, str] = EVERYWHERE,
) -> Change | None:
    """Return the paired change of one metric in one cell, if evidence has it."""
    return _first(evidence.changes, metric, against, group, context)


def find_shift(
    evidence: EvidenceRecord,
    metric: str,
    against: str | None,
    group: Group,
    context: Mapping[str, str] = EVERYWHERE,
) -> Shift | None:
    """Return the change of a metric that is no sum over rows, if evidence has it."""
    return _first(evidence.shifts, metric, against, group, context)


def _first(
    records: Iterable[One], metric: str, against: str | None, group: Group, context: Mapping[str, str]
) -> One | None:
    wanted = (metric, against, group, dict(context))
    return next((one for one in records if (one.metric, one.against, one.group, one.context) == wanted), None)


def group_key(group: Group) -> tuple[tuple[str, str], ...]:
    """Return a group as a key: equal for equal groups, in whatever order they were written."""
    return tuple(sorted(group.items()))
