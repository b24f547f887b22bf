"""A backend without a vendor library: ONNX's reference evaluator, which is numpy."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from fairdeploy.backends.base import Capability, Dialect


class FakeSession:
    """An ONNX file in the reference evaluator."""

    def __init__(self, artifact: str, threads: int, precision: str) -> None:
        import onnx
        from onnx.reference import ReferenceEvaluator

        self._model = onnx.load(artifact)
        onnx.checker.check_model(self._model, full_check=True)
        self._evaluator = ReferenceEvaluator(self._model)
        self._shapes = {
            value.name: [size.dim_value for size in value.type.tensor_type.shape.dim]
            for value in self._model.graph.input
        }

    def __enter__(self) -> FakeSession:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def infer(self, inputs: Mapping[str, Any]) -> Any:
        """Return the first output for named inputs [n, ...]."""
        for name, shape in self._shapes.items():
            if list(inputs[name].shape[1:]) != shape[1:]:
                raise ValueError(f"input '{name}' has shape {inputs[name].shape}, the model has {shape}")
        if set(inputs) != set(self._shapes):
            raise ValueError(f"inputs are named {sorted(inputs)}, the model has {sorted(self._shapes)}")
        outputs: Any = self._evaluator.run(None, dict(inputs))
        return np.asarray(outputs[0])

    def realised_precision(self) -> dict[str, int]:
        """Count the layers with weights; the evaluator computes all of them in fp32."""
        layers = [node for node in self._model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
        return {"fp32": len(layers)}

    def runtime(self) -> dict[str, str]:
        """Name the evaluator and its version."""
        import onnx

        return {"name": "onnx.reference", "version": onnx.__version__}

    def close(self) -> None:
        """Release nothing; calling it twice is harmless."""


class FakeBackend:
    """Register it with `fairdeploy.testing.registered` to use it by name."""

    name = "fake"
    extra = None
    artifact_name = "model.onnx"
    simulator = None
    session = FakeSession

    @property
    def dialect(self) -> Dialect:
        """The plainest one."""
        from fairdeploy.backends.base import Dialect

        return Dialect("s8-symmetric", "s8-per-tensor", quantize_bias=False, pair_qdq=True)

    def capability(self) -> Capability:
        """Say which version of onnx is installed."""
        from fairdeploy.backends.base import installed_capability

        return installed_capability("onnx", ("compile", "run", "lint"), mend="pip install onnx", precisions=("fp32",))

    def lint(self, portable: Path) -> list[str]:
        """Return what ONNX's checker says of the file."""
        try:
            FakeSession(str(portable), 1, "fp32")
        except Exception as error:
            return [str(error)]
        return []

    def compile(self, portable: Path, precision: str, out: Path) -> None:
        """Copy the ONNX file, after it was checked."""
        from fairdeploy.errors import BackendError

        refused = self.lint(portable)
        if refused:
            raise BackendError(f"fake refused {portable.name}: {refused[0]}")
        out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(portable, out / self.artifact_name)
