"""Measured latencies of single layers on this host, kept in the store, so that no shape is measured twice.

A layer alone would be timed with the runtime's own start, and with the layout changes that a network has at its
ends only. So it is timed as a difference: several such layers beside each other on one input against one of them.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from fairdeploy.compaction import Masks, channel_groups, compact
from fairdeploy.devices import together
from fairdeploy.devices.together import Timed, circumstances, time_together
from fairdeploy.errors import BackendError
from fairdeploy.pruning.latency import Layers, LayerShape, NetworkLatency
from fairdeploy.records import file_digest
from fairdeploy.store import NotKept, Store

ROUNDS = 31
# A whole network is more likely to be interrupted than a layer.
NETWORK_ROUNDS = 4 * ROUNDS
BATCH_SHAPES = 48
MOST_COPIES = 8
# Copies are added until their work is this much, so that a difference stands out of the clock's noise.
ENOUGH_MACS = 4_000_000
IR_VERSION, OPSET = 10, 18
# Timed in every batch: how fast it runs says how fast the machine runs just now.
PACEMAKER = LayerShape("convolution", 64, 64, (28, 28), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1))


class LatencyTable:
    """Latencies of layers and networks in milliseconds: one thread, fp32, one row, this host left alone.

    Parameters
    ----------
    backend : str
    store : Store
        Where they are kept, by backend, its version, the machine and the way of measuring.
    """

    def __init__(self, backend: str, store: Store) -> None:
        self.backend = backend
        # Hundreds of shapes are no stations to tell people about.
        self._store = replace(store, on_start=lambda label: None, on_done=lambda kept: None, log=[])
        self._known: dict[LayerShape, float] = {}
        method = [sha256(Path(file).read_bytes()).hexdigest() for file in (__file__, together.__file__)]
        self._facts = {**circumstances(backend), "method": method}

    def __call__(self, shapes: Collection[LayerShape]) -> dict[LayerShape, float]:
        """Return the latency of each shape, measuring those that were never measured here.

        Raises
        ------
        BackendUnavailable
            If the backend cannot run on this machine.
        BackendError
            If it refused a layer, crashed or did not end in time.
        """
        missing = []
        for shape in sorted(set(shapes) - self._known.keys()):
            try:
                self._known[shape] = self._keep(shape, None)
            except NotKept:
                missing.append(shape)
        for start in range(0, len(missing), BATCH_SHAPES):
            some = missing[start : start + BATCH_SHAPES]
            for shape, latency_ms in zip(some, self._measure(some), strict=True):
                self._known[shape] = self._keep(shape, latency_ms)
        return {shape: self._known[shape] for shape in shapes}

    def rest_ms(self, network: Timed, layers: Sequence[LayerShape]) -> float:
        """Return what a network (an ONNX file) takes as a whole, less its layers, all timed in turns."""

        def produce(out: Path) -> None:
            times = self._measure(tuple(sorted(set(layers))), network, rounds=NETWORK_ROUNDS)
            by_shape = dict(zip(sorted(set(layers)), times[1:], strict=True))
            rest_ms = times[0] - sum(by_shape[shape] for shape in layers)
            (out / "latency_ms.json").write_text(json.dumps(rest_ms))

        parts = {"model": file_digest(network.file), "layers": [asdict(shape) for shape in layers]}
        return _read(self._store.run("rest-latency", produce, of=self.backend, **parts, **self._facts).folder)

    def whole_ms(self, networks: Sequence[Timed]) -> list[float]:
        """Return the latency of networks (ONNX files), timed in turns; not kept."""
        times_ms = time_together(self.backend, networks, rounds=NETWORK_ROUNDS)
        return [float(ms) for ms in np.median(times_ms, axis=0)]

    def _keep(self, shape: LayerShape, latency_ms: float | None) -> float:
        """Write a latency into the store, or read it there (`NotKept` where it is not)."""
        store = replace(self._store, dry=latency_ms is None)

        def produce(out: Path) -> None:
            (out / "latency_ms.json").write_text(json.dumps(latency_ms))

        return _read(store.run("layer-latency", produce, of=self.backend, shape=asdict(shape), **self._facts).folder)

    def _measure(self, shapes: Sequence[LayerShape], *networks: Timed, rounds: int = ROUNDS) -> list[float]:
        """Time networks and layers in turns; everything is scaled to the pace at which `PACEMAKER` was first timed."""
        all_shapes = (PACEMAKER, *shapes)
        copies = [1 + min(MOST_COPIES, max(1, math.ceil(ENOUGH_MACS / shape.macs))) for shape in all_shapes]
        with tempfile.TemporaryDirectory(prefix="fairdeploy-layers-") as name:
            timed = list(networks)
            for index, (shape, count) in enumerate(zip(all_shapes, copies, strict=True)):
                for beside in (1, count):
                    file = Path(name) / f"{index}-{beside}.onnx"
                    timed.append(Timed(file, {"x": write_layer(file, shape, beside)}))
            times_ms = time_together(self.backend, timed, rounds=rounds)
        # Other processes only ever add to a latency: the least is what is left without them.
        quiet_ms = times_ms.min(axis=0)
        wholes, parts = quiet_ms[: len(networks)], quiet_ms[len(networks) :]
        pace_ms, *layers_ms = np.maximum(0.0, (parts[1::2] - parts[0::2]) / (np.array(copies) - 1))
        if not pace_ms > 0:
            raise BackendError(f"this machine is too busy to time layers with {self.backend}: leave it alone a while")
        return [float(latency_ms * self._pace_ms(pace_ms) / pace_ms) for latency_ms in (*wholes, *layers_ms)]

    def _pace_ms(self, now_ms: float) -> float:
        if PACEMAKER not in self._known:
            try:
                self._known[PACEMAKER] = self._keep(PACEMAKER, None)
            except NotKept:
                self._known[PACEMAKER] = self._keep(PACEMAKER, float(now_ms))
        return self._known[PACEMAKER]


def network_latency(
    table: LatencyTable, model: nn.Module, example_inputs: tuple[Tensor, ...], dense: Timed
) -> NetworkLatency:
    """Return what predicts a network's latency under masks.

    Parameters
    ----------
    table : LatencyTable
    model : Module
    example_inputs : tuple of Tensor
    dense : Timed
        The same network as an ONNX file, and its inputs for one row.
    """
    layers = Layers(model, example_inputs, channel_groups(model, example_inputs))
    return NetworkLatency(layers, table, table.rest_ms(dense, layers.shapes({})))


def time_whole(
    table: LatencyTable,
    model: nn.Module,
    example_inputs: tuple[Tensor, ...],
    export: Callable[[nn.Module, Path], object],
    inputs: Mapping[str, tuple[int, ...]],
) -> Callable[[Sequence[Masks]], list[float]]:
    """Return what measures a network under masks as a whole: compacted, exported and run.

    Parameters
    ----------
    table : LatencyTable
    model : Module
    example_inputs : tuple of Tensor
    export : callable
        Writes a network as an ONNX file.
    inputs : mapping of str to tuple of int
        Shapes of its inputs by name, for one row.
    """

    def latencies_ms(several: Sequence[Masks]) -> list[float]:
        with tempfile.TemporaryDirectory(prefix="fairdeploy-networks-") as name:
            files = [Path(name) / f"{index}.onnx" for index in range(len(several))]
            for masks, file in zip(several, files, strict=True):
                export(compact(model, example_inputs, masks).module, file)
            return table.whole_ms([Timed(file, inputs) for file in files])

    return latencies_ms


def write_layer(file: Path, shape: LayerShape, copies: int) -> tuple[int, ...]:
    """Write an ONNX network of `copies` layers of one shape beside each other; return the shape of its input ``x``.

    Each has weights of its own and is reduced to a vector, so that nothing is shared and nothing is left out.
    """
    random = np.random.default_rng(0)
    weights: dict[str, NDArray[Any]] = {}
    nodes = []

    def weight(name: str, *dims: int) -> str:
        scale = 1 / math.sqrt(math.prod(dims[1:]) or 1)
        weights[name] = random.standard_normal(dims, np.float32) * np.float32(scale)
        return name

    def node(operation: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operation, inputs, [output], **attributes))
        return output

    row = _row(shape)
    ends = []
    for copy in range(copies):
        name = f"{copy}"
        if shape.kind == "convolution":
            kernel = weight("w" + name, shape.outputs, shape.inputs // shape.groups, *shape.kernel)
            y = node(
                "Conv", ["x", kernel, weight("b" + name, shape.outputs)], "y" + name, group=shape.groups,
                kernel_shape=shape.kernel, strides=shape.stride, pads=shape.padding, dilations=shape.dilation,
            )  # fmt: skip
            ends.append(node("GlobalAveragePool", [y], "z" + name))
            continue
        if shape.kind == "linear":
            product = node("MatMul", ["x", weight("w" + name, shape.inputs, shape.outputs)], "m" + name)
            y = node("Add", [product, weight("b" + name, shape.outputs)], "y" + name)
        else:
            heads, width, keys = shape.inputs, shape.outputs, shape.size[1]
            scores = node("MatMul", ["x", weight("k" + name, 1, heads, width, keys)], "s" + name)
            y = node("MatMul", [node("Softmax", [scores], "p" + name), weight("v" + name, 1, heads, keys, width)],
                     "y" + name)  # fmt: skip
        weights["axes"] = np.array([len(row) - 1])
        ends.append(node("ReduceMax", [y, "axes"], "z" + name))
    node("Sum", ends, "output")
    graph = helper.make_graph(
        nodes,
        "layers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *row])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.save(model, file)
    return (1, *row)


def _row(shape: LayerShape) -> tuple[int, ...]:
    if shape.kind == "convolution":
        return (shape.inputs, *shape.size)
    if shape.kind == "linear":
        return (*shape.size, shape.inputs)
    return (shape.inputs, shape.size[0], shape.outputs)


def _read(folder: Path) -> float:
    return float(json.loads((folder / "latency_ms.json").read_text()))
