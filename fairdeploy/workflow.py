"""Build: string the stations together over the store, once for all targets and then for each.

``prune -> compact -> recover -> export`` make the candidates, *tune* chooses one, and every target then calibrates,
compiles, runs, judges, gates and seals on its own: when one fails the others go on.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fairdeploy import __version__
from fairdeploy.bundle import BuildRecord, Bundle, GroupCount, StationTime, load_build, load_evidence
from fairdeploy.candidates import Candidate, Networks
from fairdeploy.choose import Choice, choose
from fairdeploy.data import SPLITS, StoredSplit, check_overlap, count_groups, load_splits, materialise
from fairdeploy.deploy import Deployment, Outcome, References, versions
from fairdeploy.devices import Device, HostDevice
from fairdeploy.errors import ConfigError, ExitCode
from fairdeploy.evidence.records import EvidenceRecord, StageName
from fairdeploy.gates import Gates, Verdict, gate, parse_gates, worst_exit
from fairdeploy.measure import Meter, Model, Predictions
from fairdeploy.project import CONFIG_NAME, TargetUsed, load_project, resolve_targets
from fairdeploy.records import digest, write_atomic
from fairdeploy.store import Kept, Store
from fairdeploy.usercode import code_digest

STATE = ".fairdeploy"
BUILDS = "build"


@dataclass(frozen=True)
class Listener:
    """Who is told how far a build is.

    Attributes
    ----------
    on_start : callable
        Told a station's label when it starts to run.
    on_done : callable
        Told the `Kept` of every station, from the store or fresh.
    progress : callable
        Told ``(done, total)`` within a long station.
    """

    on_start: Callable[[str], None] = lambda label: None
    on_done: Callable[[Kept], None] = lambda kept: None
    progress: Callable[[int, int], None] = lambda done, total: None


@dataclass(frozen=True)
class Build:
    """A finished build: its folder, its record, one sealed bundle per target, and what this run took."""

    folder: Path
    record: BuildRecord
    bundles: list[Bundle]
    times: tuple[StationTime, ...]

    @property
    def exit_code(self) -> ExitCode:
        """The worst of the targets' verdicts."""
        return worst_exit([bundle.verdict.status for bundle in self.bundles])


