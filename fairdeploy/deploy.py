"""One target: calibrate, compile, run, tally, judge, gate, seal. What fails here makes this target inconclusive."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from fairdeploy import __version__, backends, calibrate
from fairdeploy.backends import Backend, check_precision
from fairdeploy.bundle import BuildRecord, LogEntry, seal
from fairdeploy.data import StoredSplit
from fairdeploy.devices import Device
from fairdeploy.devices.level import level as evidence_level
from fairdeploy.devices.toolchain import compile_artifact, lint
from fairdeploy.errors import BackendError, TargetError
from fairdeploy.evidence import Evidence, judge
from fairdeploy.evidence.records import Level, StageName
from fairdeploy.export import check_single_file
from fairdeploy.gates import Gates, Verdict, gate
from fairdeploy.measure import Latencies, Meter, Model, Predictions
from fairdeploy.model import ModelSpec
from fairdeploy.records import digest, file_digest
from fairdeploy.store import Kept, Store
from fairdeploy.target import Target

RUNTIMES = ("numpy", "onnx", "onnxruntime", "openvino", "torch", "onnxscript", "onnxslim", "tensorrt-rtx-cu13")


@dataclass(frozen=True)
class References:
    """The dense and the compact fp32 ONNX files and their predictions of the evaluate split, by name."""

    dense: Path
    compact: Path
    predictions: Mapping[str, Predictions]

    @property
    def digests(self) -> dict[str, str]:
        """Digest of each file."""
        return {"dense": file_digest(self.dense), "compact": file_digest(self.compact)}


@dataclass(frozen=True)
class Outcome:
    """One target's evidence and verdict, ready to be sealed."""

    target: Target
    gates: Gates
    spec: ModelSpec
    evidence: Evidence
    verdict: Verdict
    artifact: Path | None
    fake: bool

    @property
    def decision(self) -> LogEntry:
        """The log's entry."""
        return LogEntry(station=f"gate[{self.target.id}]", decision=self.verdict.status, reason=self.verdict.sentence)

    def seal(self, folder: Path, build: BuildRecord) -> None:
        """Write the bundle."""
        record = self.evidence.record
        files = {
            "target.json": self.target,
            "model-spec.json": self.spec,
            "gates.json": self.gates,
            "evidence.json": record,
            "verdict.json": self.verdict,
        }
        texts = {f"tally-{name}.json": tally.to_json() for name, tally in self.evidence.tallies.items()}
        texts |= {f"tally-stage-{name}.json": tally.to_json() for name, tally in self.evidence.stages.items()}
        texts |= {f"scores-{name}.json": one.to_json() for name, one in self.evidence.scores.items()}
        texts["decision-log.json"] = json.dumps(
            [one.model_dump() for one in build.decisions], indent=1, sort_keys=True, ensure_ascii=False
        )
        seal(
            folder,
            files,
            texts,
            self.artifact,
            target=self.target.id,
            build_id=build.build_id,
            fake_device=self.fake,
            parents={
                "evidence": record.digest,
                "verdict": self.verdict.digest,
                **record.reference_digests,
                **build.inputs,
            },
            versions=build.versions,
            machine=build.machine,
            seed=build.seed,
        )


@dataclass(frozen=True)
class Artifact:
    """What a target is served: its model, its folder, and the quantised ONNX file it was compiled from, if any."""

    model: Model
    folder: Path
    quantised: Path | None


@dataclass(frozen=True)
class Served:
    """What runs for a target, where, and whether it only simulates the target's runtime."""

    model: Model
    place: Device
    simulated: bool


