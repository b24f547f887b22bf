"""`judge`: from tallies and measurements to evidence. Nothing is decided here; `fairdeploy.gates` does that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fairdeploy.errors import BackendError, DataError
from fairdeploy.evidence import metrics
from fairdeploy.evidence.cells import Cells, cells
from fairdeploy.evidence.clusters import effective_change, effective_rate
from fairdeploy.evidence.gaps import gap_estimate
from fairdeploy.evidence.percentiles import PERCENTILE_METHOD, percentile, percentile_bounds
from fairdeploy.evidence.records import (
    Change,
    EvidenceRecord,
    Gap,
    Interval,
    Latency,
    Level,
    Rate,
    Reference,
    Stage,
    StageName,
)
from fairdeploy.evidence.tally import Tally

CONFIDENCE = 0.95
PERCENTILES = (50, 90, 99)
NOTHING: Mapping[Any, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Evidence:
    """Evidence on one artifact: what is shown, and the tallies from which anyone can recompute it.

    Attributes
    ----------
    record : EvidenceRecord
    tallies : mapping of reference to Tally
        Deployed predictions paired with each reference's; empty when the artifact could not be run.
    """

    record: EvidenceRecord
    tallies: Mapping[Reference, Tally]


def judge(
    *,
    target: str,
    level: Level | None,
    level_reason: str,
    spec_digest: str,
    data_fingerprint: str,
    reference_digests: Mapping[str, str],
    requested_precision: str,
    seed: int,
    artifact_digest: str | None = None,
    runtime: Mapping[str, str] = NOTHING,
    realised_precision: Mapping[str, int] = NOTHING,
    size_bytes: int | None = None,
    peak_memory_mb: float | None = None,
    tallies: Mapping[Reference, Tally] = NOTHING,
    stages: Mapping[StageName, Tally] = NOTHING,
    latencies_ms: ArrayLike | None = None,
    reference_latencies_ms: Mapping[str, ArrayLike] = NOTHING,
    threads: int = 1,
    percentiles: Sequence[int] = PERCENTILES,
    fake_device: bool = False,
    level_mend: str = "",
    identical_to: tuple[Reference, ...] = (),
    failure: str | None = None,
) -> Evidence:
    """Compute every rate, paired change, gap and latency with its interval; what is left out is not known.

    Parameters
    ----------
    level : Level or None
        None for predictions that were made elsewhere.
    tallies : mapping of {"dense", "compact"} to Tally
        The artifact's predictions, paired with each reference's; the same rows in each.
    stages : mapping of stage name to Tally
        Predictions of each stage, paired with the dense network's.
    latencies_ms, reference_latencies_ms : array [runs], and by reference
        Single-stream, on the same device, in the order in which they were run.
    seed : int
        Of the bootstrap of the gaps.
    identical_to : tuple of {"dense", "compact"}
        References whose very file the artifact is, run by the same runtime on the same device.
    failure : str, optional
        Why the artifact could not be judged; every gate is then inconclusive.

    Raises
    ------
    DataError
        If the tallies are of different rows, groups or artifacts, or `identical_to` names a reference without tally.
    BackendError
        If a latency is not a positive finite number.
    """
    _check_same_artifact(tallies)
    for name in identical_to:
        if name not in tallies:
            raise DataError(
                f"identical_to names the {name} network, but there is no tally against it (there is: "
                f"{', '.join(tallies) or 'none'}): count one, or leave the name out"
            )
        if flips := _flips(tallies[name]):
            raise DataError(f"the artifact is the {name} network's file, but {flips} of its predictions differ")
    main = next(iter(tallies.values()), None)
    record = EvidenceRecord(
        target=target,
        level=level,
        level_reason=level_reason,
        level_mend=level_mend,
        fake_device=fake_device,
        artifact_digest=artifact_digest,
        spec_digest=spec_digest,
        data_fingerprint=data_fingerprint,
        reference_digests=dict(reference_digests),
        tally_digests={name: tally.digest for name, tally in tallies.items()},
        identical_to=identical_to,
        failure=failure,
        runtime=dict(runtime),
        requested_precision=requested_precision,
        realised_precision=dict(realised_precision),
        size_bytes=size_bytes,
        peak_memory_mb=peak_memory_mb,
        rates=() if main is None else _rates(main, everything=True),
        changes=tuple(
            one
            for name, tally in tallies.items()
            for one in _changes(tally, name, everything=True, clustered=changes_cluster(tally, name, identical_to))
        ),
        gaps=() if main is None else _gaps(main, seed),
        latency=None if latencies_ms is None else _latency(latencies_ms, threads, percentiles),
        reference_latency={
            name: _latency(samples, threads, percentiles) for name, samples in reference_latencies_ms.items()
        },
        stages=tuple(
            Stage(
                stage=name,
                rates=_rates(tally, everything=False),
                changes=_changes(tally, "dense", everything=False, clustered=tally.schema.clustered),
            )
            for name, tally in stages.items()
        ),
        seed=seed,
    )
    return Evidence(record, dict(tallies))


def changes_cluster(tally: Tally, reference: Reference, identical_to: Sequence[Reference]) -> bool:
    """Whether the rows of one cluster may change together.

    Not where the artifact is the reference's own file in the same runtime, unless a flip contradicts that: then rows
    count as independent, and as many are needed as for any artifact without a flip.
    """
    return tally.schema.clustered and not (reference in identical_to and _flips(tally) == 0)


def _flips(tally: Tally) -> int:
    at = tally.coordinates
    return int(tally.counts[at["reference"] != at["deployed"]].sum())


def _check_same_artifact(tallies: Mapping[Reference, Tally]) -> None:
    """Refuse tallies whose rows or deployed predictions differ: they cannot be of one artifact."""
    seen: tuple[str, NDArray[np.int64]] | None = None
    for name, tally in tallies.items():
        axes = (*tally.schema.attributes, *tally.schema.contexts)
        at = tally.coordinates
        outcome = at["label"] * len(tally.schema.classes) + at["deployed"]
        kept = np.stack([at["bucket"], *(at[axis] for axis in axes), outcome, tally.counts])
        order = np.lexsort(kept[:-1])
        starts = np.flatnonzero(np.any(np.diff(kept[:-1, order], prepend=-1), axis=0))
        marginal = np.vstack([kept[:-1, order][:, starts], np.add.reduceat(kept[-1, order], starts)[None]])
        if seen is not None and (
            tally.schema != tallies[seen[0]].schema or not np.array_equal(marginal, seen[1])  # type: ignore[index]
        ):
            raise DataError(f"the tallies against {seen[0]} and {name} are not of the same rows and predictions")
        seen = (name, marginal)


def _usable(tally: Tally) -> list[metrics.RateMetric]:
    binary = len(tally.schema.classes) == 2
    return [metric for metric in metrics.RATES.values() if binary or not metric.binary]


def _rates(tally: Tally, *, everything: bool) -> tuple[Rate, ...]:
    found: list[Rate] = []
    for part in cells(tally, contexts=everything, intersections=everything):
        for metric in _usable(tally):
            counts = metric.counts(tally, part.axes)
            found += _rate_records(metric.name, part, counts, clustered=tally.schema.clustered)
    return tuple(found)


def _rate_records(metric: str, part: Cells, counts: metrics.PairedCounts, *, clustered: bool) -> list[Rate]:
    summary = effective_rate(part.take(counts.deployed), part.take(counts.n), clustered=clustered)
    lower, upper = summary.wilson(CONFIDENCE)
    records = []
    for at, (group, context) in enumerate(zip(part.groups, part.contexts, strict=True)):
        n = int(summary.n[at])
        records.append(
            Rate(
                metric=metric,
                group=group,
                context=context,
                n=n,
                clusters=None if summary.buckets is None else int(summary.buckets[at]),
                value=int(summary.successes[at]) / n if n else None,
                interval=_interval(lower[at], upper[at], "Wilson" + summary.notes[at]) if n else None,
            )
        )
    return records


def _changes(tally: Tally, against: Reference, *, everything: bool, clustered: bool) -> tuple[Change, ...]:
    found: list[Change] = []
    for part in cells(tally, contexts=everything, intersections=everything):
        for metric in _usable(tally):
            counts = metric.counts(tally, part.axes).map(part.take)
            found += _change_records(metric.name, against, part, counts, clustered=clustered)
    return tuple(found)


def _change_records(
    metric: str, against: Reference, part: Cells, counts: metrics.PairedCounts, *, clustered: bool
) -> list[Change]:
    summary = effective_change(counts, clustered=clustered)
    loss_lower, loss_upper = summary.tango(CONFIDENCE)
    reference, deployed = counts.reference.sum(0), counts.deployed.sum(0)
    records = []
    for at, (group, context) in enumerate(zip(part.groups, part.contexts, strict=True)):
        n = int(summary.n[at])
        records.append(
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
                interval=_interval(-loss_upper[at], -loss_lower[at], "Tango" + summary.notes[at]) if n else None,
            )
        )
    return records


def _gaps(tally: Tally, seed: int) -> tuple[Gap, ...]:
    binary = len(tally.schema.classes) == 2
    wanted = tuple(metrics.GAPS.values()) if binary else (metrics.accuracy_difference,)
    found = []
    for attribute in tally.schema.attributes:
        for metric in wanted:
            estimate = gap_estimate(tally, metric, attribute, seed=seed)
            known = estimate.value is not None
            found.append(
                Gap(
                    metric=metric.name,
                    attribute=attribute,
                    value=estimate.value,
                    interval=_interval(*estimate.interval(CONFIDENCE), estimate.method) if known else None,
                    highest=estimate.highest,
                    lowest=estimate.lowest,
                    undefined=estimate.undefined,
                )
            )
    return tuple(found)


def _latency(samples_ms: ArrayLike, threads: int, percentiles: Sequence[int]) -> Latency:
    samples = np.asarray(samples_ms, dtype=float).round(4)
    if not len(samples) or not np.isfinite(samples).all() or samples.min() < 0:
        raise BackendError("latencies must be finite, positive and at least one: the clock or the runtime gave others")
    intervals = {}
    for percent in percentiles:
        lower, upper = percentile_bounds(samples, percent, (1 + CONFIDENCE) / 2)
        if lower is not None and upper is not None:
            intervals[f"p{percent}"] = _interval(lower, upper, PERCENTILE_METHOD)
    return Latency(
        runs=len(samples),
        threads=threads,
        mean_ms=round(float(samples.mean()), 6),
        percentiles={f"p{percent}": percentile(samples, percent) for percent in percentiles},
        intervals=intervals,
        samples_ms=tuple(samples.tolist()),
    )


def _interval(lower: float, upper: float, method: str) -> Interval:
    return Interval(
        lower=round(float(lower), 9) + 0.0, upper=round(float(upper), 9) + 0.0, confidence=CONFIDENCE, method=method
    )
