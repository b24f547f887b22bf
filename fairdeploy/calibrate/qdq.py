"""INT8 QDQ graphs through ONNX Runtime's static quantiser, in the dialect that a backend asks for."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairdeploy.backends import Dialect
from fairdeploy.devices.child import run_child
from fairdeploy.devices.runner import Refused, check_inputs, preprocess
from fairdeploy.errors import BackendError, DataError
from fairdeploy.model import ModelSpec
from fairdeploy.records import write_atomic

BATCH_ROWS = 32


def quantize(
    portable: Path,
    inputs: Mapping[str, NDArray[Any]],
    *,
    spec: ModelSpec,
    dialect: Dialect,
    out: Path,
    timeout_s: float = 1200,
) -> None:
    """Write the INT8 QDQ graph of an fp32 ONNX file; the quantiser works in a child process.

    Ranges are the smallest and largest value that each tensor takes on the inputs. Opset and IR version stay, and
    the same inputs give the same bytes.

    Parameters
    ----------
    portable : Path
        fp32 ONNX file.
    inputs : mapping of str to array [n, ...]
        Raw calibration rows, before `ModelSpec.preprocess`.
    spec : ModelSpec
    dialect : Dialect
        As the backend declares it.
    out : Path
        The ONNX file to write.
    timeout_s : float

    Raises
    ------
    DataError
        If the inputs do not fit the spec or are not finite.
    BackendError
        If the quantiser refused, crashed or hung; with its last words.
    """
    plain = spec.model_dump(mode="json")
    try:
        check_inputs(plain, inputs)
        prepared = preprocess(plain, inputs)
    except Refused as refusal:
        raise DataError(f"calibration rows: {refusal}") from None
    with tempfile.TemporaryDirectory(prefix="fairdeploy-calibrate-") as name:
        folder = Path(name)
        for index, values in enumerate(prepared.values()):
            np.save(folder / f"{index}.npy", values)
        arguments = {
            "portable": str(portable),
            "inputs": {tensor: str(folder / f"{index}.npy") for index, tensor in enumerate(prepared)},
            "dialect": dataclasses.asdict(dialect),
            "out": str(folder / "quantised.onnx"),
        }
        run_child("fairdeploy.calibrate.qdq:quantize_here", arguments, timeout_s=timeout_s)
        write_atomic(out, (folder / "quantised.onnx").read_bytes())


class _Reader:
    """Feeds preprocessed rows in batches, as ONNX Runtime's `CalibrationDataReader`."""

    def __init__(self, inputs: Mapping[str, NDArray[np.float32]]) -> None:
        self._batches = self._slices(inputs)

    @staticmethod
    def _slices(inputs: Mapping[str, NDArray[np.float32]]) -> Iterator[dict[str, NDArray[np.float32]]]:
        for start in range(0, len(next(iter(inputs.values()))), BATCH_ROWS):
            yield {name: values[start : start + BATCH_ROWS] for name, values in inputs.items()}

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._batches, None)


def quantize_here(portable: str, inputs: Mapping[str, str], dialect: Mapping[str, Any], out: str) -> None:
    """Quantise in this process; `quantize` calls it in a child.

    Parameters
    ----------
    portable, out : str
        ONNX files.
    inputs : mapping of str to str
        Preprocessed rows by name, each an ``.npy`` file [n, ...].
    dialect : mapping
        The fields of `Dialect`.

    Raises
    ------
    BackendError
        If the graph has nothing to quantise, or opset or IR version changed.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    symmetric = dialect["activations"] == "s8-symmetric"
    arrays = {name: np.load(path, mmap_mode="r", allow_pickle=False) for name, path in inputs.items()}
    before = onnx.load(portable)
    quantize_static(
        before,
        out,
        _Reader(arrays),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=dialect["weights"] == "s8-per-channel",
        reduce_range=dialect["reduce_range"],
        extra_options={
            "ActivationSymmetric": symmetric,
            "WeightSymmetric": True,
            "QuantizeBias": dialect["quantize_bias"],
            "DedicatedQDQPair": dialect["pair_qdq"],
        },
    )
    before, after = onnx.load(portable), onnx.load(out)
    if not any(node.op_type == "QuantizeLinear" for node in after.graph.node):
        raise BackendError(f"{Path(portable).name} has no layer that the quantiser knows")
    kept = {entry.domain: entry.version for entry in after.opset_import}.get("")
    asked = {entry.domain: entry.version for entry in before.opset_import}.get("")
    if (kept, after.ir_version) != (asked, before.ir_version):
        raise BackendError(
            f"the quantiser changed opset {asked} to {kept} and IR version {before.ir_version} to {after.ir_version}"
        )
