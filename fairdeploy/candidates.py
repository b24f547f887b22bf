"""Candidates: the pruned, compacted, recovered and exported networks of one build, before any target is looked at.

Each station is kept in the store under the digests of what went into it; PyTorch is imported only when one has to
run. A network is rebuilt from the user's module and what the store keeps (masks, weights); nothing is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fairdeploy import __version__, backends
from fairdeploy.bundle import CompactionRecord, LogEntry
from fairdeploy.data import StoredSplit
from fairdeploy.devices.together import Timed, circumstances
from fairdeploy.errors import ConfigError, MissingExtra
from fairdeploy.export import ExportReport, export_onnx
from fairdeploy.project import Project
from fairdeploy.records import digest, file_digest
from fairdeploy.store import Kept, Store
from fairdeploy.target import load_target
from fairdeploy.usercode import code_digest, load_object

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fairdeploy.compaction import CompactModel
    from fairdeploy.pruning.budget import Latency
    from fairdeploy.pruning.fair import FairTraining

CHECK_ROWS = 64
DECISIONS = "decisions.json"
Masks = dict[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class Candidate:
    """One exported network.

    Attributes
    ----------
    name : str
        As in ``macs-0.25``; ``dense`` when nothing is pruned.
    keep_macs : float
        The fraction of MACs that was asked for.
    onnx : Path
        The exported network after recovery: the reference *compact*.
    compaction : CompactionRecord or None
    export : ExportReport
    decisions : tuple of LogEntry
        What was decided on its way.
    """

    name: str
    keep_macs: float
    onnx: Path
    macs: int
    compaction: CompactionRecord | None
    export: ExportReport
    decisions: tuple[LogEntry, ...] = ()

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
        Told ``(done, total)`` optimiser steps while a network is fine-tuned.
    """

    def __init__(
        self,
        project: Project,
        folder: Path,
        store: Store,
        splits: dict[str, StoredSplit],
        progress: Callable[[int, int], None],
    ) -> None:
        self.project, self.folder, self.store, self.splits, self.progress = project, folder, store, splits, progress
        self._compact: dict[float, CompactModel] = {}

    @cached_property
    def identity(self) -> str:
        """Digest of the user's code, of the weights and of PyTorch's version."""
        weights = self.folder / self.project.model.weights
        if not weights.is_file():
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
        module = load_object(self.project.model.import_, self.folder)()
        if not isinstance(module, torch.nn.Module):
            raise ConfigError(f"model.import: {self.project.model.import_}() gave no torch.nn.Module")
        weights = self.folder / self.project.model.weights
        try:
            module.load_state_dict(load_file(weights))
        except Exception as error:  # safetensors and torch raise many kinds for a file that does not fit
            raise ConfigError(f"do not fit {self.project.model.import_}: {error}", file=weights) from None
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

    def export_masked(self, level: float) -> Kept:
        """Export the dense network with its channels switched off but still there."""

        def masked() -> nn.Module:
            from fairdeploy.compaction import apply_masks, channel_groups

            groups = channel_groups(self.dense, self.example_inputs)
            return apply_masks(self.dense, groups, self._masks(level))

        return self._export(f"pruned {_name(level)}", file_digest(self._masks_file(level)), masked)

    def export_compact(self, level: float) -> Kept:
        """Export the network just after its channels were removed, before recovery."""
        kept = self.compact(level)
        return self._export(f"compact {_name(level)}", kept.digest, lambda: self._compacted(level).module)

    def candidate(self, level: float) -> Candidate:
        """Prune, compact, recover and export at one level."""
        compact = self.compact(level)
        recover = self.recover(level)
        kept = self._export(_name(level), recover.digest, lambda: self._recovered(level, recover))
        record = CompactionRecord.load(compact.folder / "compaction.json")
        found = self._candidate(_name(level), level, kept, record.macs_after, record)
        return replace(found, decisions=_read_decisions(recover.folder))

    def unpruned(self) -> Candidate:
        """Return the dense network as the only candidate, for ``prune: {method: none}``."""

        def count(out: Path) -> None:
            from fairdeploy.compaction import count_macs

            (out / "macs.json").write_text(json.dumps(count_macs(self.dense, self.example_inputs)))

        macs = self.store.run("count", count, of="dense", model=self.identity).folder / "macs.json"
        return self._candidate("dense", 1.0, self.export_dense(), json.loads(macs.read_text()), None)

    def _candidate(
        self, name: str, level: float, kept: Kept, macs: int, compaction: CompactionRecord | None
    ) -> Candidate:
        report = ExportReport.load(kept.folder / "export.json")
        return Candidate(name, level, kept.folder / "model.onnx", macs, compaction, report)

    def prune(self) -> Kept:
        """Choose which channels to keep, at every level at once."""
        options = self.project.prune
        levels = options.keep.macs if options.keep else ()
        backend = self._measurable_backend() if options.round_to == "latency" else None
        multiple = options.round_to if isinstance(options.round_to, int) else 8
        how: str = options.method
        facts: dict[str, Any] = {}
        if backend is not None:
            how, facts = f"{how}, rounded by latency in {backend}", {"latency": circumstances(backend)}
        elif options.round_to == "latency":
            how = f"{how}, in multiples of {multiple}: no target's runtime runs here"

        def produce(out: Path) -> None:
            from fairdeploy.pruning import Magnitude

            pruner = Magnitude(*self._latencies(backend)) if backend else Magnitude(multiple)
            masks = pruner.masks(
                self.dense,
                self.example_inputs,
                keep_macs=levels,
                train=self.splits["train"],
                prune=self.splits["prune"],
                spec=self.project.spec,
                seed=self.project.seed,
            )
            for level, chosen in zip(levels, masks, strict=True):
                text = {name: "".join("01"[int(keep)] for keep in mask) for name, mask in chosen.items()}
                (out / f"{_name(level)}.json").write_text(json.dumps(text, indent=1))

        return self.store.run(
            "prune",
            produce,
            of=how,
            model=self.identity,
            method=options.method,
            keep_macs=list(levels),
            round_to=multiple if backend is None else "latency",
            data=[self.splits[name].fingerprint for name in ("train", "prune")],
            seed=self.project.seed,
            **facts,
        )

    def _measurable_backend(self) -> str | None:
        """Return the backend of the first target whose runtime runs on this machine."""
        named = (load_target(use.use, self.folder).runtime.backend for use in self.project.targets)
        return next((name for name in named if "run" in backends.load(name).capability().can), None)

    def _latencies(self, backend: str) -> tuple[Latency, Latency]:
        """Return what predicts the dense network's latency under masks, and what measures it."""
        from fairdeploy.pruning.latency_table import LatencyTable, network_latency, time_whole

        inputs = {name: (1, *tensor.row_shape) for name, tensor in self.project.spec.inputs.items()}
        dense = Timed(self.export_dense().folder / "model.onnx", inputs)
        table = LatencyTable(backend, self.store)
        return (
            network_latency(table, self.dense, self.example_inputs, dense),
            time_whole(table, self.dense, self.example_inputs, self._write_onnx, inputs),
        )

    def compact(self, level: float) -> Kept:
        """Remove the channels for good and prove that the outputs stayed."""
        return self.store.run(
            "compact",
            lambda out: self._compacted(level).record().save(out / "compaction.json"),
            of=_name(level),
            model=self.identity,
            masks=file_digest(self._masks_file(level)),
        )

    def recover(self, level: float) -> Kept:
        """Fine-tune the compacted network on the train split."""
        options = self.project.prune.recover
        compact = self.compact(level)

        def produce(out: Path) -> None:
            from safetensors.torch import save_file

            from fairdeploy.pruning import recover

            fair = self._fair_training()
            module = recover(
                self._tunable(level),
                self.splits["train"],
                spec=self.project.spec,
                options=options,
                seed=self.project.seed,
                augment=load_object(options.augment, self.folder) if options.augment else None,
                fair=fair,
                progress=self.progress,
            )
            save_file(module.state_dict(), out / "weights.safetensors")
            if fair is not None:
                said = [entry.model_dump(mode="json") for entry in fair.decisions(f"recover[{_name(level)}]")]
                (out / DECISIONS).write_text(json.dumps(said, indent=1))

        return self.store.run(
            "recover",
            produce,
            of=_name(level),
            compact=compact.digest,
            model=self.identity,
            options=options.model_dump(mode="json"),
            train=self.splits["train"].fingerprint,
            seed=self.project.seed,
            **self._limits(),
        )

    def _limits(self) -> dict[str, Any]:
        """Return what constraints add to a key in the store."""
        limits = self.project.prune.constraints
        if limits is None:
            return {}
        groups = {name: list(levels) for name, levels in self.project.groups.attributes.items()}
        parts = {"constraints": limits.model_dump(mode="json"), "groups": groups}
        return {**parts, "prune": self.splits["prune"].fingerprint}

    def _fair_training(self) -> FairTraining | None:
        from fairdeploy.pruning.fair import FairTraining

        limits = self.project.prune.constraints
        if limits is None:
            return None
        return FairTraining(
            limits,
            self.project.groups.attributes,
            self.splits["train"].rows,
            self.splits["prune"],
            self.project.spec,
            self.dense,
        )

    def _masks_file(self, level: float) -> Path:
        return self.prune().folder / f"{_name(level)}.json"

    def _masks(self, level: float) -> Masks:
        text = json.loads(self._masks_file(level).read_text())
        return {name: np.array([bit == "1" for bit in bits]) for name, bits in text.items()}

    def _compacted(self, level: float) -> CompactModel:
        if level not in self._compact:
            from fairdeploy.compaction import compact

            self._compact[level] = compact(self.dense, self.example_inputs, self._masks(level))
        return self._compact[level]

    def _tunable(self, level: float) -> nn.Module:
        """The compacted network; where there is something to fine-tune, in a form that can be."""
        compacted = self._compacted(level)
        return compacted.trainable() if self.project.prune.recover.epochs else compacted.module

    def _recovered(self, level: float, recover: Kept) -> nn.Module:
        from safetensors.torch import load_file

        from fairdeploy.compaction.bake import private_copy

        module = private_copy(self._tunable(level))
        module.load_state_dict(load_file(recover.folder / "weights.safetensors"))
        return module.eval()

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


def _name(level: float) -> str:
    return f"macs-{level:g}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
