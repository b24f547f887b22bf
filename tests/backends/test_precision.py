"""Precision is forced and read back from the runtimes themselves."""

import numpy as np
import pytest

from fairdeploy.backends.ort import OrtSession
from fairdeploy.devices.facts import read_facts
from fairdeploy.testing import write_network


@pytest.fixture
def network(tmp_path):
    write_network(tmp_path / "model.onnx")
    return str(tmp_path / "model.onnx"), {
        "image": np.random.default_rng(0).normal(size=(4, 3, 16, 16)).astype("float32")
    }


def test_ort_reports_what_ran_and_nothing_before_that(network):
    file, inputs = network
    with OrtSession(file, 1, "fp32") as session:
        with pytest.raises(RuntimeError, match="call infer first"):
            session.realised_precision()
        session.infer(inputs)
        assert session.realised_precision() == {"fp32": 3}


def test_openvino_told_to_use_bf16_is_seen(network, monkeypatch):
    pytest.importorskip("openvino")
    from fairdeploy.backends import ov

    file, inputs = network
    with ov.OpenVinoSession(file, 1, "fp32") as session:
        session.infer(inputs)
        assert session.realised_precision() == {"fp32": 3}
    if "avx512_bf16" not in read_facts()["instructions"]:
        pytest.skip("this CPU has no bf16")
    monkeypatch.setitem(ov.OPTIONS, "INFERENCE_PRECISION_HINT", "bf16")
    with ov.OpenVinoSession(file, 1, "fp32") as session:
        session.infer(inputs)
        assert session.realised_precision().get("bf16", 0) >= 2
