"""OpenVINO on the CPU: threads fixed, inference in f32 where the file is not quantised (never silently bf16).

The `OpenVinoSession` half is shipped to devices (standard library, numpy and openvino; Python 3.8 syntax).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from fairdeploy.backends.base import Capability, Dialect

# Layers that multiply weights; of the others only those that lower the precision by themselves are counted.
COMPUTE = re.compile("Convolution|MatMul|FullyConnected|LSTM|GRU|RNN|Attention")
PRECISIONS = {"f32": "fp32", "f16": "fp16", "i8": "int8", "u8": "int8"}
LOWERED = ("bf16", "f16")
OPTIONS = {
    "PERFORMANCE_HINT": "LATENCY",
    "NUM_STREAMS": "1",
    # On a CPU with AVX512_BF16 the default is bf16.
    "INFERENCE_PRECISION_HINT": "f32",
    # Two processes would pin themselves to the same core.
    "ENABLE_CPU_PINNING": "NO",
}


class OpenVinoSession:
    """An OpenVINO model (or an ONNX file) compiled for the CPU.

    Parameters
    ----------
    artifact : str
        Path of ``model.xml``, beside its ``model.bin``.
    threads : int
        Threads of the one stream.
    precision : str
        Requested precision; the file decides between fp32 and int8, `realised_precision` tells.
    """

    def __init__(self, artifact: str, threads: int, precision: str) -> None:
        import openvino

        self._version = openvino.__version__
        core = openvino.Core()
        model = core.read_model(artifact)
        self._model = core.compile_model(model, "CPU", {**OPTIONS, "INFERENCE_NUM_THREADS": str(threads)})
        self._names = {tensor.any_name for tensor in self._model.inputs}
        self._request = self._model.create_infer_request()

    def __enter__(self) -> OpenVinoSession:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def infer(self, inputs: Mapping[str, Any]) -> Any:
        """Return the first output for named inputs [n, ...].

        Raises
        ------
        ValueError
            If an input is missing or unknown; OpenVINO itself would reuse the last one.
        """
        if set(inputs) != self._names:
            raise ValueError(f"inputs are named {sorted(inputs)}, the model has {sorted(self._names)}")
        return self._request.infer(dict(inputs), share_inputs=True)[0]

    def realised_precision(self) -> dict[str, int]:
        """Count the compute layers by ``runtimePrecision``; a Const or Reorder computes nothing."""
        counts: dict[str, int] = {}
        for node in self._model.get_runtime_model().get_ops():
            details = {key: str(node.rt_info[key].value) for key in ("layerType", "runtimePrecision")}
            kind, precision = details["layerType"], details["runtimePrecision"]
            if kind in ("Const", "Reorder") or not (COMPUTE.search(kind) or precision in LOWERED):
                continue
            name = PRECISIONS.get(precision, precision)
            counts[name] = counts.get(name, 0) + 1
        return counts

    def runtime(self) -> dict[str, str]:
        """Name the runtime, its version and the device it compiled for."""
        return {"name": "openvino", "version": self._version, "device": "CPU"}

    def close(self) -> None:
        """Release the model; calling it twice is harmless."""
        self._request = self._model = None


class OpenVinoBackend:
    """The host half: ONNX to ``model.xml`` and ``model.bin``, weights kept in fp32."""

    name = "openvino"
    extra = "openvino"
    artifact_name = "model.xml"
    simulator = "ort"
    session = OpenVinoSession

    @property
    def dialect(self) -> Dialect:
        """Asymmetric u8 activations, float bias; 7-bit weights for CPUs without VNNI."""
        from fairdeploy.backends.base import Dialect

        return Dialect("u8-asymmetric", "s8-per-channel", quantize_bias=False, pair_qdq=False, reduce_range=True)

    def capability(self) -> Capability:
        """Say which version is installed."""
        from fairdeploy.backends.base import installed_capability

        return installed_capability("openvino", ("compile", "run", "lint"), mend="pip install 'fairdeploy[openvino]'")

    def lint(self, portable: Path) -> list[str]:
        """Return what OpenVINO says when it refuses to load or compile the file.

        Raises
        ------
        BackendUnavailable
            If OpenVINO is not installed.
        """
        from fairdeploy.errors import BackendUnavailable

        able = self.capability()
        if "lint" not in able.can:
            raise BackendUnavailable(self.name, f"{able.reason}: {able.mend}")
        try:
            OpenVinoSession(str(portable), 1, "fp32").close()
        except Exception as error:
            return [" ".join(str(error).split())]
        return []

    def compile(self, portable: Path, precision: str, out: Path) -> None:
        """Write ``model.xml`` and ``model.bin``, after the runtime has compiled the file."""
        from fairdeploy.errors import BackendError

        refused = self.lint(portable)
        if refused:
            raise BackendError(f"openvino refused {portable.name}: {refused[0]}")
        import openvino

        out.mkdir(parents=True, exist_ok=True)
        openvino.save_model(openvino.Core().read_model(portable), out / self.artifact_name, compress_to_fp16=False)
