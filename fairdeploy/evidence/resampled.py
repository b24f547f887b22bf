"""What needs a resampling, as records: each part of a tally is resampled once, for all its numbers together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fairdeploy.evidence.cells import Cells, cells
from fairdeploy.evidence.gaps import gap_estimate
from fairdeploy.evidence.metrics import GAPS, RATES
from fairdeploy.evidence.records import Gap, Rate, Reference, Shift
from fairdeploy.evidence.resampling import Floats, resample
from fairdeploy.evidence.scores import SCORES, Scores, estimate_scores
from fairdeploy.evidence.shifts import COMPARED, EXCESS_DROP, NORMALISED_CHANGE, excess, lone_estimates, normalised
from fairdeploy.evidence.shown import CONFIDENCE, interval
from fairdeploy.evidence.statistics import STATISTICS, Estimate, contrasts, paired_estimates
from fairdeploy.evidence.tally import Tally

MOST_CLASSES = 20
Estimates = list[tuple[str, Estimate]]


@dataclass(frozen=True)
class ResampledRecords:
    """Statistics and score metrics of the deployed predictions, their gaps, and what changed against references."""

    rates: tuple[Rate, ...] = ()
    gaps: tuple[Gap, ...] = ()
    shifts: tuple[Shift, ...] = ()


def resampled_records(
    main: Tally, references: Mapping[Reference, Tally], scores: Mapping[str, Scores], *, seed: int
) -> ResampledRecords:
    """State everything that is resampled in every cell, and every gap over each attribute.

    Parameters
    ----------
    main : Tally
        For what is said of the deployed predictions alone; where it is the first of `references`, it is resampled once.
    references : mapping of reference to Tally
        Changes are stated against these; the same rows and deployed predictions in each.
    scores : mapping of {"deployed", "dense", "compact", "reference"} to Scores
    seed : int
        Of the resampling.
    """
    jobs: list[tuple[Reference | None, Tally]] = [*references.items()]
    if not jobs or jobs[0][1] is not main:
        jobs.insert(0, (None, main))
    rates: list[Rate] = []
    gaps: list[Gap] = []
    shifts: list[Shift] = []
    for number, (against, tally) in enumerate(jobs):
        for part in cells(tally, contexts=True, intersections=True):
            statistics, alone = _resampled(tally, part, against, seed)
            if number == 0:
                rates += _rates(tally, part, [*statistics, *_scored(scores, None, part, seed)])
                gaps += _gaps(tally, part, statistics, seed)
            if against is not None:
                shifts += _changes(against, part, [*statistics, *_scored(scores, against, part, seed)])
                shifts += _shifts(against, part, alone)
    return ResampledRecords(tuple(rates), tuple(gaps), tuple(shifts))


def _resampled(tally: Tally, part: Cells, against: Reference | None, seed: int) -> tuple[Estimates, Estimates]:
    """Estimate every statistic; and excess drops and normalised changes, where there is a reference and no context.

    No statistics beyond `MOST_CLASSES` classes, for their cost.
    """
    size = len(tally.schema.classes)
    statistics = [one for one in STATISTICS.values() if (size == 2 or not one.binary) and size <= MOST_CLASSES]
    wanted = [contrast for one in statistics for contrast in contrasts(one)]
    names = []
    if against is not None and part.axes and not any(part.contexts):
        compared = [RATES[name] for name in COMPARED if size == 2 or not RATES[name].binary]
        names = [one.name + kind for kind in (EXCESS_DROP, NORMALISED_CHANGE) for one in compared]
        wanted += [make(one) for make in (excess, normalised) for one in compared]
    drawn = resample(tally, part, wanted, seed=seed)
    half = len(drawn) - len(names)
    paired, alone = paired_estimates(tally, part, drawn[:half]), lone_estimates(tally, part, drawn[half:])
    return list(zip((one.name for one in statistics), paired, strict=True)), list(zip(names, alone, strict=True))


def _scored(scores: Mapping[str, Scores], against: Reference | None, part: Cells, seed: int) -> Estimates:
    """Estimate every score metric, where a part has no context and there are scores of both networks."""
    if "deployed" not in scores or any(part.contexts) or (against is not None and against not in scores):
        return []
    deployed, reference = scores["deployed"], None if against is None else scores[against]
    usable = [one for one in SCORES.values() if not one.binary or len(deployed.schema.classes) == 2]
    return [(one.name, estimate_scores(one, deployed, reference, part, seed=seed)) for one in usable]


def _rates(tally: Tally, part: Cells, estimates: Estimates) -> list[Rate]:
    buckets = (part.take(tally.sums(part.axes)) > 0).sum(0)
    found = []
    for metric, estimate in estimates:
        lower, upper = estimate.bounds((1 + CONFIDENCE) / 2)
        for at, (group, context) in enumerate(zip(part.groups, part.contexts, strict=True)):
            known = not np.isnan(estimate.deployed[at])
            found.append(
                Rate(
                    metric=metric,
                    group=group,
                    context=context,
                    n=int(estimate.n[at]),
                    clusters=int(buckets[at]) if tally.schema.clustered else None,
                    value=float(estimate.deployed[at]) if known else None,
                    interval=interval(lower[at], upper[at], estimate.method) if known else None,
                    quantisation=float(estimate.quantisation[at]) if known else 0.0,
                )
            )
    return found


def _gaps(tally: Tally, part: Cells, statistics: Estimates, seed: int) -> list[Gap]:
    """State every gap over an attribute; none where the part is not the levels of one."""
    if len(part.axes) != 1 or any(part.contexts):
        return []
    (attribute,), size = part.axes, len(tally.schema.classes)
    found = []
    for metric in (one for one in GAPS.values() if size == 2 or not one.binary):
        estimate = gap_estimate(tally, metric, attribute, seed=seed, statistics=dict(statistics))
        known = estimate.value is not None
        found.append(
            Gap(
                metric=metric.name,
                attribute=attribute,
                value=estimate.value,
                interval=interval(*estimate.interval(CONFIDENCE), estimate.method) if known else None,
                highest=estimate.highest,
                lowest=estimate.lowest,
                undefined=estimate.undefined,
            )
        )
    return found


def _changes(against: Reference, part: Cells, estimates: Estimates) -> list[Shift]:
    return [
        shift
        for name, one in estimates
        for shift in _records(name, against, part, one, one.change, one.change_bounds((1 + CONFIDENCE) / 2))
    ]


def _shifts(against: Reference, part: Cells, estimates: Estimates) -> list[Shift]:
    return [
        shift
        for name, one in estimates
        for shift in _records(name, against, part, one, one.deployed, one.bounds((1 + CONFIDENCE) / 2))
    ]


def _records(
    metric: str, against: Reference, part: Cells, estimate: Estimate, change: Floats, bounds: tuple[Floats, Floats]
) -> list[Shift]:
    lower, upper = bounds

    def number(values: Floats, at: int) -> float | None:
        return None if np.isnan(values[at]) else float(values[at])

    return [
        Shift(
            metric=metric,
            against=against,
            group=group,
            context=context,
            n=int(estimate.n[at]),
            reference=number(estimate.reference, at),
            deployed=None if np.isnan(estimate.reference[at]) else number(estimate.deployed, at),
            change=number(change, at),
            interval=None if np.isnan(change[at]) else interval(lower[at], upper[at], estimate.method),
            quantisation=0.0 if np.isnan(estimate.quantisation[at]) else float(estimate.quantisation[at]),
        )
        for at, (group, context) in enumerate(zip(part.groups, part.contexts, strict=True))
    ]