@dataclass
class Line:
    """One project's stations over its store.

    Attributes
    ----------
    folder : Path
        The project's folder.
    config : str
        Name of its configuration file.
    fresh, dry : bool
        See `Store`.
    devices : dict of str to Device
        Devices by target id; this host where none is given.
    """

    folder: Path
    config: str = CONFIG_NAME
    fresh: bool = False
    dry: bool = False
    devices: Mapping[str, Device] = field(default_factory=dict)
    listener: Listener = field(default_factory=Listener)

    def __post_init__(self) -> None:
        self.project, self.document = load_project(self.folder, self.config)
        self.store = Store(
            self.folder / STATE / "store", self.fresh, self.dry, self.listener.on_start, self.listener.on_done
        )
        self.host = HostDevice()
        self.meter = Meter(self.store, self.project.spec, self.project.groups)

    def targets(self, only: tuple[str, ...]) -> list[tuple[TargetUsed, Gates]]:
        """Return the targets with all their gates, fixed before anything is evaluated."""
        used = resolve_targets(self.project, self.document, self.folder, only)
        return [(one, gates_of(one)) for one in used]

    def splits(self, names: Iterable[str] = SPLITS) -> dict[str, StoredSplit]:
        """Load the data set once into the store, and refuse one whose evaluate split overlaps another."""
        project, made = self.project, {}
        for name in names:
            kept = self.store.run(
                "data",
                lambda out, name=name: _materialise(self, name, out),  # type: ignore[misc]
                of=name,
                split=name,
                code=code_digest(self.folder, project.data.files),
                source=project.data.model_dump(mode="json"),
                groups=project.groups.model_dump(mode="json"),
                spec=project.spec.digest,
            )
            made[name] = StoredSplit.load(kept.folder)
        others = {name: split for name, split in made.items() if name != "evaluate"}
        if "evaluate" in made and others:
            check_overlap(made["evaluate"], others)
        return made

    def networks(self, splits: dict[str, StoredSplit]) -> Networks:
        """Return the stations that make candidates; nothing runs yet."""
        return Networks(self.project, self.folder, self.store, splits, self.listener.progress)

    def choose(self, splits: dict[str, StoredSplit], networks: Networks) -> Choice:
        """Make every candidate and choose one on *tune*."""
        keep = self.project.prune.keep
        dense = networks.export_dense().folder / "model.onnx"
        candidates = [networks.candidate(level) for level in keep.macs] if keep else [networks.unpruned()]
        return choose(dense, candidates, self.meter, splits["tune"], self.host, parse_gates(self.document))

    def deployment(self, splits: dict[str, StoredSplit], networks: Networks, candidate: Candidate) -> Deployment:
        """Predict the evaluate split at every stage before the targets; all that they share."""
        dense = networks.export_dense().folder / "model.onnx"
        references = self.references(dense, candidate.onnx, splits["evaluate"])
        stages: dict[StageName, Predictions] = {"dense": references.predictions["dense"]}
        if candidate.compaction:
            level = candidate.keep_macs
            masked, compact = networks.export_masked(level), networks.export_compact(level)
            stages["pruned"] = self.predict(Model.onnx(masked.folder / "model.onnx"), splits["evaluate"], "pruned")
            stages["compact"] = self.predict(Model.onnx(compact.folder / "model.onnx"), splits["evaluate"], "compact")
        stages["exported"] = references.predictions["compact"]
        return self.deployment_with(splits, references, stages)

    def deployment_with(
        self, splits: dict[str, StoredSplit], references: References, stages: dict[StageName, Predictions]
    ) -> Deployment:
        """Return what the targets share, from given references."""
        return Deployment(self.store, self.meter, self.project.seed, self.host, splits, references, stages)

    def references(self, dense: Path, compact: Path, evaluate: StoredSplit) -> References:
        """Predict the evaluate split with the two references, in ONNX Runtime on this host."""
        return References(
            dense=dense,
            compact=compact,
            predictions={
                "dense": self.predict(Model.onnx(dense), evaluate, "dense"),
                "compact": self.predict(Model.onnx(compact), evaluate, "exported"),
            },
        )

    def predict(self, model: Model, split: StoredSplit, of: str) -> Predictions:
        """Predict a split on this host."""
        return self.meter.predict(model, split, device=self.host, of=of)


