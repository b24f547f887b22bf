"""A device that is not there: scripted facts, latency and memory, predictions from ONNX Runtime on this host."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fairdeploy.devices import DeviceFacts, HostDevice, Job, Result
from fairdeploy.model import ModelSpec
from fairdeploy.records import digest
from fairdeploy.target import Measure, Target

LATENCY_SPREAD = 0.05
# For a latency job the artifact is really opened and run; its times are thrown away.
REHEARSAL = Measure(warmup_ms=0, runs=20)


@dataclass(frozen=True)
class Degradation:
    """A seeded fault: some predictions of some rows turn into the next class.

    Attributes
    ----------
    seed : int
    rows : array of bool [n]
        The rows that the fault may hit, in the order of the job's inputs, as those of one group.
    flip_rate : float
        Which fraction of them flips, on average.
    """

    seed: int
    rows: NDArray[np.bool_]
    flip_rate: float

    def apply(self, spec: ModelSpec, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return probabilities [n, classes] with the fault in them.

        Raises
        ------
        ValueError
            If the predictions are not as many as `rows`.
        """
        if len(probabilities) != len(self.rows):
            raise ValueError(f"the degradation is for {len(self.rows)} rows, the job has {len(probabilities)}")
        hit = self.rows & (np.random.default_rng(self.seed).random(len(self.rows)) < self.flip_rate)
        classes = probabilities.shape[1]
        wrong = (spec.decide(probabilities) + 1) % classes
        flipped = np.full_like(probabilities, 0.01 / (classes - 1))
        flipped[np.arange(len(wrong)), wrong] = 0.99
        return np.where(hit[:, None], flipped, probabilities)

    @property
    def digest(self) -> str:
        """SHA-256 of everything that it does."""
        return digest([self.seed, self.flip_rate, hashlib.sha256(self.rows.tobytes()).hexdigest()])


class FakeDevice:
    """A scripted device. An ONNX artifact runs in ONNX Runtime on this host, whatever backend the job names.

    Parameters
    ----------
    facts : DeviceFacts
        What its runner is to have read.
    latency_ms : float
        Median of its log-normal latencies.
    peak_memory_mb : float
    seed : int
        Of the latencies.
    degrade : Degradation, optional
    version : str
        Version of the runtime that it is to have.
    """

    name = "fake-device"
    is_host = False
    fake = True

    def __init__(
        self,
        facts: DeviceFacts,
        *,
        latency_ms: float = 5.0,
        peak_memory_mb: float = 200.0,
        seed: int = 0,
        degrade: Degradation | None = None,
        version: str = "fake",
    ) -> None:
        self.facts, self.latency_ms, self.peak_memory_mb = facts, latency_ms, peak_memory_mb
        self.seed, self.degrade, self.version = seed, degrade, version

    @classmethod
    def for_target(
        cls,
        target: Target,
        *,
        latency_ms: float = 5.0,
        peak_memory_mb: float = 200.0,
        seed: int = 0,
        degrade: Degradation | None = None,
    ) -> FakeDevice:
        """Return a device whose facts are what a target asks for."""
        hardware = target.hardware
        facts = DeviceFacts(
            arch=hardware.arch or "x86_64",
            vendor=hardware.vendor or "fake",
            model=f"fake {target.id}",
            instructions=hardware.instructions,
            compute_capability=hardware.compute_capability,
            power_mode=hardware.power_mode,
            memory_mb=hardware.memory_mb,
        )
        return cls(
            facts,
            latency_ms=latency_ms,
            peak_memory_mb=peak_memory_mb,
            seed=seed,
            degrade=degrade,
            version=target.runtime.version or "fake",
        )

    def key(self) -> dict[str, str]:
        """Identify everything that is scripted."""
        script = [self.facts.digest, self.latency_ms, self.peak_memory_mb, self.seed, self.version]
        return {"fake": digest([*script, self.degrade.digest if self.degrade else None])}

    def run(self, job: Job) -> Result:
        """Run a job; see `fairdeploy.devices.base.Device.run`."""
        backend = "ort" if job.artifact.suffix == ".onnx" else job.backend
        real = HostDevice().run(replace(job, backend=backend, measure=REHEARSAL))
        probabilities, latencies_ms = real.probabilities, real.latencies_ms
        if probabilities is not None and self.degrade is not None:
            probabilities = self.degrade.apply(job.spec, probabilities)
        if latencies_ms is not None:
            noise = np.random.default_rng(self.seed).normal(0, LATENCY_SPREAD, job.measure.runs)
            latencies_ms = self.latency_ms * np.exp(noise)
        return Result(
            probabilities=probabilities,
            latencies_ms=latencies_ms,
            facts=self.facts,
            runtime={"name": job.backend, "version": self.version, "ran_by": " ".join(real.runtime.values())},
            realised_precision=real.realised_precision,
            peak_memory_mb=self.peak_memory_mb,
        )
