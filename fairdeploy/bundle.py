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
        gates.json          Gates, as read before the targets were run
        model-spec.json, target.json
        tally-<reference>.json, tally-stage-<stage>.json, scores-<column>.json where there are scores
        decision-log.json

What ``fairdeploy judge --out`` writes is one such folder; in the place of artifact, model-spec.json and target.json it
has predictions.json (`PredictionsRecord`), since its predictions were made elsewhere; and where a reference saw other
rows, these in tally-<reference>-unpaired.json.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from fairdeploy.errors import ConfigError, IntegrityError
from fairdeploy.evidence import Evidence, Tally
from fairdeploy.evidence.records import EvidenceRecord, Reference
from fairdeploy.evidence.scores import Scores
from fairdeploy.gates import Gates, Verdict
from fairdeploy.model import ModelSpec
from fairdeploy.records import Record, digest, file_digest, write_atomic
from fairdeploy.target import Target


class CandidateRecord(Record):
    """One pruned network of a build and what *tune* said of it; rates are fractions.

    `keep` is what was allowed, as fractions of the dense network's costs; `macs_share` is what it has of its
    multiply-accumulates.
    """

    name: str
    keep: dict[str, float]
    macs: int
    macs_share: float
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
    """What compaction removed, why the rest stayed, and the proof that the outputs did; see `CompactModel`."""

    macs_before: int
    macs_after: int
    parameters_before: int
    parameters_after: int
    bytes_before: int
    bytes_after: int
    max_difference: float
    output_sensitivity: float
    batch_sizes: tuple[int, ...]
    layers: tuple[LayerWidths, ...]
    kept_because: dict[str, str]
    whole: dict[str, str]
    unknown_ops: tuple[str, ...]
    not_own_class: str | None


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


class LogEntry(Record):
    """One entry of the decision log: what was decided, on which split, and why."""

    station: str
    decision: str
    reason: str


class ChannelService(Record):
    """Whom one channel serves: by how much the mean loss of each slice rises when it alone is closed.

    `channel` is its number in the dense network. `rises` follow the slices of the record, None where one has no rows.
    For each attribute `most` is the level whose loss rises most and `share` its part of all that rises (1 / levels
    where all depend on it alike); None where no loss rises.
    """

    channel: int
    rises: tuple[float | None, ...]
    most: dict[str, str | None]
    share: dict[str, float | None]


class GroupService(Record):
    """The channels of one coupled group."""

    group: str
    channels: tuple[ChannelService, ...]


class ContributionsRecord(Record):
    """Which channels of a network serve whom; see `fairdeploy.pruning.slices.Contributions`.

    `rows` were looked at in all; `slices` say how many of them each group of people has.
    """

    schema_version: Literal[1] = 1
    rows: int
    slices: tuple[GroupCount, ...]
    groups: tuple[GroupService, ...]


class ServesRecord(Record):
    """Which channels serve whom before pruning, and in the network that was chosen.

    `after` has the numbers that channels have before; a group is missing there whose channels could not be followed.
    It is None where none could.
    """

    before: ContributionsRecord
    after: ContributionsRecord | None


class ConstraintCourse(Record):
    """One constraint over a training: its worst value and its largest multiplier at each look."""

    name: str
    quantity: str
    limit: float
    values: tuple[float, ...]
    multipliers: tuple[float, ...]


class TrainingCourse(Record):
    """How a training under constraints went, look by look at the prune split.

    `steps` are those of the optimiser; `losses` are the training losses there; `kept` is the share of the dense
    network's cost that was left, empty where a training removes nothing.
    """

    schema_version: Literal[1] = 1
    station: str
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    constraints: tuple[ConstraintCourse, ...]
    kept: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _of_one_length(self) -> Self:
        columns = [self.losses, *(column for one in self.constraints for column in (one.values, one.multipliers))]
        if not self.steps or any(len(column) != len(self.steps) for column in [*columns, self.kept or self.steps]):
            raise ValueError("a course has one loss, and one value and multiplier of each constraint, for each step")
        return self


MEASURED = (  # what evidence has of an artifact that was run, and never of predictions that were made elsewhere
    "level", "artifact_digest", "reference_digests", "identical_to", "failure", "runtime", "realised_precision",
    "size_bytes", "peak_memory_mb", "latency", "reference_latency", "stages",
)  # fmt: skip
LOOK = "evaluate"  # station of those entries of the decision log that are looks at the evaluate split


