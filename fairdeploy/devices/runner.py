"""The runner: loads an artifact, feeds it real inputs, writes down what came out. Every device runs this file.

It is shipped as a zipapp with the backend's file, so it uses only the standard library and numpy, in Python 3.8
syntax. It is also the one implementation of preprocessing and of output to probabilities: export checks and
calibration call the same functions.

A job folder holds ``job.json`` (protocol, what, session, artifact, precision, spec, inputs, measure, limits; every
file with its SHA-256, which is checked before anything is loaded). The runner writes ``output.npy`` and then, last
and atomically, ``result.json``; a job without it crashed or was killed.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

PROTOCOL = 1
CHUNK_ROWS = 64
LATENCY_ROWS = 64
SUM_TOLERANCE = 1e-3
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Refused(Exception):
    """The job, its inputs or the runtime's output cannot be used; the message is the reason."""


def check_inputs(spec: Mapping[str, Any], arrays: Mapping[str, Any]) -> int:
    """Check raw inputs [n, ...] against the spec and return n.

    Raises
    ------
    Refused
        If names, shapes, dtypes (uint8 or float32) or row counts do not fit.
    """
    if set(arrays) != set(spec["inputs"]):
        raise Refused(f"inputs are named {sorted(arrays)}, the model spec says {sorted(spec['inputs'])}")
    counts = set()
    for name, tensor in spec["inputs"].items():
        array, row_shape = arrays[name], tuple(tensor["shape"][1:])
        if array.dtype not in (np.dtype("uint8"), np.dtype("float32")):
            raise Refused(f"input '{name}' is {array.dtype}; give uint8 or float32")
        if array.ndim == 0 or array.shape[1:] != row_shape:
            raise Refused(f"input '{name}' has shape {array.shape}, the model spec says {('n', *row_shape)}")
        counts.add(array.shape[0])
    if len(counts) != 1 or counts == {0}:
        raise Refused(f"inputs have {sorted(counts)} rows; give the same number, at least one")
    return int(counts.pop())


def preprocess(spec: Mapping[str, Any], arrays: Mapping[str, Any], first_row: int = 0) -> dict[str, Any]:
    """Turn raw inputs [n, ...] into what the network is fed: ``(x - mean) / std`` per channel, float32.

    Parameters
    ----------
    spec : mapping
        `ModelSpec` as plain data.
    arrays : mapping of str to array [n, ...]
        uint8 or float32; red comes first.
    first_row : int
        Row number of the first row, for the message.

    Raises
    ------
    Refused
        If a value is NaN or infinite.
    """
    recipe = spec["preprocess"]
    prepared = {}
    for name in spec["inputs"]:
        values = np.asarray(arrays[name]).astype(np.float32)
        finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
        if not finite.all():
            raise Refused(f"input '{name}' has NaN or infinity in row {first_row + int(np.argmin(finite))}")
        if recipe["color"] == "bgr":
            values = values[:, ::-1]
        if recipe["mean"]:
            per_channel = (-1,) + (1,) * (values.ndim - 2)
            mean, std = (np.asarray(recipe[key], np.float32).reshape(per_channel) for key in ("mean", "std"))
            values = (values - mean) / std
        prepared[name] = np.ascontiguousarray(values)
    return prepared


def probabilities(spec: Mapping[str, Any], output: Any, first_row: int = 0) -> Any:
    """Turn a network's first output [n, classes], or [n, 1] for two classes, into probabilities [n, classes].

    Logits go through softmax; a single logit through the sigmoid, giving (1 - p, p).

    Raises
    ------
    Refused
        If the shape does not fit the classes, a value is NaN or infinite (its row is named), or what the spec
        calls probabilities is outside [0, 1] or does not sum to 1 within 1e-3.
    """
    values, classes = np.asarray(output, np.float64), len(spec["classes"])
    if values.ndim != 2 or values.shape[1] not in ((1, 2) if classes == 2 else (classes,)):
        raise Refused(f"the output has shape {values.shape}; {classes} classes need ('n', {classes})")
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        raise Refused(f"the output has NaN or infinity in row {first_row + int(np.argmin(finite))}")
    if spec["output"] == "logits":
        if values.shape[1] == 1:
            values = np.concatenate([np.zeros_like(values), values], axis=1)
        powers = np.exp(values - values.max(axis=1, keepdims=True))
        return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    if values.shape[1] == 1:
        values = np.concatenate([1 - values, values], axis=1)
    valid = (values >= 0).all(axis=1) & (values <= 1).all(axis=1) & (abs(values.sum(axis=1) - 1) <= SUM_TOLERANCE)
    if not valid.all():
        row = int(np.argmin(valid))
        raise Refused(f"row {first_row + row} is {values[row].tolist()}, not probabilities: say output: logits")
    return values.astype(np.float32)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    state = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            state.update(block)
    return state.hexdigest()


