"""What a portable ONNX file promises, checked in the file itself."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fairdeploy.errors import ConfigError, ExportError
from fairdeploy.model import ModelSpec

if TYPE_CHECKING:
    import onnx

OPSET = 18
MAX_IR_VERSION = 10
OUTPUT = "output"
# A Python source path, or a path below this user's home: neither belongs into a file that is given away.
LOCAL_PATH = re.compile(rb"[\w./\\-]+\.py\b|File \"")


def check_single_file(file: Path) -> None:
    """Refuse an ONNX file that keeps weights in files beside it: its digest and size would not speak for them.

    Raises
    ------
    ConfigError
        Naming the first such file. What is no ONNX file at all is left to the runtime to refuse.
    """
    import onnx

    if file.suffix != ".onnx":
        return
    try:
        model = onnx.load(file, load_external_data=False)
    except Exception:  # protobuf's own error, which has no typed home
        return
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            place = {entry.key: entry.value for entry in tensor.external_data}.get("location", "another file")
            raise ConfigError(
                f"keeps the weights '{tensor.name}' in '{place}', which its digest does not cover: write one file, "
                "with onnx.save(onnx.load(old), new)",
                file=file,
            )


def check_file(file: Path, spec: ModelSpec) -> None:
    """Check a portable's promises: opset 18, IR version at most 10, named inputs, dynamic batch, no local paths.

    Parameters
    ----------
    file : Path
        ONNX file.
    spec : ModelSpec
        Names and shapes of the inputs, number of classes.

    Raises
    ------
    ExportError
        Naming the promise that is broken.
    """
    import onnx

    model = onnx.load(file)
    opset = {entry.domain: entry.version for entry in model.opset_import}
    if set(opset) != {""} or opset[""] != OPSET:
        raise ExportError(f"{file.name} uses operator sets {opset}; {OPSET} of ONNX alone was asked for")
    if model.ir_version > MAX_IR_VERSION:
        raise ExportError(f"{file.name} has IR version {model.ir_version}; older runtimes read {MAX_IR_VERSION}")
    inputs = {value.name: _shape(value) for value in model.graph.input}
    outputs = {value.name: _shape(value) for value in model.graph.output}
    expected = {name: ("batch", *tensor.row_shape) for name, tensor in spec.inputs.items()}
    if inputs != expected:
        raise ExportError(f"{file.name} has inputs {inputs}; the model spec says {expected}")
    widths = (1, 2) if len(spec.classes) == 2 else (len(spec.classes),)
    if outputs not in [{OUTPUT: ("batch", width)} for width in widths]:
        raise ExportError(f"{file.name} has outputs {outputs}; expected '{OUTPUT}' of shape ('batch', {widths[-1]})")
    leak = _local_path(model)
    if leak:
        raise ExportError(f"{file.name} carries a local path or stack trace: {leak}")


def _shape(value: onnx.ValueInfoProto) -> tuple[str | int, ...]:
    return tuple(size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim)


def _local_path(model: onnx.ModelProto) -> str | None:
    import onnx

    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for tensor in bare.graph.initializer:
        tensor.ClearField("raw_data")
    content = bare.SerializeToString()
    found = LOCAL_PATH.search(content)
    if found:
        return found.group().decode("utf-8", "replace")
    home = os.path.expanduser("~")
    return home if len(home) > 1 and home.encode() in content else None


def infer_here(file: str, inputs: dict[str, str], out: str) -> None:
    """Run an ONNX file in ONNX Runtime in this process; `export_onnx` calls it in a child.

    Parameters
    ----------
    file : str
    inputs : dict of str to str
        Preprocessed inputs by name, each an ``.npy`` file [n, ...].
    out : str
        Where the first output [n, classes] goes, as ``.npy``.
    """
    from fairdeploy.backends.ort import OrtSession

    with OrtSession(file, 1, "fp32") as session:
        np.save(out, session.infer({name: np.load(path, allow_pickle=False) for name, path in inputs.items()}))
