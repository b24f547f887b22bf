"""Preprocessing and probabilities against PyTorch's and scipy's arithmetic; what they refuse."""

import ast
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import expit, softmax

import fairdeploy.devices
from fairdeploy.devices.runner import Refused, check_inputs, preprocess, probabilities, write_result
from fairdeploy.model import ModelSpec, Preprocess, TensorSpec

SHIPPED = [Path(fairdeploy.devices.__file__).parent / name for name in ("runner.py", "facts.py")]


def spec(**changes):
    fields = {
        "task": "binary-classification",
        "inputs": {"image": TensorSpec(shape=("batch", 3, 4, 4))},
        "preprocess": Preprocess(mean=(10, 20, 30), std=(2, 4, 8)),
        **changes,
    }
    return ModelSpec(**fields).model_dump(mode="json")


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_shipped_files_are_python_3_8_and_need_only_numpy(file):
    tree = ast.parse(file.read_text("utf-8"), feature_version=(3, 8))
    modules = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    modules |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    vendored = {module for module in modules if module.split(".")[0] in ("torch", "onnx", "onnxruntime", "pydantic")}
    assert not vendored
    assert {module for module in modules if module.startswith("fairdeploy")} <= {"fairdeploy.devices.facts"}


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_preprocessing_is_per_channel(dtype):
    raw = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 4)).astype(dtype)
    found = preprocess(spec(), {"image": raw})["image"]
    for channel, (mean, std) in enumerate([(10, 2), (20, 4), (30, 8)]):
        expected = (raw[:, channel].astype(float) - mean) / std
        np.testing.assert_allclose(found[:, channel], expected, rtol=1e-6)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous


def test_bgr_swaps_before_the_mean():
    raw = np.zeros((1, 3, 4, 4), np.uint8)
    raw[:, 0] = 110
    found = preprocess(spec(preprocess=Preprocess(color="bgr", mean=(0, 0, 10), std=(1, 1, 2))), {"image": raw})[
        "image"
    ]
    assert found[0, :, 0, 0].tolist() == [0, 0, 50]


def test_no_recipe_means_only_float32():
    raw = np.arange(48, dtype=np.uint8).reshape(1, 3, 4, 4)
    np.testing.assert_array_equal(preprocess(spec(preprocess=Preprocess()), {"image": raw})["image"], raw)


def test_nan_inputs_name_their_row():
    raw = np.zeros((4, 3, 4, 4), np.float32)
    raw[2, 1, 1, 1] = np.inf
    with pytest.raises(Refused, match="'image' has NaN or infinity in row 102"):
        preprocess(spec(), {"image": raw}, 100)


finite = st.floats(-1e4, 1e4, width=32)


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.just(4)), elements=finite))
def test_logits_go_through_softmax(logits):
    plain = spec(task="multiclass-classification", classes=("a", "b", "c", "d"))
    found = probabilities(plain, logits)
    np.testing.assert_allclose(found, softmax(logits.astype(float), axis=1), atol=1e-6)
    assert found.dtype == np.float32


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.just(1)), elements=finite))
def test_one_logit_goes_through_the_sigmoid(logits):
    found = probabilities(spec(), logits)
    np.testing.assert_allclose(found, np.hstack([expit(-logits.astype(float)), expit(logits.astype(float))]), atol=1e-6)


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ([[0.2, 0.9]], "row 7"),
        ([[0.5, 0.5], [-0.1, 1.1]], "row 8"),
        ([[0.5, 0.5], [np.nan, 0.5]], "NaN or infinity in row 8"),
        ([[0.2, 0.3, 0.5]], "shape"),
        ([0.2, 0.8], "shape"),
    ],
)
def test_what_is_no_probability_is_refused(output, said):
    with pytest.raises(Refused, match=said):
        probabilities(spec(output="probabilities"), np.array(output, np.float32), 7)


def test_given_probabilities_stay():
    given_ones = np.array([[0.25, 0.75], [1, 0]], np.float32)
    np.testing.assert_array_equal(probabilities(spec(output="probabilities"), given_ones), given_ones)
    np.testing.assert_array_equal(probabilities(spec(output="probabilities"), given_ones[:, 1:]), given_ones)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"image": np.zeros((2, 3, 4, 5), np.uint8)}, r"shape \(2, 3, 4, 5\)"),
        ({"image": np.zeros((2, 3, 4, 4), np.int64)}, "int64"),
        ({"picture": np.zeros((2, 3, 4, 4), np.uint8)}, "picture"),
        ({}, "image"),
        ({"image": np.zeros((0, 3, 4, 4), np.uint8)}, "rows"),
        ({"image": np.zeros((), np.uint8)}, "shape"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(arrays, said):
    with pytest.raises(Refused, match=said):
        check_inputs(spec(), arrays)


def test_inputs_with_different_row_counts_are_refused():
    two = spec(inputs={name: TensorSpec(shape=("batch", 3)) for name in "ab"}, preprocess=Preprocess())
    with pytest.raises(Refused, match=r"\[2, 3\] rows"):
        check_inputs(two, {"a": np.zeros((2, 3), np.uint8), "b": np.zeros((3, 3), np.uint8)})


def test_the_result_is_strict_json_written_whole(tmp_path):
    write_result(tmp_path, {"status": "done"})
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]
