"""PyTorch to ONNX through ``torch.export``."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fairdeploy.devices.child import run_child
from fairdeploy.devices.runner import Refused, check_inputs, preprocess
from fairdeploy.errors import BackendError, DataError, ExportError, MissingExtra
from fairdeploy.export.onnx_file import MAX_IR_VERSION, OPSET, OUTPUT, check_file
from fairdeploy.model import ModelSpec
from fairdeploy.records import Record, file_digest, write_atomic

if TYPE_CHECKING:
    import torch

TOLERANCE = 1e-4


class ExportReport(Record):
    """What was written, and how far it is from PyTorch.

    Attributes
    ----------
    file_digest : str
        SHA-256 of the ONNX file.
    size_bytes, parameters, nodes : int
    max_difference : float
        Largest absolute difference of the network's output against PyTorch eager, over all compared rows, at
        batch 1 and batch n.
    rows : int
        How many rows were compared.
    versions : dict
        Of torch, onnx, onnxscript and onnxslim.
    """

    file_digest: str
    size_bytes: int
    parameters: int
    nodes: int
    max_difference: float
    rows: int
    versions: dict[str, str]


def export_onnx(
    module: torch.nn.Module,
    example_inputs: Mapping[str, Any],
    out: Path,
    *,
    spec: ModelSpec,
    check_inputs: Mapping[str, NDArray[Any]],
) -> ExportReport:
    """Write a network as ONNX (opset 18, IR version <= 10, dynamic batch, one output named ``output``).

    The file is simplified, carries no stack traces or local paths, and is the same, byte for byte, from run to run.

    Parameters
    ----------
    module : torch.nn.Module
        Put into evaluation mode while it is exported; every part gets its mode back.
    example_inputs : mapping of str to tensor or array [n, ...]
        Preprocessed float32 inputs by name, at least two rows.
    out : Path
        The file to write; nothing is written when an error is raised.
    spec : ModelSpec
    check_inputs : mapping of str to array [n, ...]
        Raw real inputs (uint8 or float32, before `ModelSpec.preprocess`) on which ONNX Runtime is compared with
        PyTorch eager.

    Returns
    -------
    ExportReport

    Raises
    ------
    MissingExtra
        If torch, onnxscript or onnxslim is not installed.
    DataError
        If the check inputs do not fit the spec.
    ExportError
        If PyTorch cannot export the network, a promise is broken, or an output differs by more than 1e-4.
    """
    plain = spec.model_dump(mode="json")
    prepared = _prepare(plain, check_inputs)
    try:
        import onnxscript
        import onnxslim
        import torch
    except ImportError:
        raise MissingExtra("exporting a PyTorch network", "torch") from None
    import onnx

    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        model = _to_onnx(module, {name: torch.as_tensor(example_inputs[name]) for name in spec.inputs})
        batches = {"n": prepared, "1": {name: values[:1] for name, values in prepared.items()}}
        eager = {size: _run_eager(module, list(batch.values())) for size, batch in batches.items()}
    finally:
        for part, training in modes.items():
            part.training = training
    with tempfile.TemporaryDirectory(prefix="fairdeploy-export-") as name:
        folder = Path(name)
        file = folder / out.name
        onnx.save(model, file)
        check_file(file, spec)
        difference = float(np.max([_difference(file, batches[size], eager[size], folder) for size in batches]))
        if not difference <= TOLERANCE:
            raise ExportError(
                f"the exported network's outputs differ from PyTorch's by {difference:.3g} (at most {TOLERANCE:g})"
            )
        report = ExportReport(
            file_digest=file_digest(file),
            size_bytes=file.stat().st_size,
            parameters=sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer),
            nodes=len(model.graph.node),
            max_difference=difference,
            rows=len(next(iter(prepared.values()))),
            versions={tool.__name__: tool.__version__ for tool in (torch, onnx, onnxscript, onnxslim)},
        )
        write_atomic(out, file.read_bytes())
    return report


def _prepare(plain: dict[str, Any], raw: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    try:
        check_inputs(plain, raw)
        return preprocess(plain, raw)
    except Refused as refusal:
        raise DataError(f"rows for checking the export: {refusal}") from None


def _to_onnx(module: torch.nn.Module, example: Mapping[str, torch.Tensor]) -> Any:
    """Export and simplify; returns an ``onnx.ModelProto``."""
    import onnx
    import onnxslim
    import torch

    if any(len(tensor) < 2 for tensor in example.values()):
        raise ExportError("give at least two example rows: with one, the batch would be fixed to 1")
    batch = torch.export.Dim("batch", min=1)
    try:
        with warnings.catch_warnings(), _quiet("torch.onnx._internal.exporter._registration"):
            # torch 2.13 calls its own deprecated pytree class.
            warnings.filterwarnings("ignore", message=r".*LeafSpec.*", category=FutureWarning)
            program = torch.onnx.export(
                module,
                tuple(example.values()),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(example),
                output_names=[OUTPUT],
                dynamic_shapes=tuple({0: batch} for _ in example),
                verbose=False,
            )
            assert program is not None
            slim = onnxslim.slim(program.model_proto)
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ExportError(f"PyTorch cannot export the network: {reason[0]}") from error
    assert isinstance(slim, onnx.ModelProto)
    slim.ir_version = min(slim.ir_version, MAX_IR_VERSION)
    return slim


def _run_eager(module: torch.nn.Module, inputs: list[NDArray[np.float32]]) -> NDArray[Any]:
    import torch

    try:
        with torch.no_grad():
            output: NDArray[Any] = module(*map(torch.from_numpy, inputs)).numpy(force=True)
    except Exception as error:
        raise ExportError(f"PyTorch itself cannot run the network on {len(inputs[0])} rows: {error}") from error
    return output


@contextlib.contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """Mute a logger's warnings; this one says at every export that torchvision is not installed."""
    named = logging.getLogger(logger)
    level = named.level
    named.setLevel(logging.ERROR)
    try:
        yield
    finally:
        named.setLevel(level)


def _difference(file: Path, inputs: Mapping[str, NDArray[Any]], eager: NDArray[Any], folder: Path) -> float:
    for index, values in enumerate(inputs.values()):
        np.save(folder / f"{index}.npy", values)
    paths = {name: str(folder / f"{index}.npy") for index, name in enumerate(inputs)}
    output = folder / "output.npy"
    arguments = {"file": str(file), "inputs": paths, "out": str(output)}
    try:
        run_child("fairdeploy.export.onnx_file:infer_here", arguments)
    except BackendError as error:
        raise ExportError(f"ONNX Runtime cannot run the exported network: {error}") from error
    found = np.load(output, allow_pickle=False)
    if found.shape != eager.shape:
        raise ExportError(f"the exported network gives shape {found.shape}, PyTorch {eager.shape}")
    return float(np.max(np.abs(found - eager)))