def run_job(folder: Path) -> dict[str, Any]:
    """Run the job in a folder, write its ``output.npy`` and return the content of ``result.json``.

    Raises
    ------
    Refused
        If a digest does not match, the inputs do not fit, or the output is not finite.
    """
    job = json.loads((folder / "job.json").read_text("utf-8"))
    if job["protocol"] != PROTOCOL:
        raise Refused(f"the job speaks protocol {job['protocol']}, this runner {PROTOCOL}")
    limit_process(job["limits"])
    for path, digest in [*job["artifact"]["files"].items(), *job["inputs"].values()]:
        if sha256(folder / path) != digest:
            raise Refused(f"{path} is not the file that the job names: its SHA-256 differs")
    arrays = {}
    for name, (path, _) in job["inputs"].items():
        arrays[name] = np.load(str(folder / path), mmap_mode="r", allow_pickle=False)
    check_inputs(job["spec"], arrays)
    module, name = job["session"].split(":")
    session_type = getattr(importlib.import_module(module), name)
    work = {"predictions": _predict, "latency": _time}[job["what"]]
    with session_type(str(folder / job["artifact"]["main"]), job["measure"]["threads"], job["precision"]) as session:
        work(session, job, arrays, folder / "output.npy")
        return {
            "output_sha256": sha256(folder / "output.npy"),
            "realised_precision": session.realised_precision(),
            "runtime": session.runtime(),
            "peak_memory_mb": peak_memory_mb(),
        }


def _predict(session: Any, job: Mapping[str, Any], arrays: Mapping[str, Any], out: Path) -> None:
    spec, rows = job["spec"], len(next(iter(arrays.values())))
    written = np.lib.format.open_memmap(str(out), "w+", np.float32, (rows, len(spec["classes"])))
    for start in range(0, rows, CHUNK_ROWS):
        chunk = {name: array[start : start + CHUNK_ROWS] for name, array in arrays.items()}
        output = session.infer(preprocess(spec, chunk, start))
        size = len(next(iter(chunk.values())))
        if len(output) != size:
            raise Refused(f"the runtime gave {len(output)} rows for {size}")
        written[start : start + size] = probabilities(spec, output, start)
    written.flush()


def _time(session: Any, job: Mapping[str, Any], arrays: Mapping[str, Any], out: Path) -> None:
    """Single stream: preprocessed real inputs one at a time, warmed up by time, each `infer` call timed alone."""
    spec, rows, measure = job["spec"], len(next(iter(arrays.values()))), job["measure"]
    chosen = np.unique(np.linspace(0, rows - 1, min(rows, LATENCY_ROWS)).astype(int))
    feeds = [preprocess(spec, {name: a[row : row + 1] for name, a in arrays.items()}, int(row)) for row in chosen]
    for turn, feed in enumerate(feeds):
        probabilities(spec, session.infer(feed), int(chosen[turn]))
    warm_until = time.perf_counter_ns() + measure["warmup_ms"] * 1_000_000
    turn = 0
    while time.perf_counter_ns() < warm_until:
        session.infer(feeds[turn % len(feeds)])
        turn += 1
    took_ns = np.empty(measure["runs"], np.int64)
    gc.disable()
    for run in range(len(took_ns)):
        feed = feeds[run % len(feeds)]
        started = time.perf_counter_ns()
        session.infer(feed)
        took_ns[run] = time.perf_counter_ns() - started
    gc.enable()
    np.save(str(out), took_ns / 1e6)


def peak_memory_mb() -> float:
    """Return the largest resident set of this process so far, in MiB.

    Not `getrusage` where Linux says better: its figure is carried over from the parent through fork and exec.
    """
    status = Path("/proc/self/status")
    lines = status.read_text("utf-8").splitlines() if status.is_file() else []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def limit_process(limits: Mapping[str, Any]) -> None:
    """Limit this process to ``cpu_s`` seconds of CPU and ``memory_mb`` MiB of address space; no core dumps.

    On Linux it also ends with its parent, so that a build that was killed leaves no runtime at work.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        import resource
    except ImportError:
        return
    for kind, amount in (("RLIMIT_CPU", limits["cpu_s"]), ("RLIMIT_AS", limits["memory_mb"] << 20), ("RLIMIT_CORE", 0)):
        resource.setrlimit(getattr(resource, kind), (amount, amount))


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Write ``result.json`` so that a reader sees all of it or nothing."""
    partial = folder / "result.json.partial"
    with partial.open("w", encoding="utf-8") as stream:
        json.dump(result, stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(str(partial), str(folder / "result.json"))


def main(arguments: list[str]) -> int:
    """Run the job folder named on the command line; 0 when it is done, 1 when it was refused."""
    from fairdeploy.devices.facts import read_facts

    folder = Path(arguments[0])
    result: dict[str, Any] = {"protocol": PROTOCOL}
    try:
        result.update(status="done", facts=read_facts(), **run_job(folder))
    except Refused as refusal:
        result.update(status="refused", reason=str(refusal))
    except Exception as error:
        result.update(status="refused", reason=f"{type(error).__name__}: {error}")
    write_result(folder, result)
    return int(result["status"] != "done")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
