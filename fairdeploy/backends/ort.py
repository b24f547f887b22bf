"""ONNX Runtime on the CPU: threads fixed, sequential, deterministic.

The `OrtSession` half is shipped to devices (standard library, numpy and onnxruntime; Python 3.8 syntax).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from fairdeploy.backends.base import Capability, Dialect

# Kernels that multiply weights; what is around them (pooling, adding, reordering) follows their precision.
COMPUTE = re.compile("Conv|Gemm|MatMul|LSTM|GRU|Attention|Einsum")
PRECISIONS = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "uint8": "int8", "int8": "int8"}


class OrtSession:
    """An ONNX file in ONNX Runtime.

    Parameters
    ----------
    artifact : str
        Path of the ONNX file.
    threads : int
        Threads inside an operator; operators run one after the other.
    precision : str
        Requested precision; the file decides, `realised_precision` tells.
    """

    def __init__(self, artifact: str, threads: int, precision: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.use_deterministic_compute = True
        options.log_severity_level = 3
        self._profile_folder = tempfile.mkdtemp(prefix="fairdeploy-ort-")
        options.enable_profiling = True
        options.profile_file_prefix = os.path.join(self._profile_folder, "first-run")
        self._kernels: dict[str, int] | None = None
        try:
            self._session = onnxruntime.InferenceSession(artifact, options, providers=["CPUExecutionProvider"])
        except BaseException:
            shutil.rmtree(self._profile_folder, ignore_errors=True)
            raise

    def __enter__(self) -> OrtSession:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def infer(self, inputs: Mapping[str, Any]) -> Any:
        """Return the first output for named inputs [n, ...]; the first call also records which kernels ran."""
        output = self._session.run(None, dict(inputs))[0]
        if self._kernels is None:
            self._kernels = _count_kernels(self._session.end_profiling())
            shutil.rmtree(self._profile_folder, ignore_errors=True)
        return output

    def realised_precision(self) -> dict[str, int]:
        """Count the compute kernels by the type of their first input, as the runtime profiled its first inference.

        Raises
        ------
        RuntimeError
            Before the first inference: nothing ran yet.
        """
        if self._kernels is None:
            raise RuntimeError("nothing has run yet: call infer first")
        return dict(self._kernels)

    def runtime(self) -> dict[str, str]:
        """Name the runtime and its version."""
        import onnxruntime

        return {"name": "onnxruntime", "version": onnxruntime.__version__, "provider": "CPUExecutionProvider"}

    def close(self) -> None:
        """Release the session; calling it twice is harmless."""
        session, self._session = self._session, None
        if session is not None and self._kernels is None:
            with contextlib.suppress(Exception):
                session.end_profiling()
        shutil.rmtree(self._profile_folder, ignore_errors=True)


def _count_kernels(profile: str) -> dict[str, int]:
    with open(profile, encoding="utf-8") as stream:
        events = json.load(stream)
    counts: dict[str, int] = {}
    for event in events:
        details = event.get("args", {})
        if (
            event.get("cat") == "Node"
            and COMPUTE.search(details.get("op_name", ""))
            and details.get("input_type_shape")
        ):
            (kind,) = details["input_type_shape"][0]
            name = PRECISIONS.get(kind, kind)
            counts[name] = counts.get(name, 0) + 1
    return counts


class OrtBackend:
    """The host half: an ONNX file is its own artifact."""

    name = "ort"
    extra = None
    artifact_name = "model.onnx"
    simulator = None
    session = OrtSession

    @property
    def dialect(self) -> Dialect:
        """Asymmetric u8 activations; 7-bit weights, since u8s8 products saturate on CPUs without VNNI."""
        from fairdeploy.backends.base import Dialect

        return Dialect("u8-asymmetric", "s8-per-channel", quantize_bias=True, pair_qdq=False, reduce_range=True)

    def capability(self) -> Capability:
        """Say which version is installed."""
        from fairdeploy.backends.base import installed_capability

        return installed_capability("onnxruntime", ("compile", "run", "lint"), mend="pip install onnxruntime")

    def lint(self, portable: Path) -> list[str]:
        """Return what ONNX Runtime says when it refuses to load the file."""
        try:
            OrtSession(str(portable), 1, "fp32").close()
        except Exception as error:
            return [str(error)]
        return []

    def compile(self, portable: Path, precision: str, out: Path) -> None:
        """Copy the ONNX file, after the runtime has loaded it."""
        from fairdeploy.errors import BackendError

        refused = self.lint(portable)
        if refused:
            raise BackendError(f"ort refused {portable.name}: {refused[0]}")
        out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(portable, out / self.artifact_name)
