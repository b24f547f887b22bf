"""TensorRT on NVIDIA devices: its QDQ dialect and a lint here; engines are built and run on the device.

An engine holds for one GPU model and one TensorRT version, so what leaves this machine is the ONNX file, strongly
typed: INT8 stands in it as QDQ pairs, never as a builder flag.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from fairdeploy.backends.base import Capability, Dialect

ON_DEVICE = "TensorRT engines hold for one GPU model and one version, so they are built and run on the device"
MEASURE_THERE = (
    "on the device, whose JetPack brings TensorRT (never pip-install it there), build the engine with "
    "'trtexec --onnx=model.onnx --stronglyTyped --saveEngine=model.engine'; running it there under fairdeploy needs "
    "a device connection, which this version does not have yet; here ONNX Runtime simulates it"
)
RTX = "1.7.1.116"
GET_LINT = (
    f"pip install --no-deps tensorrt-rtx-cu13=={RTX} tensorrt-rtx-cu13-libs=={RTX} tensorrt-rtx-cu13-bindings=={RTX}"
)
# On a machine without a GPU every refusal drags this along.
NO_GPU = re.compile(r"\n?[^\n]*cudaError 35:[^\n]*")


class TensorRtSession:
    """An ONNX file that TensorRT builds and runs on the device; on any other machine opening it is an error."""

    def __init__(self, artifact: str, threads: int, precision: str) -> None:
        raise RuntimeError(ON_DEVICE)

    def __enter__(self) -> TensorRtSession:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def infer(self, inputs: Mapping[str, Any]) -> Any:
        """Return the first output; see `fairdeploy.backends.base.Session`."""
        raise RuntimeError(ON_DEVICE)

    def realised_precision(self) -> dict[str, int]:
        """Count compute layers per precision; see `fairdeploy.backends.base.Session`."""
        raise RuntimeError(ON_DEVICE)

    def runtime(self) -> dict[str, str]:
        """Name the runtime."""
        return {"name": "tensorrt"}

    def close(self) -> None:
        """Release nothing: nothing was opened."""


class TensorRtBackend:
    """The host half: dialect and lint; the artifact that goes to the device is the ONNX file."""

    name = "tensorrt"
    extra = None
    artifact_name = "model.onnx"
    simulator = "ort"
    session = TensorRtSession

    @property
    def dialect(self) -> Dialect:
        """Symmetric s8 pairs and float biases: TensorRT's parser refuses int32 inputs of DequantizeLinear."""
        from fairdeploy.backends.base import Dialect

        return Dialect("s8-symmetric", "s8-per-channel", quantize_bias=False, pair_qdq=True)

    def capability(self) -> Capability:
        """Say whether the linter (TensorRT for RTX, which needs no GPU to parse) is installed."""
        from fairdeploy.backends.base import Capability, installed_capability

        linter = installed_capability("tensorrt-rtx-cu13", ("lint",), mend=GET_LINT)
        mend = MEASURE_THERE if linter.version else f"{MEASURE_THERE}; to check ONNX files here: {GET_LINT}"
        return Capability(linter.version, linter.can, ("fp32", "fp16", "int8"), reason=ON_DEVICE, mend=mend)

    def lint(self, portable: Path) -> list[str]:
        """Return why TensorRT's ONNX parser refuses the file: it stops at the first node.

        Raises
        ------
        BackendUnavailable
            If TensorRT for RTX is not installed.
        """
        from fairdeploy.errors import BackendUnavailable

        try:
            import tensorrt_rtx
        except ImportError:
            raise BackendUnavailable(self.name, f"the linter is not installed: {GET_LINT}") from None
        logger = tensorrt_rtx.Logger(tensorrt_rtx.Logger.INTERNAL_ERROR)
        builder = tensorrt_rtx.Builder(logger)
        network = builder.create_network(0)
        parser = tensorrt_rtx.OnnxParser(network, logger)
        if parser.parse(portable.read_bytes()):
            return []
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        found = [f"{error.node_name() or 'the file'}: {_tidy(error.desc())}" for error in errors]
        return found or ["the file is not an ONNX model that TensorRT can parse"]

    def compile(self, portable: Path, precision: str, out: Path) -> None:
        """Refuse: an engine that was built on another machine would not load."""
        from fairdeploy.errors import BackendUnavailable

        raise BackendUnavailable(self.name, f"{ON_DEVICE}; {MEASURE_THERE}")


def _tidy(text: str) -> str:
    return " ".join(NO_GPU.sub("", text).split())