class BuildRecord(Record):
    """What all targets of one build share.

    `attempts` counts the builds that were judged on this very evaluate split in this project's folder, `gate_sets`
    the different sets of gates that they were judged under; each look ends the decision log. `across` is the verdict
    over all targets under `across_gates`, where the project asks for one. `inputs` are the digests of all that went
    in: the user's code and weights, the configuration, and each split. `courses` are those of the trainings under
    constraints that the chosen network went through, `serves` where the project asks for it.
    """

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
    courses: tuple[TrainingCourse, ...] = ()
    serves: ServesRecord | None = None
    export_max_difference: float | None
    dense_size_bytes: int
    compact_size_bytes: int
    group_counts: tuple[GroupCount, ...]
    decisions: tuple[LogEntry, ...]
    inputs: dict[str, str]
    times: tuple[StationTime, ...]
    attempts: int
    gate_sets: int
    machine: dict[str, str]
    versions: dict[str, str]
    targets: tuple[str, ...]
    across_gates: Gates | None = None
    across: Verdict | None = None


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


class PredictionsRecord(Record):
    """What predictions that were made elsewhere mean: it stands where a built bundle has target and model spec.

    `decision` says how the judged predictions were decided and `references` how those of each reference were, as in
    "column 'prediction'" or "column 'score' >= 0.5". The order of `classes` is that of the tallies. `notes` say what
    was read from the data because nobody declared it, and what looks odd.
    """

    schema_version: Literal[1] = 1
    name: str
    classes: tuple[str, ...]
    decision: str
    references: dict[Reference, str]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bundle:
    """A bundle, read and checked: what every reader of evidence and verdicts needs."""

    folder: Path
    manifest: Manifest
    gates: Gates
    evidence: EvidenceRecord
    verdict: Verdict


@dataclass(frozen=True)
class TargetBundle(Bundle):
    """The bundle of one target of a build."""

    target: Target
    spec: ModelSpec


@dataclass(frozen=True)
class JudgedBundle(Bundle):
    """The bundle of predictions that were made elsewhere: no artifact, no target, no model spec."""

    predictions: PredictionsRecord


def seal(
    folder: Path, records: Mapping[str, Record], texts: Mapping[str, str], artifact: Path | None, **manifest: Any
) -> None:
    """Write one target's bundle into a new folder: its records, its artifact, and last the manifest.

    Parameters
    ----------
    folder : Path
        Made by this call.
    records, texts : mapping of str to Record or str
        Contents by file name.
    artifact : Path or None
        Folder with the artifact's files; None when nothing could be compiled.
    **manifest
        Fields of the `Manifest` besides `files`.
    """
    folder.mkdir(parents=True)
    for name, record in records.items():
        record.save(folder / name)
    for name, text in texts.items():
        write_atomic(folder / name, text.encode())
    if artifact is not None:
        shutil.copytree(artifact, folder / "artifact", ignore=shutil.ignore_patterns("entry.json"))
    digests = {file.relative_to(folder).as_posix(): file_digest(file) for file in _files(folder)}
    Manifest(files=digests, **manifest).save(folder / "manifest.json")


def load_bundle(folder: Path) -> TargetBundle | JudgedBundle:
    """Read one bundle and check every digest.

    Raises
    ------
    ConfigError
        If the folder is no bundle.
    IntegrityError
        If files are missing, were added or changed, all of them named; or its records do not belong together.
    """
    if not (folder / "manifest.json").is_file():
        raise ConfigError("no manifest.json here: give the folder of one target's bundle", file=folder)
    manifest = Manifest.load(folder / "manifest.json")
    found = {file.relative_to(folder).as_posix(): file for file in _files(folder) if file.name != "manifest.json"}
    wrong = [f"missing {name}" for name in manifest.files.keys() - found.keys()]
    wrong += [f"added {name}" for name in found.keys() - manifest.files.keys()]
    wrong += [
        f"changed {name}" for name, file in found.items() if manifest.files.get(name, "") not in ("", file_digest(file))
    ]
    if wrong:
        raise IntegrityError(f"{folder}: not what was sealed: {', '.join(sorted(wrong))}")
    parts: dict[str, Any] = {
        "folder": folder,
        "manifest": manifest,
        "gates": Gates.load(folder / "gates.json"),
        "evidence": EvidenceRecord.load(folder / "evidence.json"),
        "verdict": Verdict.load(folder / "verdict.json"),
    }
    bundle: TargetBundle | JudgedBundle
    if "predictions.json" in manifest.files:
        predictions = PredictionsRecord.load(folder / "predictions.json")
        bundle = JudgedBundle(**parts, predictions=predictions)
        name, spec_digest = predictions.name, predictions.digest
    else:
        target, spec = Target.load(folder / "target.json"), ModelSpec.load(folder / "model-spec.json")
        bundle = TargetBundle(**parts, target=target, spec=spec)
        name, spec_digest = target.id, spec.digest
    verdict, evidence = bundle.verdict, bundle.evidence
    if len({manifest.target, name, evidence.target, verdict.target}) != 1:
        raise IntegrityError(f"{folder}: its files are of different targets")
    if verdict.evidence_digest != evidence.digest or verdict.gates_digest != bundle.gates.digest:
        raise IntegrityError(f"{folder}: the verdict was made for other evidence or other gates")
    if evidence.spec_digest != spec_digest:
        raise IntegrityError(f"{folder}: the evidence was made for another model spec")
    claimed = [name for name in MEASURED if getattr(evidence, name) not in (None, (), {})]
    if isinstance(bundle, JudgedBundle) and claimed:
        raise IntegrityError(
            f"{folder}: its predictions were made elsewhere, so nothing was run here, but its evidence has "
            f"{', '.join(claimed)}"
        )
    return bundle


