"""Build: string the stations together over the store, once for all targets and then for each.

``prune -> compact -> recover -> export`` make the candidates, *tune* chooses one, and every target then calibrates,
compiles, runs, judges, gates and seals on its own: when one fails the others go on.
"""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from importlib.util import find_spec
from pathlib import Path

from fairdeploy import __version__
from fairdeploy.attempts import Looks, note_look
from fairdeploy.bundle import (
    BuildRecord,
    GroupCount,
    StationTime,
    TargetBundle,
    build_identity,
    load_build,
    load_evidence,
)
from fairdeploy.choose import Choice
from fairdeploy.data import StoredSplit, count_groups
from fairdeploy.deploy import Outcome, References, versions
from fairdeploy.devices import Device, DeviceFacts
from fairdeploy.devices.facts import read_facts
from fairdeploy.errors import ConfigError, ExitCode, MissingExtra
from fairdeploy.evidence.records import EvidenceRecord, StageName
from fairdeploy.gates import Verdict, gates_of, worst_exit
from fairdeploy.line import STATE, Line, Listener
from fairdeploy.measure import Predictions
from fairdeploy.policy import Policy
from fairdeploy.project import CONFIG_NAME, Project, load_project, resolve_targets
from fairdeploy.records import digest, file_digest
from fairdeploy.store import Kept, locked

BUILDS = "build"


@dataclass(frozen=True)
class Build:
    """A finished build: its folder, its record, one sealed bundle per target, and what this run took."""

    folder: Path
    record: BuildRecord
    bundles: list[TargetBundle]
    times: tuple[StationTime, ...]

    @property
    def exit_code(self) -> ExitCode:
        """The worst of the targets' verdicts and of the one over all targets."""
        across = [self.record.across.status] if self.record.across else []
        return worst_exit([*(bundle.verdict.status for bundle in self.bundles), *across])


def build(
    folder: Path,
    only: tuple[str, ...] = (),
    *,
    config: str = CONFIG_NAME,
    devices: Mapping[str, Device] | None = None,
    fresh: bool = False,
    listener: Listener | None = None,
    today: date | None = None,
) -> Build:
    """Build every target of a project, or those named.

    Parameters
    ----------
    folder : Path
        The project's folder.
    only : tuple of str
        Target ids or aliases; empty for all that the project lists.
    config : str
        Name of the configuration file.
    devices : mapping of str to Device, optional
        Devices by target id; this host where none is given.
    fresh : bool
        Run every station again.
    today : date, optional
        What waivers are held against; this machine's date when left out.

    Raises
    ------
    ConfigError
        If the project, a target, the data or the gates are wrong.
    MissingExtra
        If PyTorch or what exports it is not installed.
    StageError
        If a station before the targets failed, so that nothing could be judged.
    """
    line = Line(folder, config, fresh, devices=devices or {}, listener=listener or Listener())
    for package in ("torch", "safetensors", "onnxscript", "onnxslim"):
        if find_spec(package) is None:
            raise MissingExtra("building from a PyTorch model", "torch")
    targets = line.targets(only)
    policy = Policy.read(line.project, line.document, folder, today=today or date.today())
    splits = line.splits()
    networks = line.networks(splits)
    choice = line.choose(splits, networks)
    serves = networks.serves(choice.candidate.level)
    deployment = line.deployment(splits, networks, choice.candidate)
    outcomes = [deployment.run(used.target, gates, line.devices.get(used.target.id)) for used, gates in targets]
    outcomes = [replace(one, verdict=policy.gate(one.evidence, one.gates)) for one in outcomes]
    record = _record(line, splits, deployment.references, choice, outcomes)
    record = record.model_copy(update={"serves": serves})
    return _seal_build(line, record, deployment.references, outcomes, policy)


def latest(folder: Path) -> Path:
    """Return the folder of the project's latest build."""
    return folder / BUILDS / "latest"


