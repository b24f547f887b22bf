"""QDQ graphs: each dialect's promises read back from the file, ranges recomputed, bytes that repeat."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from fairdeploy import backends
from fairdeploy.backends import Dialect
from fairdeploy.calibrate import quantize
from fairdeploy.devices.runner import preprocess
from fairdeploy.errors import BackendError, DataError
from fairdeploy.testing import write_network

PLAIN = Dialect("u8-asymmetric", "s8-per-channel", quantize_bias=True, pair_qdq=False)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    file = tmp_path_factory.mktemp("network") / "portable.onnx"
    spec = write_network(file)
    return file, spec, np.random.default_rng(0).integers(0, 256, (50, 3, 16, 16), dtype=np.uint8)


def make(network, out, dialect):
    file, spec, raw = network
    quantize(file, {"image": raw}, spec=spec, dialect=dialect, out=out)
    return onnx.load(out)


def constants(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_s8_symmetric_has_zero_points_of_zero_a_float_bias_and_a_pair_per_consumer(network, tmp_path):
    model = make(network, tmp_path / "q.onnx", backends.load("tensorrt").dialect)
    values = constants(model)
    quantizers = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    for node in quantizers:
        zero_point = values[node.input[2]]
        assert zero_point.dtype == np.int8
        assert not zero_point.any()
    assert not [array for array in values.values() if array.dtype == np.int32]
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            assert sum(node.output[0] in other.input for other in model.graph.node) <= 1
        if node.op_type in ("Conv", "Gemm"):
            assert node.input[2] in values
            assert values[node.input[2]].dtype == np.float32


@pytest.mark.parametrize(("pair_qdq", "pairs"), [(True, 2), (False, 1)])
def test_a_tensor_with_two_consumers_has_a_pair_each_or_shares_one(network, tmp_path, pair_qdq, pairs):
    file, spec, raw = network
    model = onnx.load(file)
    model.graph.node[4].input[0] = "sum"
    second = helper.make_node("Conv", ["relu1", "w2", "b2"], ["conv3"], pads=[1] * 4)
    model.graph.node.insert(4, helper.make_node("Add", ["relu2", "conv3"], ["sum"]))
    model.graph.node.insert(4, second)
    onnx.save(model, tmp_path / "two.onnx")
    dialect = replace(backends.load("tensorrt").dialect, pair_qdq=pair_qdq)
    quantize(tmp_path / "two.onnx", {"image": raw}, spec=spec, dialect=dialect, out=tmp_path / "q.onnx")
    nodes = onnx.load(tmp_path / "q.onnx").graph.node
    made_from_relu1 = [n for n in nodes if n.op_type == "DequantizeLinear" and n.output[0].startswith("relu1")]
    assert len(made_from_relu1) == pairs


def test_u8_asymmetric_with_quantised_bias(network, tmp_path):
    values = constants(make(network, tmp_path / "q.onnx", PLAIN))
    assert [array for array in values.values() if array.dtype == np.uint8]
    assert [array for array in values.values() if array.dtype == np.int32 and array.ndim == 1 and len(array) == 16]


def test_weights_have_a_scale_per_channel_or_one(network, tmp_path):
    per_channel = constants(make(network, tmp_path / "a.onnx", PLAIN))
    per_tensor = constants(make(network, tmp_path / "b.onnx", replace(PLAIN, weights="s8-per-tensor")))
    assert per_channel["w1_scale"].shape == (16,)
    assert per_tensor["w1_scale"].shape == ()


@pytest.mark.parametrize(("reduce_range", "largest"), [(False, 127), (True, 64)])
def test_reduced_range_keeps_weights_within_seven_bits(network, tmp_path, reduce_range, largest):
    values = constants(make(network, tmp_path / "q.onnx", replace(PLAIN, reduce_range=reduce_range)))
    assert np.abs(values["w1_quantized"].astype(int)).max() == largest


def test_the_range_of_the_input_is_that_of_the_preprocessed_rows(network, tmp_path):
    _, spec, raw = network
    values = constants(make(network, tmp_path / "q.onnx", PLAIN))
    fed = preprocess(spec.model_dump(mode="json"), {"image": raw})["image"]
    np.testing.assert_allclose(values["image_scale"], (fed.max() - fed.min()) / 255, rtol=1e-5)


def test_opset_and_ir_stay_and_bytes_repeat(network, tmp_path):
    for name in ("a", "b"):
        model = make(network, tmp_path / f"{name}.onnx", backends.load("ort").dialect)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 18)]
    assert model.ir_version == 10
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]


def test_other_rows_give_other_ranges(network, tmp_path):
    file, spec, raw = network
    quantize(file, {"image": raw // 4}, spec=spec, dialect=PLAIN, out=tmp_path / "dark.onnx")
    make(network, tmp_path / "bright.onnx", PLAIN)
    dark, bright = (constants(onnx.load(tmp_path / f"{name}.onnx")) for name in ("dark", "bright"))
    assert dark["image_scale"] < bright["image_scale"] / 2


def test_the_portable_is_not_touched(network, tmp_path):
    before = network[0].read_bytes()
    make(network, tmp_path / "q.onnx", PLAIN)
    assert network[0].read_bytes() == before
    ReferenceEvaluator(onnx.load(network[0]))


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (np.zeros((5, 3, 8, 8), np.uint8), "shape"),
        (np.full((5, 3, 16, 16), np.nan, np.float32), "row 0"),
        (np.zeros((0, 3, 16, 16), np.uint8), "rows"),
    ],
)
def test_bad_rows_are_a_data_error_and_write_nothing(network, tmp_path, raw, said):
    file, spec, _ = network
    with pytest.raises(DataError, match=f"calibration rows: .*{said}"):
        quantize(file, {"image": raw}, spec=spec, dialect=PLAIN, out=tmp_path / "q.onnx")
    assert not list(tmp_path.iterdir())


def test_a_broken_file_is_a_backend_error(network, tmp_path):
    file, spec, raw = network
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(file.read_bytes()[:700])
    with pytest.raises(BackendError):
        quantize(broken, {"image": raw}, spec=spec, dialect=PLAIN, out=tmp_path / "q.onnx")
    assert not (tmp_path / "q.onnx").exists()


def test_a_graph_without_weights_is_refused(network, tmp_path):
    _, spec, raw = network
    shape = ["batch", 3, 16, 16]
    graph = helper.make_graph(
        [helper.make_node("Erf", ["image"], ["output"])], "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "erf.onnx")
    with pytest.raises(BackendError, match="no layer that the quantiser knows"):
        quantize(tmp_path / "erf.onnx", {"image": raw}, spec=spec, dialect=PLAIN, out=tmp_path / "q.onnx")
