"""Choose a candidate on the *tune* split: a gate that holds before one that may not, then the smallest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairdeploy.bundle import CandidateRecord, LogEntry
from fairdeploy.candidates import Candidate
from fairdeploy.data import StoredSplit
from fairdeploy.devices import Device
from fairdeploy.evidence import Evidence, judge, words
from fairdeploy.gates import Gates, Rule, Status, gate
from fairdeploy.measure import Meter, Model
from fairdeploy.records import file_digest
from fairdeploy.target import Measure

ORDER: tuple[Status, ...] = ("pass", "inconclusive", "undefined", "fail")


@dataclass(frozen=True)
class Choice:
    """The chosen candidate, what tune said of every one, and the log's entry."""

    candidate: Candidate
    records: tuple[CandidateRecord, ...]
    decisions: tuple[LogEntry, ...]


def choose(
    dense: Path, candidates: list[Candidate], meter: Meter, tune: StoredSplit, host: Device, rules: tuple[Rule, ...]
) -> Choice:
    """Judge every candidate on tune, in fp32 against the dense network, and choose.

    The gates that do not depend on a target decide: absolute fairness and changes against dense. Of candidates that
    pass them, the one with the fewest MACs; when none passes, of those with the best status the one with the highest
    worst-group accuracy, and of several the one with the fewest MACs.
    """
    reference = meter.predict(Model.onnx(dense), tune, device=host, of="dense on tune")
    gates = Gates(rules=tuple(rule for rule in rules if rule.is_fairness and rule.against != "compact"))
    judged: list[tuple[Candidate, Status, CandidateRecord]] = []
    for one in candidates:
        model = Model.onnx(one.onnx)
        deployed = meter.predict(model, tune, device=host, of=f"{one.name} on tune")
        latencies = meter.latency(model, tune, device=host, measure=Measure(), of=f"{one.name} on tune")
        tally = meter.tally(tune, reference, deployed)
        evidence = judge(
            target=one.name,
            level="device",
            level_reason="tune split, fp32 ONNX in ONNX Runtime on this host",
            artifact_digest=model.digest,
            spec_digest=meter.spec.digest,
            data_fingerprint=tune.fingerprint,
            reference_digests={"dense": file_digest(dense)},
            runtime=deployed.run.runtime,
            requested_precision="fp32",
            realised_precision=deployed.run.realised_precision,
            size_bytes=one.onnx.stat().st_size,
            peak_memory_mb=None,
            tallies={"dense": tally},
            stages={},
            latencies_ms=None,
            reference_latencies_ms={},
            seed=0,
        )
        status: Status = gate(evidence, gates).status if gates.rules else "pass"
        judged.append((one, status, _record(one, evidence, float(np.median(latencies.samples_ms)))))
    best = min(ORDER.index(status) for _, status, _ in judged)
    feasible = [(one, record) for one, status, record in judged if ORDER.index(status) == best]
    if ORDER[best] == "pass":
        chosen, _ = min(feasible, key=lambda pair: pair[1].macs)
        why = "it has the fewest MACs of those whose gates hold on tune"
    else:
        chosen, _ = max(feasible, key=lambda pair: (pair[1].worst_group_accuracy, -pair[1].macs))
        why = f"no candidate passes on tune; of those that are '{ORDER[best]}' it has the best worst-group accuracy"
    records = tuple(
        record.model_copy(update={"chosen": one is chosen, "reason": why if one is chosen else f"on tune: {status}"})
        for one, status, record in judged
    )
    decided = dict.fromkeys(entry for one in candidates for entry in one.decisions)  # what they share is said once
    return Choice(chosen, records, (*decided, LogEntry(station="choose", decision=chosen.name, reason=why)))


def _record(one: Candidate, evidence: Evidence, latency_p50_ms: float) -> CandidateRecord:
    accuracy = {
        tuple(rate.group.items()): rate.value
        for rate in evidence.record.rates
        if rate.metric == "accuracy" and not rate.context and rate.value is not None and len(rate.group) < 2
    }
    overall = accuracy.pop(())
    worst = min(accuracy, key=lambda group: accuracy[group])
    return CandidateRecord(
        name=one.name,
        keep={} if one.level is None else one.level.limits,
        macs=one.macs,
        macs_share=1.0 if one.compaction is None else one.macs / one.compaction.macs_before,
        parameters=one.parameters,
        size_bytes=one.onnx.stat().st_size,
        latency_p50_ms=round(latency_p50_ms, 4),
        accuracy=overall,
        worst_group_accuracy=accuracy[worst],
        worst_group=words(dict(worst)),
        chosen=False,
        reason="",
    )
