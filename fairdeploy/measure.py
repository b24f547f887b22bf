"""Run a model on a device through the store: predictions of a split, or single-stream latencies."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fairdeploy import backends
from fairdeploy.data import Rows, StoredSplit
from fairdeploy.devices import Device, DeviceFacts, Job
from fairdeploy.devices.package import build_zipapp
from fairdeploy.errors import BackendError, DataError
from fairdeploy.evidence import Schema, Tally
from fairdeploy.evidence.scores import Scores
from fairdeploy.model import ModelSpec
from fairdeploy.project import Groups
from fairdeploy.records import Record, digest, file_digest
from fairdeploy.store import Kept, Store
from fairdeploy.target import Measure


class Run(Record):
    """What the runner said about one run besides its numbers."""

    facts: DeviceFacts
    runtime: dict[str, str]
    realised_precision: dict[str, int]
    peak_memory_mb: float


@dataclass(frozen=True)
class Model:
    """A file that a backend can run, with the precision that was asked for.

    Attributes
    ----------
    file : Path
        The artifact's main file.
    digest : str
        Digest of the artifact, all its files.
    """

    file: Path
    digest: str
    backend: str
    precision: str

    @classmethod
    def onnx(cls, file: Path, precision: str = "fp32") -> Model:
        """An ONNX file for ONNX Runtime, as references and simulated targets are."""
        return cls(file, file_digest(file), "ort", precision)


@dataclass(frozen=True)
class Predictions:
    """Ids [n] and probabilities [n, classes] of one split at one stage, and how they were made."""

    ids: NDArray[np.str_]
    probabilities: NDArray[np.float32]
    run: Run


@dataclass(frozen=True)
class Latencies:
    """Single-stream latencies [runs] in milliseconds, and how they were measured."""

    samples_ms: NDArray[np.float64]
    run: Run


@dataclass(frozen=True)
class Meter:
    """Measures models on one split with one spec.

    Attributes
    ----------
    store : Store
    spec : ModelSpec
    groups : Groups
        Which attributes, contexts and clusters the tallies hold.
    """

    store: Store
    spec: ModelSpec
    groups: Groups

    def predict(self, model: Model, split: StoredSplit, *, device: Device, of: str) -> Predictions:
        """Return the predictions of a model on a split.

        Raises
        ------
        BackendError
            If the runtime crashed, hung or gave NaN.
        """
        kept = self._run("predictions", model, split, Measure(), device, of)
        ids, probabilities = (
            np.load(kept.folder / f"{name}.npy", allow_pickle=False) for name in ("ids", "probabilities")
        )
        return Predictions(ids, probabilities, _run(kept))

    def latency(self, model: Model, split: StoredSplit, *, device: Device, measure: Measure, of: str) -> Latencies:
        """Return single-stream latencies [runs] in milliseconds, after a warm-up, on rows of a split."""
        kept = self._run("latency", model, split, measure, device, of)
        return Latencies(np.load(kept.folder / "latencies_ms.npy", allow_pickle=False), _run(kept))

    def tally(self, split: StoredSplit, reference: Predictions, deployed: Predictions) -> Tally:
        """Count a model's predictions on a split, paired with a reference's."""
        rows = split.rows
        for one in (reference, deployed):
            if not np.array_equal(one.ids, rows.ids):
                raise DataError("predictions are not of the split's rows, in their order: run the build again")
        return Tally.count(
            self.schema(rows),
            ids=rows.ids,
            labels=rows.labels,
            attributes=rows.attributes,
            contexts=rows.contexts,
            clusters=rows.clusters,
            reference=self.spec.decide(reference.probabilities),
            deployed=self.spec.decide(deployed.probabilities),
        )

    def scores(self, split: StoredSplit, predictions: Predictions) -> Scores:
        """Count a model's probabilities on a split."""
        rows = split.rows
        return Scores.count(
            self.schema(rows),
            ids=rows.ids,
            labels=rows.labels,
            attributes=rows.attributes,
            clusters=rows.clusters,
            scores=predictions.probabilities,
        )

    def schema(self, rows: Rows) -> Schema:
        """Return the tally's axes: declared attribute levels, the rows' context levels, the classes."""
        contexts = {name: tuple(sorted(set(rows.contexts[name].tolist()))) for name in self.groups.contexts}
        clustered = rows.clusters is not None
        return Schema(
            attributes=self.groups.attributes, contexts=contexts, classes=self.spec.classes, clustered=clustered
        )

    def _run(
        self,
        what: Literal["predictions", "latency"],
        model: Model,
        split: StoredSplit,
        measure: Measure,
        device: Device,
        of: str,
    ) -> Kept:
        def produce(out: Path) -> None:
            inputs = {name: split.folder / f"{name}.npy" for name in self.spec.inputs}
            result = device.run(
                Job(model.backend, model.file, model.precision, self.spec, inputs, what=what, measure=measure)
            )
            if what == "predictions":
                shape = (len(split.rows), len(self.spec.classes))
                np.save(out / "probabilities.npy", _finite(result.probabilities, shape, device))
                np.save(out / "ids.npy", split.rows.ids)
            else:
                np.save(out / "latencies_ms.npy", _finite(result.latencies_ms, (measure.runs,), device))
            Run(
                facts=result.facts,
                runtime=result.runtime,
                realised_precision=result.realised_precision,
                peak_memory_mb=result.peak_memory_mb,
            ).save(out / "run.json")

        return self.store.run(
            what,
            produce,
            of=of,
            model=model.digest,
            backend=model.backend,
            precision=model.precision,
            spec=self.spec.digest,
            data=split.fingerprint,
            measure=measure.digest,
            device=device.key(),
            runner=_runner_digest(model.backend),
        )


def _finite(values: NDArray[Any] | None, shape: tuple[int, ...], device: Device) -> NDArray[Any]:
    if values is None or values.shape != shape or not np.isfinite(values).all():
        got = "nothing" if values is None else f"{list(values.shape)}, {int((~np.isfinite(values)).sum())} not finite"
        raise BackendError(f"device '{device.name}' answered {got}; expected {list(shape)} finite numbers")
    return values


def _runner_digest(name: str) -> str:
    """Digest of what computes a run's numbers here: the runner, the backend's file, its runtime's version."""
    backend = backends.load(name)
    return digest([sha256(build_zipapp(backend)).hexdigest(), backend.capability().version])


def _run(kept: Kept) -> Run:
    return Run.load(kept.folder / "run.json")