def build(
    folder: Path,
    only: tuple[str, ...] = (),
    *,
    config: str = CONFIG_NAME,
    devices: Mapping[str, Device] | None = None,
    fresh: bool = False,
    listener: Listener | None = None,
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

    Raises
    ------
    ConfigError
        If the project, a target, the data or the gates are wrong.
    StageError
        If a station before the targets failed, so that nothing could be judged.
    """
    line = Line(folder, config, fresh, devices=devices or {}, listener=listener or Listener())
    targets = line.targets(only)
    splits = line.splits()
    networks = line.networks(splits)
    choice = line.choose(splits, networks)
    deployment = line.deployment(splits, networks, choice.candidate)
    outcomes = [deployment.run(used.target, gates, line.devices.get(used.target.id)) for used, gates in targets]
    return _seal_build(line, splits, deployment.references, choice, outcomes)


def gates_of(used: TargetUsed) -> Gates:
    """Collect the rules of one target: project-wide ones, the target's, and this use's."""
    return Gates(rules=tuple(rule for document, path in used.gate_sources for rule in parse_gates(document, path)))


def latest(folder: Path) -> Path:
    """Return the folder of the project's latest build."""
    return folder / BUILDS / "latest"


def _materialise(line: Line, name: str, out: Path) -> None:
    splits = load_splits(line.project, line.folder)
    materialise(splits[name], out, spec=line.project.spec, groups=line.project.groups, progress=line.listener.progress)


def _seal_build(
    line: Line, splits: dict[str, StoredSplit], references: References, choice: Choice, outcomes: list[Outcome]
) -> Build:
    parts = {
        "fairdeploy": __version__,
        "project": line.project.name,
        "candidates": [one.model_dump(mode="json") for one in choice.records],
        "targets": {one.target.id: one.verdict.digest for one in outcomes},
    }
    build_id = digest(parts)[:12]
    place = line.folder / BUILDS / build_id
    attempts = _count_attempt(line.folder, build_id, outcomes)
    if not (place / "build.json").is_file():
        record = _record(line, splits, references, choice, outcomes).model_copy(
            update={"build_id": build_id, "attempts": attempts}
        )
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
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
    _point_latest(place)
    sealed, bundles = load_build(place)
    return Build(place, sealed, bundles, times=_times(line))


def _record(
    line: Line, splits: dict[str, StoredSplit], references: References, choice: Choice, outcomes: list[Outcome]
) -> BuildRecord:
    project = line.project
    return BuildRecord(
        build_id="",
        attempts=0,
        project=project.name,
        fairdeploy_version=__version__,
        seed=project.seed,
        classes=project.spec.classes,
        attributes=project.groups.attributes,
        data_note=project.data.note,
        candidates=choice.records,
        compaction=choice.candidate.compaction,
        export_max_difference=choice.candidate.export.max_difference,
        dense_size_bytes=references.dense.stat().st_size,
        compact_size_bytes=references.compact.stat().st_size,
        group_counts=tuple(
            GroupCount(split=name, attribute=attribute, level=level, rows=rows)
            for name, split in splits.items()
            for attribute, level, rows in count_groups(split, project.groups)
        ),
        decisions=(*choice.decisions, *(one.decision for one in outcomes)),
        times=_times(line),
        machine=line.host.key(),
        versions=versions(),
        targets=tuple(one.target.id for one in outcomes),
    )


def _times(line: Line) -> tuple[StationTime, ...]:
    """Return each station once, in the order in which it was first needed."""
    first: dict[Path, Kept] = {}
    for kept in line.store.log:
        first.setdefault(kept.folder, kept)
    return tuple(StationTime(station=kept.label, seconds=kept.seconds, cached=kept.cached) for kept in first.values())


def _count_attempt(folder: Path, build_id: str, outcomes: list[Outcome]) -> int:
    """Note this look at the evaluate split, and return how many different ones there were."""
    log = folder / STATE / "attempts.jsonl"
    lines = log.read_text().splitlines() if log.is_file() else []
    if not any(json.loads(line)["build"] == build_id for line in lines):
        verdicts = {one.target.id: one.verdict.status for one in outcomes}
        gates = {one.target.id: one.gates.digest for one in outcomes}
        lines.append(json.dumps({"build": build_id, "gates": gates, "verdicts": verdicts}, sort_keys=True))
        write_atomic(log, ("\n".join(lines) + "\n").encode())
    return len(lines)


def _point_latest(place: Path) -> None:
    link = place.parent / f".latest-{os.getpid()}"
    link.unlink(missing_ok=True)
    link.symlink_to(place.name)
    link.replace(place.parent / "latest")


def regate(folder: Path, build_folder: Path, only: tuple[str, ...] = (), *, config: str = CONFIG_NAME) -> list[Verdict]:
    """Gate a finished build's evidence with the gates that the project holds now; nothing is run or written.

    Raises
    ------
    ConfigError
        If there is no build, or it holds none of the named targets.
    IntegrityError
        If a bundle is not what was sealed.
    """
    project, document = load_project(folder, config)
    _, bundles = load_build(build_folder)
    built = {bundle.target.id: bundle for bundle in bundles}
    verdicts = []
    for used in resolve_targets(project, document, folder, only or tuple(built)):
        if used.target.id not in built:
            raise ConfigError(
                f"this build has no target '{used.target.id}'; it has {', '.join(built)}", file=build_folder
            )
        verdicts.append(gate(load_evidence(built[used.target.id]), gates_of(used)))
    return verdicts


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
        If the artifact or a reference is missing.
    """
    kept = latest(folder) / "references"
    dense = baseline or kept / "dense.onnx"
    compact = kept / "compact.onnx" if (kept / "compact.onnx").is_file() else dense
    for file, what in ((artifact, "--artifact"), (dense, "--baseline (or run 'fairdeploy build' first)")):
        if not file.is_file():
            raise ConfigError(f"no such file: give it with {what}", file=file)
    line = Line(folder, config, listener=listener or Listener())
    ((used, gates),) = line.targets((name,))
    splits = line.splits(("calibrate", "evaluate"))
    references = line.references(dense, compact, splits["evaluate"])
    stages: dict[StageName, Predictions] = {
        "dense": references.predictions["dense"],
        "exported": references.predictions["compact"],
    }
    outcome = line.deployment_with(splits, references, stages).judge_artifact(used.target, gates, artifact)
    return outcome.verdict, outcome.evidence.record