def _seal_build(
    line: Line, record: BuildRecord, references: References, outcomes: list[Outcome], policy: Policy
) -> Build:
    across = policy.gate_across([one.evidence for one in outcomes])
    record = record.model_copy(update={"across_gates": policy.across, "across": across})
    build_id = build_identity(record, {one.target.id: (one.target, one.verdict) for one in outcomes})
    place = line.folder / BUILDS / build_id
    looks = _look(line.folder, build_id, [(one.evidence.record, one.verdict) for one in outcomes], across)
    line.store.note_use(build_id)
    with locked(line.folder / STATE / "sealing"):
        _sweep(place.parent)
        if not (place / "build.json").is_file():
            decisions = (*record.decisions, *looks.entries)
            counted = {"attempts": looks.builds, "gate_sets": looks.gate_sets, "decisions": decisions}
            _write_build(place, record.model_copy(update={"build_id": build_id, **counted}), references, outcomes)
        _point_latest(place)
    sealed, bundles = load_build(place)
    return Build(place, sealed, bundles, times=_times(line))


def _write_build(place: Path, record: BuildRecord, references: References, outcomes: list[Outcome]) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=place.parent, prefix=".sealing-"))
    try:
        for one in outcomes:
            one.seal(work / one.target.id, record)
        (work / "references").mkdir()
        shutil.copyfile(references.dense, work / "references" / "dense.onnx")
        shutil.copyfile(references.compact, work / "references" / "compact.onnx")
        record.save(work / "build.json")
        work.chmod(0o755)
        work.replace(place)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _sweep(builds: Path) -> None:
    """Remove what a killed process left half sealed."""
    for left in builds.glob(".sealing-*"):
        shutil.rmtree(left, ignore_errors=True)


def _record(
    line: Line, splits: dict[str, StoredSplit], references: References, choice: Choice, outcomes: list[Outcome]
) -> BuildRecord:
    project = line.project
    return BuildRecord(
        build_id="",
        attempts=0,
        gate_sets=0,
        project=project.name,
        fairdeploy_version=__version__,
        seed=project.seed,
        classes=project.spec.classes,
        attributes=project.groups.attributes,
        data_note=project.data.note,
        candidates=choice.records,
        compaction=choice.candidate.compaction,
        courses=choice.candidate.courses,
        export_max_difference=choice.candidate.export.max_difference,
        dense_size_bytes=references.dense.stat().st_size,
        compact_size_bytes=references.compact.stat().st_size,
        group_counts=tuple(
            GroupCount(split=name, attribute=attribute, level=level, rows=rows)
            for name, split in splits.items()
            for attribute, level, rows in count_groups(split, project.groups)
        ),
        inputs={
            "model": line.networks(splits).identity,
            "configuration": digest(line.document.data),
            **{f"data {name}": split.fingerprint for name, split in splits.items()},
        },
        decisions=(*choice.decisions, *(one.decision for one in outcomes)),
        times=_times(line),
        machine=_machine(),
        versions=versions(),
        targets=tuple(one.target.id for one in outcomes),
    )


def _machine() -> dict[str, str]:
    facts = DeviceFacts.model_validate(read_facts())
    return {"arch": facts.arch, "model": facts.model, "python": platform.python_version()}


def _times(line: Line) -> tuple[StationTime, ...]:
    """Return each station once, in the order in which it was first needed."""
    first: dict[Path, Kept] = {}
    for kept in line.store.log:
        first.setdefault(kept.folder, kept)
    return tuple(StationTime(station=kept.label, seconds=kept.seconds, cached=kept.cached) for kept in first.values())


def _look(
    folder: Path, name: str, judged: list[tuple[EvidenceRecord, Verdict]], across: Verdict | None = None
) -> Looks:
    """Note a look at the evaluate split: what was judged, under which gates, and what came out."""
    verdicts = [verdict for _, verdict in judged] + ([across] if across else [])
    gates = {one.target: one.gates_digest for one in verdicts}
    return note_look(folder, name, judged[0][0].data_fingerprint, gates, {one.target: one.status for one in verdicts})


def _point_latest(place: Path) -> None:
    latest = place.parent / "latest"
    if latest.is_dir() and not latest.is_symlink():  # a copy of the project whose links were followed
        raise ConfigError(
            f"a folder is in the way of the link to the newest build; remove it ({place.name} is sealed)", file=latest
        )
    link = place.parent / ".latest"
    link.unlink(missing_ok=True)
    link.symlink_to(place.name)
    link.replace(latest)


