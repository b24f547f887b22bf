"""Time several artifacts in turns in one process on this host, so that a change of the machine's pace hits all alike.

For comparing artifacts with each other; what a target's latency is, `fairdeploy.measure` says.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairdeploy import backends
from fairdeploy.devices.child import run_child
from fairdeploy.devices.host import HostDevice
from fairdeploy.errors import BackendError, BackendUnavailable

WARMUP = 3


@dataclass(frozen=True)
class Timed:
    """An artifact (or portable ONNX file) and the shapes of its inputs by name, the batch included."""

    file: Path
    inputs: Mapping[str, tuple[int, ...]]


def circumstances(backend: str) -> dict[str, Any]:
    """Return what latencies timed together hold for, as plain data for the store's keys."""
    return {
        "backend": backend,
        "version": backends.load(backend).capability().version,
        "threads": 1,
        "precision": "fp32",
        "device": HostDevice().key(),
    }


def time_together(
    backend: str, artifacts: Sequence[Timed], *, rounds: int, timeout_s: float = 600
) -> NDArray[np.float64]:
    """Return latencies [rounds, artifacts] in milliseconds on random inputs, with one thread, in fp32.

    All artifacts are loaded first; each round runs each of them once, so none finds its weights in the caches
    nearest to the processor, as no layer does inside a network.

    Raises
    ------
    BackendUnavailable
        If the backend cannot run on this machine.
    BackendError
        If it refused an artifact, crashed or did not end in time; with its last words.
    """
    loaded = backends.load(backend)
    capability = loaded.capability()
    if "run" not in capability.can:
        raise BackendUnavailable(backend, "; ".join(filter(None, (capability.reason, capability.mend))))
    described = [{"file": str(one.file), "inputs": dict(one.inputs)} for one in artifacts]
    arguments = {"backend": backend, "artifacts": described, "rounds": rounds}
    answer = run_child("fairdeploy.devices.together:time_here", arguments, timeout_s=timeout_s)
    times_ms = np.array(answer, dtype=np.float64).reshape(rounds, len(artifacts))
    if not np.isfinite(times_ms).all():
        raise BackendError(f"{backend} answered latencies that are not finite")
    return times_ms


def time_here(backend: str, artifacts: list[dict[str, Any]], rounds: int) -> list[list[float]]:
    """Time in this process; `time_together` calls it in a child."""
    random = np.random.default_rng(0)
    session_type = backends.load(backend).session
    with ExitStack() as stack:
        runs = []
        for one in artifacts:
            session = stack.enter_context(session_type(one["file"], 1, "fp32"))
            feed = {name: random.standard_normal(shape, np.float32) for name, shape in one["inputs"].items()}
            runs.append((session, feed))
            for _ in range(WARMUP):
                session.infer(feed)
        return [[_time_ms(session, feed) for session, feed in runs] for _ in range(rounds)]


def _time_ms(session: Any, feed: Mapping[str, NDArray[np.float32]]) -> float:
    started = time.perf_counter_ns()
    session.infer(feed)
    return (time.perf_counter_ns() - started) / 1e6
