"""A small convolutional network as an ONNX file, made without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fairdeploy.model import ModelSpec, Preprocess, TensorSpec


def write_network(file: Path, *, classes: int = 2, logits: int | None = None, seed: int = 0) -> ModelSpec:
    """Write a network of two convolutions and a linear layer for 3x16x16 images, and return its spec.

    Parameters
    ----------
    file : Path
        Where the ONNX file goes (opset 18, IR version 10).
    classes : int
    logits : int, optional
        Width of the output, when it is not `classes`: 1 for a single logit.
    seed : int
        Of the weights.

    Returns
    -------
    ModelSpec
        With the input ``image`` [batch, 3, 16, 16], preprocessed by (x - 115) / 64.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(seed)

    def weights(*shape: int) -> NDArray[np.float32]:
        scale = (2 / np.prod(shape[1:])) ** 0.5
        return random.normal(0, scale, shape).astype(np.float32)

    width = logits or classes
    shapes = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (32, 16, 3, 3), "b2": (32,), "w3": (width, 32), "b3": (width,)}
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["conv1"], strides=[2, 2], pads=[1] * 4),
        helper.make_node("Relu", ["conv1"], ["relu1"]),
        helper.make_node("Conv", ["relu1", "w2", "b2"], ["conv2"], pads=[1] * 4),
        helper.make_node("Relu", ["conv2"], ["relu2"]),
        helper.make_node("GlobalAveragePool", ["relu2"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w3", "b3"], ["output"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", width])],
        [numpy_helper.from_array(weights(*shape), name) for name, shape in shapes.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), file)
    return ModelSpec(
        task="binary-classification" if classes == 2 else "multiclass-classification",
        inputs={"image": TensorSpec(shape=("batch", 3, 16, 16))},
        preprocess=Preprocess(mean=(115,) * 3, std=(64,) * 3),
        classes=("negative", "positive") if classes == 2 else tuple(f"class {index}" for index in range(classes)),
    )