def regate(
    folder: Path,
    build_folder: Path,
    only: tuple[str, ...] = (),
    *,
    config: str = CONFIG_NAME,
    today: date | None = None,
) -> list[Verdict]:
    """Gate a finished build's evidence with the gates that the project holds now; nothing is run.

    It is a look at the evaluate split, and is counted as one.

    Returns
    -------
    list of Verdict
        One per target; last the one over all targets, where the project asks for it.

    Raises
    ------
    ConfigError
        If there is no build, or it holds none of the named targets.
    IntegrityError
        If a bundle is not what was sealed.
    """
    project, document = load_project(folder, config)
    policy = Policy.read(project, document, folder, today=today or date.today())
    build, bundles = _build_of(project, build_folder)
    built = {bundle.target.id: bundle for bundle in bundles}
    judged = []
    for used in resolve_targets(project, document, folder, only or tuple(built)):
        if used.target.id not in built:
            raise ConfigError(
                f"this build has no target '{used.target.id}'; it has {', '.join(built)}", file=build_folder
            )
        evidence = load_evidence(built[used.target.id])
        judged.append((evidence, policy.gate(evidence, gates_of(used, project.task))))
    across = policy.gate_across([evidence for evidence, _ in judged])
    _look(folder, build.build_id, [(evidence.record, verdict) for evidence, verdict in judged], across)
    return [verdict for _, verdict in judged] + ([across] if across else [])


def _build_of(project: Project, build_folder: Path) -> tuple[BuildRecord, list[TargetBundle]]:
    """Load a build and refuse one of another project or another model spec."""
    build, bundles = load_build(build_folder)
    if build.project != project.name:
        raise ConfigError(f"this build is of project '{build.project}', not '{project.name}'", file=build_folder)
    if any(one.spec.digest != project.spec.digest for one in bundles):
        raise ConfigError("this build was made for other inputs, preprocessing or decision rule", file=build_folder)
    return build, bundles


def verify_artifact(
    folder: Path,
    artifact: Path,
    name: str,
    *,
    baseline: Path | None = None,
    config: str = CONFIG_NAME,
    listener: Listener | None = None,
) -> tuple[Verdict, EvidenceRecord]:
    """Run and judge an artifact that exists already, on this host, against the latest build's references.

    Parameters
    ----------
    folder : Path
        The project's folder.
    artifact : Path
        The file that the target's runtime loads.
    name : str
        The target: id or alias.
    baseline : Path, optional
        fp32 ONNX file of the dense network; by default the latest build's. The compact reference is always the
        latest build's; without a build, the baseline stands for both.

    Raises
    ------
    ConfigError
        If the artifact or a reference is missing, or the baseline is the artifact itself.
    IntegrityError
        If the latest build or its references are not what was sealed.
    """
    line = Line(folder, config, listener=listener or Listener())
    ((used, gates),) = line.targets((name,))
    built = latest(folder).exists()
    if built:
        _build_of(line.project, latest(folder))
    dense = baseline or latest(folder) / "references" / "dense.onnx"
    compact = latest(folder) / "references" / "compact.onnx" if built else dense
    for file, what in ((artifact, "--artifact"), (dense, "--baseline (or run 'fairdeploy build' first)")):
        if not file.is_file():
            raise ConfigError(f"no such file: give it with {what}", file=file)
    if file_digest(artifact) == file_digest(compact) and not built:
        raise ConfigError("is the artifact itself: give the network that it was made from with --baseline", file=dense)
    splits = line.splits(("calibrate", "evaluate"))
    references = line.references(dense, compact, splits["evaluate"])
    stages: dict[StageName, Predictions] = {
        "dense": references.predictions["dense"],
        "exported": references.predictions["compact"],
    }
    outcome = line.deployment_with(splits, references, stages).judge_artifact(used.target, gates, artifact)
    evidence = outcome.evidence.record
    _look(folder, f"artifact {(evidence.artifact_digest or '')[:12]}", [(evidence, outcome.verdict)])
    return outcome.verdict, evidence