@dataclass(frozen=True)
class Deployment:
    """Everything that the targets of one build share.

    Attributes
    ----------
    stages : mapping of stage name to Predictions
        Predictions of the evaluate split at the stages before the targets.
    """

    folder: Path
    store: Store
    meter: Meter
    seed: int
    host: Device
    splits: Mapping[str, StoredSplit]
    references: References
    stages: Mapping[StageName, Predictions]

    def run(self, target: Target, gates: Gates, device: Device | None) -> Outcome:
        """Deploy to one target on a device (this host when none is given) and judge it."""
        facts = _unmeasured(target) | {"fake_device": bool(device and device.fake)}
        artifact = None
        try:
            backend = backends.load(target.runtime.backend)
            artifact = self.compile(target, backend)
            facts |= {"artifact_digest": artifact.model.digest}
            if target.build.on == "host" or device is not None:  # an engine that is built there has no size here
                facts |= {"size_bytes": _size_bytes(artifact.model.file)}
            facts |= self._measure(target, backend, artifact, device)
        except TargetError as error:
            facts["failure"] = str(error)
        return self._outcome(target, gates, facts, artifact)

    def judge_artifact(self, target: Target, gates: Gates, file: Path) -> Outcome:
        """Judge an artifact that was made elsewhere."""
        check_single_file(file)
        backend = backends.load(target.runtime.backend)
        artifact = Artifact(Model(file, _digest(file), backend.name, target.build.precision), file.parent, None)
        facts = _unmeasured(target) | {"artifact_digest": artifact.model.digest, "size_bytes": _size_bytes(file)}
        try:
            facts |= self._measure(target, backend, artifact, None)
        except TargetError as error:
            facts["failure"] = str(error)
        return self._outcome(target, gates, facts, None)

    def _outcome(self, target: Target, gates: Gates, facts: dict[str, Any], artifact: Artifact | None) -> Outcome:
        evidence = judge(
            spec_digest=self.meter.spec.digest,
            data_fingerprint=self.splits["evaluate"].fingerprint,
            reference_digests=self.references.digests,
            seed=self.seed,
            **facts,
        )
        verdict = gate(evidence, gates)
        folder = artifact.folder if artifact else None
        return Outcome(target, gates, self.meter.spec, evidence, verdict, folder, evidence.record.fake_device)

    def compile(self, target: Target, backend: Backend) -> Artifact:
        """Quantise when the target asks for it, and compile on the host when it is compiled there."""
        portable, quantised, precision = self.references.compact, None, target.build.precision
        if precision == "int8":
            portable = quantised = self._quantise(target, backend).folder / "model.onnx"
        if target.build.on == "device":
            if "lint" in backend.capability().can and (refused := lint(backend.name, portable)):
                raise BackendError(f"{backend.name} would refuse the ONNX file: {refused[0]}")
            return Artifact(Model(portable, file_digest(portable), backend.name, precision), portable.parent, quantised)
        kept = self.store.run(
            "compile",
            lambda out: compile_artifact(backend.name, portable, precision, out),
            of=target.id,
            portable=file_digest(portable),
            backend=backend.name,
            precision=precision,
            versions=versions(),
        )
        return Artifact(
            Model(kept.folder / backend.artifact_name, kept.digest, backend.name, precision), kept.folder, quantised
        )

    def _quantise(self, target: Target, backend: Backend) -> Kept:
        recipe = calibrate.load_recipe(target.quantization.calibration, self.folder)
        rows, spec = self.splits["calibrate"], self.meter.spec

        def produce(out: Path) -> None:
            chosen = calibrate.choose_rows(rows.rows, recipe, seed=self.seed)
            inputs = {name: np.array(values[chosen]) for name, values in rows.inputs.items()}
            calibrate.quantize(
                self.references.compact, inputs, spec=spec, dialect=backend.dialect, out=out / "model.onnx"
            )

        return self.store.run(
            "calibrate",
            produce,
            of=target.id,
            portable=file_digest(self.references.compact),
            dialect=asdict(backend.dialect),
            recipe=recipe.digest,
            data=rows.fingerprint,
            spec=spec.digest,
            seed=self.seed,
            versions=versions(),
        )

    def _measure(self, target: Target, backend: Backend, artifact: Artifact, device: Device | None) -> dict[str, Any]:
        """Run the artifact, or what simulates it, and return `judge`'s arguments."""
        evaluate, served = self.splits["evaluate"], self.served(artifact, backend, device)
        stages = self.predict(target, artifact, served)
        deployed = stages["runtime"]
        check_precision(target.build.precision, deployed.run.realised_precision)
        run, is_host, simulated = deployed.run, served.place.is_host, served.simulated
        level, reason = evidence_level(target, run.facts, run.runtime, is_host=is_host, simulated=simulated)
        references = self.references.predictions
        tallies = {name: self.meter.tally(evaluate, one, deployed) for name, one in references.items()}
        before = {name: one for name, one in stages.items() if name != "runtime"}
        facts: dict[str, Any] = {
            "level": level,
            "level_reason": reason,
            "level_mend": backend.capability().mend if simulated else "",
            "runtime": deployed.run.runtime,
            "realised_precision": deployed.run.realised_precision,
            "identical_to": tuple(
                name for name, one in references.items() if self._is(name, one, served.model, deployed)
            ),
            "tallies": tallies,
            "scores": {
                name: self.meter.scores(evaluate, one) for name, one in {"deployed": deployed, **references}.items()
            },
            "stages": {
                **{name: self.meter.tally(evaluate, references["dense"], one) for name, one in before.items()},
                "runtime": tallies["dense"],
            },
        }
        if not simulated:
            facts |= self._latencies(target, served.model, served.place)
        return facts

    def served(self, artifact: Artifact, backend: Backend, device: Device | None) -> Served:
        """Say what runs for a target: its artifact, or on this host what simulates it.

        Raises
        ------
        BackendError
            If the artifact can neither run here nor be simulated.
        """
        if device is not None or "run" in backend.capability().can:
            return Served(artifact.model, device or self.host, simulated=False)
        if backend.simulator is None:
            raise BackendError(f"{backend.name}: {backend.capability().reason}")
        return Served(replace(artifact.model, backend=backend.simulator), self.host, simulated=True)

    def predict(self, target: Target, artifact: Artifact, served: Served) -> dict[StageName, Predictions]:
        """Predict the evaluate split at every stage of one target, the runtime last."""
        evaluate, stages = self.splits["evaluate"], dict(self.stages)
        deployed = self.meter.predict(served.model, evaluate, device=served.place, of=target.id)
        if artifact.quantised:
            stages["quantised"] = self.meter.predict(
                Model.onnx(artifact.quantised, "int8"), evaluate, device=self.host, of=f"{target.id} quantised"
            )
        return stages | {"runtime": deployed}

    def _is(self, name: str, reference: Predictions, model: Model, deployed: Predictions) -> bool:
        """Whether the artifact is a reference's very file, run by the same runtime on the same device."""
        same_file = file_digest(model.file) == self.references.digests[name]
        one, other = deployed.run, reference.run
        return same_file and (one.facts, one.runtime) == (other.facts, other.runtime)

    def _latencies(self, target: Target, model: Model, place: Device) -> dict[str, Any]:
        rows, measure = self.splits["calibrate"], target.measure

        def latency(one: Model, of: str) -> Latencies:
            return self.meter.latency(one, rows, device=place, measure=measure, of=of)

        files = {"dense": self.references.dense, "compact": self.references.compact} if place.is_host else {}
        own = latency(model, target.id)
        return {
            "latencies_ms": own.samples_ms,
            "peak_memory_mb": own.run.peak_memory_mb,
            "reference_latencies_ms": {
                name: latency(Model.onnx(file), f"{name} reference").samples_ms for name, file in files.items()
            },
        }


