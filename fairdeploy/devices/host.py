"""`HostDevice`: the machine that runs fairdeploy. The runner works in a child process with limits."""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from fairdeploy import backends
from fairdeploy.devices.base import DeviceFacts, Job, Result
from fairdeploy.devices.facts import read_facts
from fairdeploy.devices.package import build_zipapp, session_name
from fairdeploy.devices.process import Ended, run_limited
from fairdeploy.devices.runner import PROTOCOL
from fairdeploy.errors import BackendError, BackendUnavailable
from fairdeploy.records import file_digest, write_atomic


class HostDevice:
    """The machine that runs fairdeploy.

    Parameters
    ----------
    timeout_s : float
        Wall time of one job; CPU time is limited to it times the threads.
    memory_mb : int
        Address space of the child, besides the files it maps.
    """

    name = "this-host"
    is_host = True
    fake = False

    def __init__(self, *, timeout_s: float = 600, memory_mb: int = 8192) -> None:
        self.timeout_s, self.memory_mb = timeout_s, memory_mb

    def key(self) -> dict[str, str]:
        """Identify this machine: its facts (a latency holds for one machine) and its Python."""
        facts = DeviceFacts.model_validate(read_facts())
        return {"facts": facts.digest, "host": platform.node(), "python": platform.python_version()}

    def run(self, job: Job) -> Result:
        """Run a job in a child process.

        Raises
        ------
        BackendUnavailable
            If the backend cannot run on this machine.
        BackendError
            If a file is missing, or the runtime refused, crashed, hung, ran out of memory or gave NaN; with its
            last words.
        """
        backend = backends.load(job.backend)
        capability = backend.capability()
        if "run" not in capability.can:
            raise BackendUnavailable(job.backend, "; ".join(filter(None, (capability.reason, capability.mend))))
        with tempfile.TemporaryDirectory(prefix="fairdeploy-job-") as name:
            folder = Path(name)
            runner = folder / "runner.pyz"
            runner.write_bytes(build_zipapp(backend))
            description = self._describe(job, session_name(backend))
            write_atomic(folder / "job.json", json.dumps(description).encode())
            command = [sys.executable, str(runner), name]
            ended = run_limited(command, folder, threads=job.measure.threads, timeout_s=self.timeout_s)
            return _read(folder, job, ended)

    def _describe(self, job: Job, session: str) -> dict[str, Any]:
        # A runtime may spread an artifact over files of one stem, such as model.xml and model.bin.
        main = job.artifact.resolve()
        files = sorted(file for file in main.parent.glob(f"{main.stem}.*") if file.is_file())
        inputs = {tensor: path.resolve() for tensor, path in job.inputs.items()}
        for file in (main, *inputs.values()):
            if not file.is_file():
                raise BackendError(f"no such file: {file}")
        mapped_bytes = sum(file.stat().st_size for file in (*files, *inputs.values()))
        return {
            "protocol": PROTOCOL,
            "what": job.what,
            "session": session,
            "artifact": {"main": str(main), "files": {str(file): file_digest(file) for file in files}},
            "precision": job.precision,
            "spec": job.spec.model_dump(mode="json"),
            "inputs": {tensor: [str(path), file_digest(path)] for tensor, path in inputs.items()},
            "measure": job.measure.model_dump(mode="json"),
            "limits": {
                "cpu_s": int(self.timeout_s * job.measure.threads) + 1,
                "memory_mb": self.memory_mb + (mapped_bytes >> 20),
            },
        }


def _read(folder: Path, job: Job, ended: Ended) -> Result:
    what = f"{job.backend} ({job.what} of {job.artifact.name})"
    try:
        result = json.loads((folder / "result.json").read_text("utf-8"))
    except (OSError, ValueError):
        raise BackendError(f"{what} {ended.describe()}") from None
    if result["status"] != "done":
        raise BackendError(f"{what} was refused: {result['reason']}")
    if ended.returncode != 0:
        raise BackendError(f"{what} finished, but its process {ended.describe()}")
    output = np.load(folder / "output.npy", allow_pickle=False)
    return Result(
        probabilities=output if job.what == "predictions" else None,
        latencies_ms=output if job.what == "latency" else None,
        facts=DeviceFacts.model_validate(result["facts"]),
        runtime=result["runtime"],
        realised_precision=result["realised_precision"],
        peak_memory_mb=round(result["peak_memory_mb"], 1),
    )
