"""`judge`: from tallies and measurements to evidence. Nothing is decided here; `fairdeploy.gates` does that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fairdeploy.errors import BackendError, DataError
from fairdeploy.evidence.percentiles import PERCENTILE_METHOD, percentile, percentile_bounds
from fairdeploy.evidence.records import (
    EvidenceRecord,
    Latency,
    Level,
    Reference,
    Stage,
    StageName,
)
from fairdeploy.evidence.resampled import ResampledRecords, resampled_records
from fairdeploy.evidence.reversals import order_reversals
from fairdeploy.evidence.scores import BUCKETS as SCORE_BUCKETS
from fairdeploy.evidence.scores import Scores
from fairdeploy.evidence.shifts import reversal_records
from fairdeploy.evidence.shown import CONFIDENCE, change_records, flip_records, interval, rate_records
from fairdeploy.evidence.tally import Tally
from fairdeploy.evidence.unpaired import check_unpaired, unpaired_records

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
    scores : mapping of {"deployed", "dense", "compact", "reference"} to Scores
    unpaired : mapping of reference to Tally
        Predictions of references that saw other rows, over those; in `tallies` the labels then stand in their place.
    stages : mapping of stage name to Tally
        Predictions of each stage, paired with the dense network's.
    """

    record: EvidenceRecord
    tallies: Mapping[Reference, Tally]
    scores: Mapping[str, Scores] = field(default_factory=dict)
    unpaired: Mapping[Reference, Tally] = field(default_factory=dict)
    stages: Mapping[StageName, Tally] = field(default_factory=dict)


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
    scores: Mapping[str, Scores] = NOTHING,
    unpaired: Mapping[Reference, Tally] = NOTHING,
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
    scores : mapping of {"deployed", "dense", "compact", "reference"} to Scores
        Scores of the artifact and of the references, of the rows of the tallies.
    unpaired : mapping of reference to Tally
        Where a reference saw other rows, its predictions over those, as reference and as deployed ones; its tally in
        `tallies` then has the labels as reference.
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
        If the tallies, scores or stages are of different rows, groups or artifacts, or `identical_to` names a reference
        without tally.
    BackendError
        If a latency is not a positive finite number.
    """
    _check_same_artifact(tallies)
    _check_identical(tallies, identical_to)
    _check_scores(tallies, scores)
    check_unpaired(tallies, unpaired)
    _check_stages(tallies.get("dense"), stages)
    paired = {name: tally for name, tally in tallies.items() if name not in unpaired}
    main = next(iter(tallies.values()), None)
    clustered = {name: changes_cluster(tally, name, identical_to) for name, tally in paired.items()}
    changes = tuple(
        one for name, tally in paired.items() for one in change_records(tally, name, clustered=clustered[name])
    )
    resampled = ResampledRecords() if main is None else resampled_records(main, paired, scores, seed=seed)
    apart = (one for name, tally in unpaired.items() for one in unpaired_records(tallies[name], tally, name))
    rates = () if main is None else rate_records(main)
    flips = (one for name, tally in paired.items() for one in flip_records(tally, name))
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
        unpaired_digests={name: tally.digest for name, tally in unpaired.items()},
        score_digests={name: one.digest for name, one in scores.items()},
        identical_to=identical_to,
        failure=failure,
        runtime=dict(runtime),
        requested_precision=requested_precision,
        realised_precision=dict(realised_precision),
        size_bytes=size_bytes,
        peak_memory_mb=peak_memory_mb,
        rates=(*rates, *resampled.rates, *flips),
        changes=changes,
        gaps=resampled.gaps,
        shifts=(*resampled.shifts, *apart),
        reversals=(*reversal_records(changes, resampled.shifts), *order_reversals(rates)),
        latency=None if latencies_ms is None else _latency(latencies_ms, threads, percentiles),
        reference_latency={
            name: _latency(samples, threads, percentiles) for name, samples in reference_latencies_ms.items()
        },
        stages=tuple(_stage(name, tally) for name, tally in stages.items()),
        seed=seed,
    )
    return Evidence(record, dict(tallies), dict(scores), unpaired=dict(unpaired), stages=dict(stages))


def _stage(name: StageName, tally: Tally) -> Stage:
    changes = change_records(tally, "dense", everything=False, clustered=tally.schema.clustered)
    rates = rate_records(tally, everything=False)
    return Stage(stage=name, tally_digest=tally.digest, rates=rates, changes=changes)


def changes_cluster(tally: Tally, reference: Reference, identical_to: Sequence[Reference]) -> bool:
    """Whether the rows of one cluster may change together.

    Not where the artifact is the reference's own file in the same runtime, unless a flip contradicts that: then rows
    count as independent, and as many are needed as for any artifact without a flip.
    """
    return tally.schema.clustered and not (reference in identical_to and _flips(tally) == 0)


def _flips(tally: Tally) -> int:
    at = tally.coordinates
    return int(tally.counts[at["reference"] != at["deployed"]].sum())


def _check_identical(tallies: Mapping[Reference, Tally], identical_to: Sequence[Reference]) -> None:
    for name in identical_to:
        if name not in tallies:
            raise DataError(
                f"identical_to names the {name} network, but there is no tally against it (there is: "
                f"{', '.join(tallies) or 'none'}): count one, or leave the name out"
            )
        if flips := _flips(tallies[name]):
            raise DataError(f"the artifact is the {name} network's file, but {flips} of its predictions differ")


def _check_same_artifact(tallies: Mapping[Reference, Tally]) -> None:
    """Refuse tallies whose rows or deployed predictions differ: they cannot be of one artifact."""
    first = next(iter(tallies), None)
    for name, tally in tallies.items():
        assert first is not None
        if tally.schema != tallies[first].schema or not np.array_equal(_rows_of(tally), _rows_of(tallies[first])):
            raise DataError(f"the tallies against {first} and {name} are not of the same rows and predictions")


def _check_stages(dense: Tally | None, stages: Mapping[StageName, Tally]) -> None:
    """Refuse stages that are not of the rows and dense predictions of the artifact's tally against the dense network.

    The runtime's stage is that tally itself.
    """
    for name, tally in stages.items():
        if dense is None or tally.schema != dense.schema:
            same = False
        elif name == "runtime":
            same = tally.digest == dense.digest
        else:
            size = len(tally.schema.classes)
            same = np.array_equal(_counted(tally, tally.cells // size), _counted(dense, dense.cells // size))
        if not same:
            raise DataError(f"the tally of stage '{name}' is not of the rows of the tally against the dense network")


def _rows_of(tally: Tally) -> NDArray[np.int64]:
    """Return (cell without the reference's prediction, rows) [2, k]: what all references share."""
    size = len(tally.schema.classes)
    return _counted(tally, tally.cells // size**2 * size + tally.cells % size)


def _counted(tally: Tally, cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (coarser cell, rows) [2, k]."""
    kept, place = np.unique(cells, return_inverse=True)
    return np.stack([kept, np.bincount(place, weights=tally.counts, minlength=len(kept)).astype(np.int64)])


def _check_scores(tallies: Mapping[Reference, Tally], scores: Mapping[str, Scores]) -> None:
    """Refuse scores that are not of the rows of the tallies, or of a reference without tally."""
    tally = next(iter(tallies.values()), None)
    for name, one in scores.items():
        if tally is None or (name != "deployed" and name not in tallies):
            raise DataError(f"there are scores of '{name}', but no tally to go with them: count one, or leave them out")
        axes = tuple(tally.schema.attributes)
        same = tally.schema.attributes == one.schema.attributes and tally.schema.classes == one.schema.classes
        if not same or not np.array_equal(_by_group(tally, axes), one.sums(axes)):
            raise DataError(f"the scores of '{name}' are not of the rows of the tally")


def _by_group(tally: Tally, axes: Sequence[str]) -> NDArray[np.int64]:
    rows = tally.sums(axes)
    found: NDArray[np.int64] = rows.reshape(SCORE_BUCKETS, -1, *rows.shape[1:]).sum(1)
    return found


def _latency(samples_ms: ArrayLike, threads: int, percentiles: Sequence[int]) -> Latency:
    samples = np.asarray(samples_ms, dtype=float).round(4)
    if not len(samples) or not np.isfinite(samples).all() or samples.min() < 0:
        raise BackendError("latencies must be finite, positive and at least one: the clock or the runtime gave others")
    intervals = {}
    for percent in percentiles:
        lower, upper = percentile_bounds(samples, percent, (1 + CONFIDENCE) / 2)
        if lower is not None and upper is not None:
            intervals[f"p{percent}"] = interval(lower, upper, PERCENTILE_METHOD)
    return Latency(
        runs=len(samples),
        threads=threads,
        mean_ms=round(float(samples.mean()), 6),
        percentiles={f"p{percent}": percentile(samples, percent) for percent in percentiles},
        intervals=intervals,
        samples_ms=tuple(samples.tolist()),
    )
