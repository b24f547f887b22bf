"""Rates, flips and paired changes of every cell as records, each with a two-sided interval for showing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from fairdeploy.evidence import metrics
from fairdeploy.evidence.cells import Cells, cells, outcomes
from fairdeploy.evidence.clusters import effective_change, effective_rate
from fairdeploy.evidence.metrics import PairedCounts
from fairdeploy.evidence.records import Change, Group, Interval, Rate, Reference
from fairdeploy.evidence.tally import Tally

CONFIDENCE = 0.95


@dataclass(frozen=True)
class _Columns:
    """Counts of many metrics and cells side by side, [buckets, columns]; and what each column is."""

    names: tuple[str, ...]
    groups: tuple[Group, ...]
    contexts: tuple[Group, ...]
    counts: PairedCounts


def rate_records(tally: Tally, *, everything: bool = True) -> tuple[Rate, ...]:
    """State every rate of the deployed predictions in every cell.

    Parameters
    ----------
    tally : Tally
    everything : bool
        Intersections and contexts as well.
    """
    parts = cells(tally, contexts=everything, intersections=everything)
    return tuple(_rates(tally, _columns(tally, parts, list(metrics.RATES.values()))))


def flip_records(tally: Tally, against: Reference) -> tuple[Rate, ...]:
    """State in every cell which share of rows has another prediction than the reference's, by direction."""
    parts = cells(tally, contexts=True, intersections=True)
    return tuple(_rates(tally, _columns(tally, parts, list(metrics.FLIPS.values())), against))


def _columns(
    tally: Tally, parts: Iterable[Cells], family: Sequence[metrics.RateMetric | metrics.FlipMetric]
) -> _Columns:
    binary = len(tally.schema.classes) == 2
    names: list[str] = []
    groups: list[Group] = []
    contexts: list[Group] = []
    blocks: list[PairedCounts] = []
    for part in parts:
        found = outcomes(tally, part)
        for metric in family:
            if metric.binary and not binary:
                continue
            names += [metric.name] * len(part.groups)
            groups += part.groups
            contexts += part.contexts
            blocks.append(metric.within(found))
    joined = (np.concatenate([getattr(one, name) for one in blocks], axis=1) for name in PairedCounts.names())
    return _Columns(tuple(names), tuple(groups), tuple(contexts), PairedCounts(*joined))


def _rates(tally: Tally, columns: _Columns, against: Reference | None = None) -> list[Rate]:
    summary = effective_rate(columns.counts.deployed, columns.counts.n, clustered=tally.schema.clustered)
    lower, upper = summary.wilson(CONFIDENCE)
    found = []
    for at, (metric, group, context) in enumerate(zip(columns.names, columns.groups, columns.contexts, strict=True)):
        n = int(summary.n[at])
        found.append(
            Rate(
                metric=metric,
                against=against,
                group=group,
                context=context,
                n=n,
                clusters=None if summary.buckets is None else int(summary.buckets[at]),
                value=int(summary.successes[at]) / n if n else None,
                interval=interval(lower[at], upper[at], "Wilson" + summary.notes[at]) if n else None,
            )
        )
    return found


def change_records(tally: Tally, against: Reference, *, clustered: bool, everything: bool = True) -> tuple[Change, ...]:
    """State the paired change of every rate in every cell.

    Parameters
    ----------
    clustered : bool
        Whether the rows of one cluster may change together.
    everything : bool
        Intersections and contexts as well.
    """
    parts = cells(tally, contexts=everything, intersections=everything)
    columns = _columns(tally, parts, list(metrics.RATES.values()))
    summary = effective_change(columns.counts, clustered=clustered)
    loss_lower, loss_upper = summary.tango(CONFIDENCE)
    reference, deployed = columns.counts.reference.sum(0), columns.counts.deployed.sum(0)
    found = []
    for at, (metric, group, context) in enumerate(zip(columns.names, columns.groups, columns.contexts, strict=True)):
        n = int(summary.n[at])
        found.append(
            Change(
                metric=metric,
                against=against,
                group=group,
                context=context,
                n=n,
                clusters=None if summary.buckets is None else int(summary.buckets[at]),
                lost=int(summary.lost[at]),
                gained=int(summary.gained[at]),
                reference=int(reference[at]) / n if n else None,
                deployed=int(deployed[at]) / n if n else None,
                change=int(summary.gained[at] - summary.lost[at]) / n if n else None,
                design_effect=round(float(summary.effect[at]), 9),
                interval=interval(-loss_upper[at], -loss_lower[at], "Tango" + summary.notes[at]) if n else None,
            )
        )
    return tuple(found)


def interval(lower: float, upper: float, method: str) -> Interval:
    """Return a two-sided interval's record, rounded so that it is the same on every machine."""
    return Interval(
        lower=round(float(lower), 9) + 0.0, upper=round(float(upper), 9) + 0.0, confidence=CONFIDENCE, method=method
    )
