"""`Line`: one project's stations over its store, from data to what the targets share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fairdeploy import __version__, backends
from fairdeploy.calibrate import load_recipe
from fairdeploy.candidates import Candidate, Networks
from fairdeploy.choose import Choice, choose
from fairdeploy.data import (
    SPLITS,
    Split,
    StoredSplit,
    check_overlap,
    check_source,
    load_splits,
    materialise,
    source_identity,
)
from fairdeploy.deploy import Deployment, References
from fairdeploy.devices import Device, HostDevice
from fairdeploy.errors import ConfigError, StageError, TargetError
from fairdeploy.evidence.records import StageName
from fairdeploy.export import check_single_file
from fairdeploy.gates import Gates, Rule, gates_of, parse_gates
from fairdeploy.measure import Meter, Model, Predictions
from fairdeploy.project import CONFIG_NAME, TargetUsed, load_project, resolve_targets
from fairdeploy.store import Kept, Store
from fairdeploy.target import ALIASES, Target
from fairdeploy.yamlfile import nearest

STATE = ".fairdeploy"


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
        Told ``(done, total, said)`` within a long station; the text says how constraints stand, or is empty.
    """

    on_start: Callable[[str], None] = lambda label: None
    on_done: Callable[[Kept], None] = lambda kept: None
    progress: Callable[[int, int, str], None] = lambda done, total, said: None


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
        Devices by target id or alias; this host where none is given.
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
        self.devices = {ALIASES.get(name, name): device for name, device in self.devices.items()}
        self.meter = Meter(self.store, self.project.spec, self.project.groups)

    def targets(self, only: tuple[str, ...]) -> list[tuple[TargetUsed, Gates]]:
        """Return the targets with all their gates, read before anything is evaluated."""
        used = resolve_targets(self.project, self.document, self.folder, only)
        ids = [one.target.id for one in used]
        if strangers := self.devices.keys() - set(ids):
            raise ConfigError(f"a device was given for '{min(strangers)}', which is no target of this build: {ids}")
        for one in used:
            try:
                _check_runtime(one.target)
                load_recipe(one.target.quantization.calibration, self.folder)
            except ConfigError as error:
                raise error if error.file else self.document.error(f"{one.target.id}: {error}", ("targets",)) from None
        found = [(one, gates_of(one, self.project.task)) for one in used]
        for rule in (rule for _, gates in found for rule in gates.rules):
            self._check_context(rule)
        return found

    def _check_context(self, rule: Rule) -> None:
        contexts = self.project.groups.contexts
        if rule.within is not None and rule.within not in contexts:
            file, _, line = rule.where.rpartition(":")
            said = f"'within' of {rule.metric} is '{rule.within}', no context under groups"
            raise ConfigError(
                said + (nearest(rule.within, contexts) or "; none is declared"), file=self.folder / file, line=int(line)
            )

    @cached_property
    def raw_splits(self) -> dict[str, Split]:
        """The user's splits; calling this calls the user's code."""
        return load_splits(self.project, self.folder)

    @cached_property
    def _source_identity(self) -> dict[str, Any]:
        check_source(self.project, self.document, self.folder)
        return source_identity(self.project, self.folder)

    def splits(self, names: Iterable[str] = SPLITS) -> dict[str, StoredSplit]:
        """Load the data set once into the store, and refuse one whose evaluate split overlaps another."""
        project, made = self.project, {}
        for name in names:
            kept = self.store.run(
                "data",
                lambda out, name=name: materialise(  # type: ignore[misc]
                    self.raw_splits[name],
                    out,
                    spec=project.spec,
                    groups=project.groups,
                    progress=lambda done, total: self.listener.progress(done, total, ""),
                ),
                of=name,
                split=name,
                **self._source_identity,
                source=project.data.model_dump(mode="json"),
                groups=project.groups.model_dump(mode="json"),
                spec=project.spec.digest,
                versions={"fairdeploy": __version__, "numpy": np.__version__},
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
        candidates = [networks.candidate(level) for level in keep.levels] if keep else [networks.unpruned()]
        return choose(
            dense, candidates, self.meter, splits["tune"], self.host, parse_gates(self.document, task=self.project.task)
        )

    def deployment(self, splits: dict[str, StoredSplit], networks: Networks, candidate: Candidate) -> Deployment:
        """Predict the evaluate split at every stage before the targets; all that they share."""
        dense = networks.export_dense().folder / "model.onnx"
        references = self.references(dense, candidate.onnx, splits["evaluate"])
        stages: dict[StageName, Predictions] = {"dense": references.predictions["dense"]}
        if candidate.level is not None:
            level = candidate.level
            masked, compact = networks.export_masked(level), networks.export_compact(level)
            stages["pruned"] = self.predict(Model.onnx(masked.folder / "model.onnx"), splits["evaluate"], "pruned")
            stages["compact"] = self.predict(Model.onnx(compact.folder / "model.onnx"), splits["evaluate"], "compact")
        stages["exported"] = references.predictions["compact"]
        return self.deployment_with(splits, references, stages)

    def deployment_with(
        self, splits: dict[str, StoredSplit], references: References, stages: dict[StageName, Predictions]
    ) -> Deployment:
        """Return what the targets share, from given references."""
        return Deployment(self.folder, self.store, self.meter, self.project.seed, self.host, splits, references, stages)

    def references(self, dense: Path, compact: Path, evaluate: StoredSplit) -> References:
        """Predict the evaluate split with the two references, in ONNX Runtime on this host."""
        check_single_file(dense)
        check_single_file(compact)
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
        try:
            return self.meter.predict(model, split, device=self.host, of=of)
        except TargetError as error:
            raise StageError(f"the {of} network cannot be run, so nothing can be judged: {error}") from error


def _check_runtime(target: Target) -> None:
    """Refuse a target whose backend is unknown, or can do its precision nowhere."""
    able = backends.load(target.runtime.backend).capability().precisions
    if able and target.build.precision not in able:
        raise ConfigError(
            f"backend '{target.runtime.backend}' has no precision {target.build.precision}, only {', '.join(able)}: "
            "change build.precision"
        )
