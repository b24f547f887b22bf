"""Bundles: what is left of a build, immutable and digested, without rows, ids or pictures of people.

::

    build/<build id>/
      build.json            BuildRecord: what all targets share (candidates, compaction, data, times)
      report.html
      <target id>/
        manifest.json       Manifest: digest of every other file here, versions, seeds, machine
        artifact/...
        evidence.json       EvidenceRecord
        verdict.json        Verdict
        gates.json          Gates, as fixed before the evaluation
        model-spec.json, target.json
        tally-<reference>.json
        decision-log.json
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fairdeploy.evidence.records import EvidenceRecord
from fairdeploy.gates import Gates, Verdict
from fairdeploy.model import ModelSpec
from fairdeploy.records import Record
from fairdeploy.target import Target


class CandidateRecord(Record):
    """One pruned network of a build and what *tune* said of it; rates are fractions."""

    name: str
    keep_macs: float
    macs: int
    parameters: int
    size_bytes: int
    latency_p50_ms: float | None
    accuracy: float
    worst_group_accuracy: float
    worst_group: str
    chosen: bool
    reason: str


class LayerWidths(Record):
    """Channels of one coupled group before and after compaction."""

    group: str
    before: int
    after: int


class CompactionRecord(Record):
    """What compaction removed, and the proof that the outputs stayed."""

    macs_before: int
    macs_after: int
    parameters_before: int
    parameters_after: int
    max_difference: float
    output_sensitivity: float
    batch_sizes: tuple[int, ...]
    layers: tuple[LayerWidths, ...]


class GroupCount(Record):
    """Rows of one group in one split."""

    split: str
    attribute: str
    level: str
    rows: int


class StationTime(Record):
    """How long one station took when it last ran, and whether this build took it from the store."""

    station: str
    seconds: float
    cached: bool


class Decision(Record):
    """One entry of the decision log: what was decided, on which split, and why."""

    station: str
    decision: str
    reason: str


class BuildRecord(Record):
    """What all targets of one build share."""

    schema_version: Literal[1] = 1
    build_id: str
    project: str
    fairdeploy_version: str
    seed: int
    classes: tuple[str, ...]
    attributes: dict[str, tuple[str, ...]]
    data_note: str
    candidates: tuple[CandidateRecord, ...]
    compaction: CompactionRecord | None
    export_max_difference: float | None
    dense_size_bytes: int
    compact_size_bytes: int
    group_counts: tuple[GroupCount, ...]
    decisions: tuple[Decision, ...]
    times: tuple[StationTime, ...]
    attempts: int
    machine: dict[str, str]
    versions: dict[str, str]
    targets: tuple[str, ...]


class Manifest(Record):
    """Digest of every file of a bundle, and where it came from."""

    schema_version: Literal[1] = 1
    target: str
    build_id: str
    fake_device: bool
    files: dict[str, str]
    parents: dict[str, str]
    versions: dict[str, str]
    machine: dict[str, str]
    seed: int


@dataclass(frozen=True)
class Bundle:
    """One target's bundle, read and checked."""

    folder: Path
    manifest: Manifest
    target: Target
    spec: ModelSpec
    gates: Gates
    evidence: EvidenceRecord
    verdict: Verdict