def _parts(main: Path) -> list[Path]:
    """Return all files of an artifact: OpenVINO's model.xml has its weights in model.bin."""
    parts = [main, main.with_suffix(".bin")] if main.suffix == ".xml" else [main]
    return [file for file in parts if file.is_file()]


def _size_bytes(main: Path) -> int:
    return sum(file.stat().st_size for file in _parts(main))


def _digest(main: Path) -> str:
    """Return the digest of an artifact: of its file, or of all of them by name."""
    parts = _parts(main)
    return file_digest(main) if len(parts) == 1 else digest({file.name: file_digest(file) for file in parts})


def _unmeasured(target: Target) -> dict[str, Any]:
    """Return `judge`'s arguments for a target of which nothing is known yet."""
    level: Level = "compiled"
    return {
        "target": target.id,
        "level": level,
        "level_reason": "nothing was run",
        "artifact_digest": None,
        "runtime": {},
        "requested_precision": target.build.precision,
        "realised_precision": {},
        "size_bytes": None,
        "peak_memory_mb": None,
        "tallies": {},
        "stages": {},
        "latencies_ms": None,
        "reference_latencies_ms": {},
        "threads": target.measure.threads,
        "percentiles": target.measure.percentiles,
    }


def versions() -> dict[str, str]:
    """Return the versions of fairdeploy and of every runtime that is installed."""
    found = {"fairdeploy": __version__}
    for name in RUNTIMES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
