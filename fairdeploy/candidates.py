"""Candidates: the pruned, compacted, recovered and exported networks of one build, before any target is looked at.

Each station is kept in the store under the digests of what went into it; PyTorch is imported only when one has to
run. A network is rebuilt from the user's module and what the store keeps (masks, weights); nothing is unpickled.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fairdeploy import __version__, backends
from fairdeploy.bundle import CompactionRecord, LogEntry, ServesRecord, TrainingCourse
from fairdeploy.data import StoredSplit
from fairdeploy.devices.together import Timed, circumstances
from fairdeploy.entries import KEY_LENGTH
from fairdeploy.errors import ConfigError, MissingExtra
from fairdeploy.export import ExportReport, export_onnx
from fairdeploy.project import Budget, Project
from fairdeploy.records import digest, file_digest
from fairdeploy.store import Kept, Store
from fairdeploy.target import load_target
from fairdeploy.usercode import call, code_digest, load_object

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fairdeploy.compaction import CompactModel
    from fairdeploy.pruning import Problem, Progress, Pruned, Trained
    from fairdeploy.pruning.budget import Latency
    from fairdeploy.pruning.stations import Stations

CHECK_ROWS = 64
SHOWN_WEIGHTS = 12
DECISIONS, MASKS, MEASURED, WEIGHTS = "decisions.json", "masks.json", "measured.json", "weights.safetensors"
CHECKPOINTS, COURSE, MULTIPLIERS, SERVES = "checkpoints", "course.json", "multipliers.json", "serves.json"
LEARNED = ("train", "prune")
Masks = dict[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class Candidate:
    """One exported network.

    Attributes
    ----------
    name : str
        As in ``macs-0.25``; ``dense`` when nothing is pruned.
    level : Budget, optional
        What may be kept; None when nothing is pruned.
    onnx : Path
        The exported network after recovery: the reference *compact*.
    compaction : CompactionRecord or None
    export : ExportReport
    decisions : tuple of LogEntry
        What was decided on its way.
    courses : tuple of TrainingCourse
        How the trainings under constraints went on its way.
    """

    name: str
    level: Budget | None
    onnx: Path
    macs: int
    compaction: CompactionRecord | None
    export: ExportReport
    decisions: tuple[LogEntry, ...] = ()
    courses: tuple[TrainingCourse, ...] = ()

    @property
    def parameters(self) -> int:
        """Parameters of the exported network."""
        return self.export.parameters


class Networks:
    """The user's network and everything made from it, each station once.

    Parameters
    ----------
    project : Project
    folder : Path
        The project's folder.
    store : Store
    splits : dict of str to StoredSplit
    progress : callable
        Told ``(done, total, said)`` while a network is trained: optimiser steps, and how its constraints stand.
    """

    def __init__(
        self,
        project: Project,
        folder: Path,
        store: Store,
        splits: dict[str, StoredSplit],
        progress: Callable[[int, int, str], None],
    ) -> None:
        self.project, self.folder, self.store, self.splits = project, folder, store, splits
        self._told = progress
        self._compact: dict[Budget, CompactModel] = {}

    @cached_property
    def identity(self) -> str:
        """Digest of the user's code, of the weights and of PyTorch's version."""
        weights = self.folder / self.project.model.weights
        if not os.path.isfile(weights):  # unlike Path's, says no to a name that no file can have
            raise ConfigError(f"model.weights: no such file: {self.project.model.weights}", file=self.folder)
        return digest(
            {
                "code": code_digest(self.folder, ()),
                "import": self.project.model.import_,
                "weights": file_digest(weights),
                "spec": self.project.spec.digest,
                "torch": _version("torch"),
                "fairdeploy": __version__,
            }
        )

    @cached_property
    def dense(self) -> nn.Module:
        """The user's module with its weights, in eval mode."""
        try:
            import torch
            from safetensors.torch import load_file
        except ImportError:
            raise MissingExtra("loading a PyTorch model", "torch") from None
        name = self.project.model.import_
        module = call(load_object(name, self.folder), {}, name=name)
        if not isinstance(module, torch.nn.Module):
            raise ConfigError(f"model.import: {name}() gave no torch.nn.Module")
        weights = self.folder / self.project.model.weights
        try:
            given = load_file(weights)
        except Exception as error:  # safetensors raises many kinds for a file that is none of its own
            raise ConfigError(f"is no safetensors file: {error}", file=weights) from None
        if wrong := _misfits(module.state_dict(), given):
            raise ConfigError(f"does not fit {name}: {wrong}", file=weights)
        module.load_state_dict(given)
        return module.eval()

    @cached_property
    def example_inputs(self) -> tuple[Tensor, ...]:
        """A few real rows of the tune split, preprocessed, one tensor per input."""
        import torch

        from fairdeploy.devices.runner import preprocess

        spec = self.project.spec.model_dump(mode="json")
        return tuple(torch.from_numpy(rows) for rows in preprocess(spec, self._check_rows).values())

    @cached_property
    def _check_rows(self) -> dict[str, NDArray[Any]]:
        return {name: np.array(rows[:CHECK_ROWS]) for name, rows in self.splits["tune"].inputs.items()}

    def export_dense(self) -> Kept:
        """Export the dense network; the reference *dense*."""
        return self._export("dense", self.identity, lambda: self.dense)

    def export_masked(self, level: Budget) -> Kept:
        """Export the dense network with its channels switched off but still there."""

        def masked() -> nn.Module:
            from fairdeploy.compaction import apply_masks, channel_groups

            gated = self._gated(level)
            return apply_masks(gated, channel_groups(gated, self.example_inputs), self._masks(level))

        return self._export(f"pruned {level.name}", digest(self._pruned(level)), masked)

    def export_compact(self, level: Budget) -> Kept:
        """Export the network just after its channels were removed, before recovery."""
        return self._export(f"compact {level.name}", digest(self._pruned(level)), lambda: self._compacted(level).module)

    def candidate(self, level: Budget) -> Candidate:
        """Prune, compact, recover and export at one level."""
        compact = self.compact(level)
        recover = self.recover(level)
        kept = self._export(level.name, recover.digest, lambda: self._recovered(level))
        record = CompactionRecord.load(compact.folder / "compaction.json")
        found = self._candidate(level.name, level, kept, record.macs_after, record)
        courses = (place / COURSE for place in self._places(level))
        return replace(
            found,
            decisions=self.decisions(level),
            courses=tuple(TrainingCourse.load(file) for file in courses if file.exists()),
        )

    def decisions(self, level: Budget) -> tuple[LogEntry, ...]:
        """Return what was decided on the way to a level."""
        return tuple(entry for place in self._places(level) for entry in _read_decisions(place))

    def _places(self, level: Budget) -> list[Path]:
        """Return the folders that the trainings on the way to a level left, in their order."""
        taught, recovered = self.teach(), self.recover(level)
        return [*([] if taught is None else [taught.folder]), self.prune(level).folder, recovered.folder]

    def unpruned(self) -> Candidate:
        """Return the dense network as the only candidate, for ``prune: {method: none}``."""

        def count(out: Path) -> None:
            from fairdeploy.compaction import count_macs

            (out / "macs.json").write_text(json.dumps(count_macs(self.dense, self.example_inputs)))

        macs = self.store.run("count", count, of="dense", model=self.identity).folder / "macs.json"
        return self._candidate("dense", None, self.export_dense(), json.loads(macs.read_text()), None)

    def _candidate(
        self, name: str, level: Budget | None, kept: Kept, macs: int, compaction: CompactionRecord | None
    ) -> Candidate:
        report = ExportReport.load(kept.folder / "export.json")
        return Candidate(name, level, kept.folder / "model.onnx", macs, compaction, report)

    @cached_property
    def problem(self) -> Problem:
        """What pruning and fine-tuning learn from: the train and prune splits, and no other."""
        from fairdeploy.pruning import stored_problem

        options = self.project.prune.recover
        return stored_problem(
            {name: self.splits[name] for name in LEARNED},
            self.project.spec,
            self.project.groups.attributes,
            options=options,
            seed=self.project.seed,
            augment=load_object(options.augment, self.folder) if options.augment else None,
        )

    def teach(self) -> Kept | None:
        """Make the dense network fair under the constraints; None where the project wants no teacher."""
        if not self.project.prune.has_teacher:
            return None

        def produce(out: Path, stations: Stations) -> None:
            stations.check(self._predicted())
            taught = stations.teach()
            assert taught is not None
            _write_training(out, taught, "teacher")

        return self._train("teacher", produce, of="dense", **self._learning())

    @cached_property
    def source(self) -> nn.Module:
        """The network that is pruned: the fair teacher, or the dense one where there is none."""
        taught = self.teach()
        return self.dense if taught is None else self._with_weights(self.dense, taught.folder)

    def _above(self, level: Budget) -> Budget | None:
        """Return the level whose recovered network a level goes on from; None where that is the source."""
        options = self.project.prune
        if not options.iterative or options.keep is None or level == options.keep.levels[0]:
            return None
        return options.keep.levels[options.keep.levels.index(level) - 1]

    def _start(self, level: Budget) -> nn.Module:
        """The network that a level prunes."""
        above = self._above(level)
        if above is None:
            return self.source
        return self._recovered(above)

    def _recovered(self, level: Budget) -> nn.Module:
        """The network of a level as recovery left it."""
        return self._with_weights(self._tunable(level), self.recover(level).folder)

    def prune(self, level: Budget) -> Kept:
        """Choose which channels to keep at a level."""
        options = self.project.prune
        timed = options.round_to == "latency" or level.latency is not None
        backend = self._measurable_backend if timed else None
        multiple = options.round_to if isinstance(options.round_to, int) else 8
        how = f"{level.name}, {options.method}"
        facts: dict[str, Any] = {}
        if backend is not None:
            how, facts = f"{how}, timed in {backend}", {"latency": circumstances(backend)}
        elif timed:
            how = f"{how}, in multiples of {multiple}: no target's runtime runs here"
        taught, above = self.teach(), self._above(level)
        start = None if above is None else self.recover(above).digest

        def produce(out: Path, stations: Stations) -> None:
            stations.check(self._predicted())
            network = self._start(level)
            predicted, last_word = self._latencies(backend, above) if backend else (None, None)
            rounding: dict[str, Any] = {"round_to": multiple, "latency_ms": predicted}
            if options.round_to == "latency" and predicted is not None:
                rounding |= {"round_to": predicted, "last_word": last_word}
            if above is not None:
                rounding["whole"] = stations.whole()
                if level.latency is not None and (dense := self._predicted()) is not None:
                    rounding["whole"]["latency"] = dense([{}])[0]
            pruned = stations.prune(network, level, **rounding)
            text = {name: "".join("01"[int(keep)] for keep in mask) for name, mask in pruned.masks.items()}
            (out / MASKS).write_text(json.dumps(text, indent=1))
            _write_training(out, pruned, f"prune[{level.name}]", weights=pruned.module is not network)

        return self._train(
            "prune",
            produce,
            of=how,
            method=options.method,
            search=options.search.model_dump(mode="json") if options.method == "bilevel" else None,
            level=level.limits,
            above=start,
            round_to=multiple if backend is None else options.round_to,
            teacher=None if taught is None else taught.digest,
            **self._learning(),
            **facts,
        )

    def _pruned(self, level: Budget) -> dict[str, Any]:
        """Return what a level's network before recovery is keyed by."""
        taught = self.teach()
        return {
            "model": self.identity,
            "teacher": None if taught is None else taught.digest,
            "pruned": self.prune(level).digest,
        }

    def _learning(self) -> dict[str, Any]:
        """Return what everything that learns from the train and prune splits is keyed by."""
        options = self.project.prune
        return {
            "model": self.identity,
            "recover": options.recover.model_dump(mode="json"),
            "constraints": None if options.constraints is None else options.constraints.model_dump(mode="json"),
            "groups": {name: list(levels) for name, levels in self.project.groups.attributes.items()},
            "data": [self.splits[name].fingerprint for name in LEARNED],
            "seed": self.project.seed,
        }

    @cached_property
    def _measurable_backend(self) -> str | None:
        """Return the backend of the first target whose runtime runs on this machine."""
        named = (load_target(use.use, self.folder).runtime.backend for use in self.project.targets)
        return next((name for name in named if "run" in backends.load(name).capability().can), None)

    def _latencies(self, backend: str, above: Budget | None = None) -> tuple[Latency, Latency]:
        """Return what predicts a network's latency under masks, and what measures it: the dense one or a level's."""
        from fairdeploy.pruning.latency_table import LatencyTable, network_latency, time_whole

        inputs = {name: (1, *tensor.row_shape) for name, tensor in self.project.spec.inputs.items()}
        network, onnx = self.dense, self.export_dense().folder / "model.onnx"
        if above is not None:
            network, onnx = self._recovered(above), self.candidate(above).onnx
        table = LatencyTable(backend, self.store)
        return (
            network_latency(table, network, self.example_inputs, Timed(onnx, inputs)),
            time_whole(table, network, self.example_inputs, self._write_onnx, inputs),
        )

    def _predicted(self) -> Latency | None:
        """Return what predicts the dense network's latency, where a level limits it and something here measures it."""
        keep, backend = self.project.prune.keep, self._measurable_backend
        limited = keep is not None and any(level.latency is not None for level in keep.levels)
        return self._latencies(backend)[0] if limited and backend is not None else None

    def compact(self, level: Budget) -> Kept:
        """Remove the channels for good and prove that the outputs stayed."""
        return self.store.run(
            "compact",
            lambda out: self._compacted(level).record().save(out / "compaction.json"),
            of=level.name,
            **self._pruned(level),
        )

    def recover(self, level: Budget) -> Kept:
        """Fine-tune the compacted network."""
        self.compact(level)

        def produce(out: Path, stations: Stations) -> None:
            tuned = stations.recover(self._tunable(level), level, self.source, self._multipliers(level))
            _write_training(out, tuned, f"recover[{level.name}]")

        return self._train("recover", produce, of=level.name, **(self._learning() | self._pruned(level)))

    def measure(self, level: Budget | None) -> Kept:
        """Count what a candidate, or the dense network, gets right on the prune split, and which limits it misses."""
        recovered = None if level is None else self.recover(level)

        def produce(out: Path) -> None:
            from fairdeploy.pruning.front import measure

            network = self.dense if level is None else self._recovered(level)
            found = measure(network, self.problem, self.project.prune.constraints, self.dense)
            found.save(out / MEASURED)

        return self.store.run(
            "measure",
            produce,
            of="dense" if level is None else level.name,
            recovered=None if recovered is None else recovered.digest,
            **self._learning(),
        )

    def serves(self, level: Budget | None) -> ServesRecord | None:
        """Find which channels serve whom, before pruning and in a candidate; None unless the project asks for it."""
        if level is None or not self.project.prune.serves:
            return None
        recovered = self.recover(level)

        def produce(out: Path) -> None:
            from fairdeploy.pruning.determinism import set_deterministic
            from fairdeploy.pruning.serves import serves

            before, after = self._start(level), self._recovered(level)
            with set_deterministic(self.project.seed):
                found = serves(before, after, self._masks(level), self.example_inputs, self.problem)
            found.save(out / SERVES)

        kept = self.store.run("serves", produce, of=level.name, recovered=recovered.digest, **self._learning())
        return ServesRecord.load(kept.folder / SERVES)

    def _train(self, station: str, produce: Callable[[Path, Stations], None], of: str, **parts: Any) -> Kept:
        """Run a station that trains; one that was killed goes on from its last checkpoint."""
        identity = digest({"station": station, "of": of, "parts": parts})
        place = self.store.root.parent / CHECKPOINTS / identity[:KEY_LENGTH]

        def train(out: Path) -> None:
            from fairdeploy.pruning.checkpoint import in_folder
            from fairdeploy.pruning.stations import Stations

            options, seed = self.project.prune, self.project.seed
            stations = Stations(
                self.dense,
                self.example_inputs,
                self.problem,
                options,
                seed,
                checkpoints=in_folder(place, identity),
                progress=self._progress,
            )
            produce(out, stations)

        kept = self.store.run(station, train, of=of, **parts)
        shutil.rmtree(place, ignore_errors=True)
        return kept

    def _progress(self, at: Progress) -> None:
        self._told(at.done, at.total, "; ".join(at.violations))

    def _masks(self, level: Budget) -> Masks:
        text = json.loads((self.prune(level).folder / MASKS).read_text())
        return {name: np.array([bit == "1" for bit in bits]) for name, bits in text.items()}

    def _gated(self, level: Budget) -> nn.Module:
        """The network that a level's masks belong to: what it prunes, or that after training with them."""
        trained, start = self.prune(level).folder, self._start(level)
        return self._with_weights(start, trained) if (trained / WEIGHTS).exists() else start

    def _multipliers(self, level: Budget) -> NDArray[np.float64] | None:
        """Return what pruning settled on for a level's constraints; None where it did not train."""
        file = self.prune(level).folder / MULTIPLIERS
        return np.array(json.loads(file.read_text())) if file.exists() else None

    def _compacted(self, level: Budget) -> CompactModel:
        if level not in self._compact:
            from fairdeploy.compaction import compact

            found, above = compact(self._gated(level), self.example_inputs, self._masks(level)), self._above(level)
            self._compact[level] = found if above is None else found.counted_from(self._compacted(above))
        return self._compact[level]

    def _tunable(self, level: Budget) -> nn.Module:
        """The compacted network; where there is something to fine-tune, in a form that can be."""
        compacted = self._compacted(level)
        return compacted.trainable() if self.project.prune.recover.epochs else compacted.module

    def _with_weights(self, module: nn.Module, folder: Path) -> nn.Module:
        """Return a copy in evaluation mode with the weights that a station kept."""
        from safetensors.torch import load_file

        from fairdeploy.compaction.bake import private_copy

        copied = private_copy(module)
        copied.load_state_dict(load_file(folder / WEIGHTS))
        return copied.eval()

    def _export(self, of: str, source: str, module: Callable[[], nn.Module]) -> Kept:
        def produce(out: Path) -> None:
            self._write_onnx(module(), out / "model.onnx").save(out / "export.json")

        versions = {name: _version(name) for name in ("torch", "onnx", "onnxscript", "onnxslim")}
        parts = {"source": source, "model": self.identity, "spec": self.project.spec.digest, "versions": versions}
        return self.store.run("export", produce, of=of, **parts)

    def _write_onnx(self, module: nn.Module, file: Path) -> ExportReport:
        spec = self.project.spec
        example = dict(zip(spec.inputs, self.example_inputs, strict=True))
        return export_onnx(module, example, file, spec=spec, check_inputs=self._check_rows)