def load_evidence(bundle: Bundle) -> Evidence:
    """Return a bundle's evidence with its tallies, so that it can be gated again.

    Raises
    ------
    IntegrityError
        If a tally or a histogram of scores is not the one that the evidence names, or is missing.
    """
    record = bundle.evidence
    tallies = {name: _tally(bundle, name, known) for name, known in record.tally_digests.items()}
    unpaired = {name: _tally(bundle, f"{name}-unpaired", known) for name, known in record.unpaired_digests.items()}
    stages = {one.stage: _tally(bundle, f"stage-{one.stage}", one.tally_digest) for one in record.stages}
    scores: dict[str, Scores] = {}
    for column, known in record.score_digests.items():
        scores[column] = Scores.from_json(_sealed(bundle, f"scores-{column}.json"))
        if scores[column].digest != known:
            raise IntegrityError(f"{bundle.folder}: scores-{column}.json are not the scores of this evidence")
    return Evidence(record=record, tallies=tallies, scores=scores, unpaired=unpaired, stages=stages)


def _tally(bundle: Bundle, name: str, known: str) -> Tally:
    tally = Tally.from_json(_sealed(bundle, f"tally-{name}.json"))
    if tally.digest != known:
        raise IntegrityError(f"{bundle.folder}: tally-{name}.json is not the tally of this evidence")
    return tally


def _sealed(bundle: Bundle, name: str) -> str:
    if name not in bundle.manifest.files:
        raise IntegrityError(f"{bundle.folder}: the evidence names {name}, which was never sealed")
    return (bundle.folder / name).read_text("utf-8")


def load_build(folder: Path) -> tuple[BuildRecord, list[TargetBundle]]:
    """Read a build folder: what its targets share, and each target's bundle in the build's order.

    Raises
    ------
    ConfigError
        If the folder is no build.
    IntegrityError
        If a bundle is not what was sealed.
    """
    if not (folder / "build.json").is_file():
        raise ConfigError("no build here: run 'fairdeploy build' first", file=folder)
    build = BuildRecord.load(folder / "build.json")
    bundles = []
    for name in build.targets:
        bundle = load_bundle(folder / name)
        if not isinstance(bundle, TargetBundle):
            raise IntegrityError(f"{folder / name}: predictions that were made elsewhere are no part of a build")
        bundles.append(bundle)
    if build.build_id != build_identity(build, {one.target.id: (one.target, one.verdict) for one in bundles}):
        raise IntegrityError(f"{folder}: build.json or a whole bundle is not what was sealed")
    log = [entry.model_dump(mode="json") for entry in build.decisions]
    for one in bundles:
        if json.loads((one.folder / "decision-log.json").read_text()) != log:
            raise IntegrityError(f"{one.folder}: its decision log is not that of build.json")
    foreign = [one.target.id for one in bundles if one.manifest.build_id != build.build_id]
    if foreign:
        raise IntegrityError(f"{folder}: bundles of another build: {', '.join(foreign)}")
    for name, known in (bundles[0].evidence.reference_digests if bundles else {}).items():
        reference = folder / "references" / f"{name}.onnx"
        if not reference.is_file() or file_digest(reference) != known:
            raise IntegrityError(f"{folder}: references/{name}.onnx is not the reference of this build")
    return build, bundles


def build_identity(build: BuildRecord, targets: Mapping[str, tuple[Target, Verdict]]) -> str:
    """Return a build's id: a digest over all that it says, except what differs from run to run."""
    varying = {"build_id", "attempts", "gate_sets", "times", "machine", "versions"}
    made = build.model_copy(update={"decisions": tuple(one for one in build.decisions if one.station != LOOK)})
    parts: dict[str, Any] = {
        "record": made.model_dump(mode="json", exclude=varying),
        "targets": {name: [target.digest, verdict.digest] for name, (target, verdict) in targets.items()},
    }
    return digest(parts)[:12]


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())
