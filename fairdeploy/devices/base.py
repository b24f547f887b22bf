"""The `Device` contract: a job goes in, predictions or latencies and facts come out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fairdeploy.model import ModelSpec
from fairdeploy.records import Record
from fairdeploy.target import Measure


class DeviceFacts(Record):
    """What the runner read on the machine; the evidence level is computed from it, never declared.

    `vendor` is the CPU's or the accelerator's, `instructions` the CPU flags that change numerics.
    """

    arch: str
    vendor: str
    model: str
    instructions: tuple[str, ...] = ()
    compute_capability: str | None = None
    power_mode: str | None = None
    memory_mb: int | None = None
    emulated: bool = False


@dataclass(frozen=True)
class Job:
    """What one run does.

    Attributes
    ----------
    backend : str
        Backend name, as registered.
    artifact : Path
        Main file of the artifact.
    precision : str
        Requested precision.
    spec : ModelSpec
        Inputs, preprocessing, output.
    inputs : dict of str to Path
        Raw inputs by name, each an ``.npy`` file [n, ...].
    what : {"predictions", "latency"}
    measure : Measure
        Threads, warm-up and runs.
    """

    backend: str
    artifact: Path
    precision: str
    spec: ModelSpec
    inputs: Mapping[str, Path]
    what: Literal["predictions", "latency"]
    measure: Measure


@dataclass(frozen=True)
class Result:
    """What one run brought back; `probabilities` [n, classes] float32 or `latencies_ms` [runs] float64."""

    probabilities: NDArray[np.float32] | None
    latencies_ms: NDArray[np.float64] | None
    facts: DeviceFacts
    runtime: dict[str, str]
    realised_precision: dict[str, int]
    peak_memory_mb: float


class Device(Protocol):
    """Where an artifact runs.

    Attributes
    ----------
    name : str
    is_host : bool
        Whether it is the machine that runs fairdeploy.
    fake : bool
        Marked in every bundle; only `fairdeploy.testing` has such a device.
    """

    name: str
    is_host: bool
    fake: bool

    def key(self) -> dict[str, str]:
        """Identify the device for the store: what must be equal for a kept result to count."""
        ...

    def run(self, job: Job) -> Result:
        """Run a job.

        Raises
        ------
        BackendError
            If the runtime crashed, hung, ran out of memory or gave NaN; with its last words.
        """
        ...