def _read_decisions(folder: Path) -> tuple[LogEntry, ...]:
    file = folder / DECISIONS
    return tuple(LogEntry.model_validate(entry) for entry in json.loads(file.read_text())) if file.exists() else ()


def _write_training(folder: Path, trained: Pruned | Trained, station: str, *, weights: bool = True) -> None:
    """Write what a training left behind: weights, and how the constraints went."""
    from safetensors.torch import save_file

    from fairdeploy.pruning.checkpoint import storable

    if weights:
        save_file(storable(trained.module.state_dict()), folder / WEIGHTS)
    if trained.fair is not None:
        said = [entry.model_dump(mode="json") for entry in trained.fair.decisions(station)]
        (folder / DECISIONS).write_text(json.dumps(said, indent=1))
        if (course := trained.fair.course(station)) is not None:
            course.save(folder / COURSE)
        (folder / MULTIPLIERS).write_text(json.dumps(trained.fair.settled().tolist()))


def _misfits(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Say which weights a network lacks in a file, which it does not know, and whose shapes differ."""
    there, here = ({name: list(one.shape) for name, one in weights.items()} for weights in (given, own))
    wrong = [f"lacks {name} {here[name]}" for name in here if name not in there]
    wrong += [f"has unknown {name} {there[name]}" for name in there if name not in here]
    wrong += [
        f"{name} is {there[name]}, in the network {here[name]}"
        for name in here
        if name in there and there[name] != here[name]
    ]
    return "; ".join(
        [*wrong[:SHOWN_WEIGHTS], *([f"and {len(wrong) - SHOWN_WEIGHTS} more"] if wrong[SHOWN_WEIGHTS:] else [])]
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
