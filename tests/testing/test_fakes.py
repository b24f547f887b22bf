"""The fake device: real predictions, scripted facts, latency and memory, and faults that hit whom they are told to."""

import numpy as np
import pytest

from fairdeploy.devices import HostDevice, Job
from fairdeploy.devices.level import level
from fairdeploy.model import Decision
from fairdeploy.target import Measure, load_target
from fairdeploy.testing import Degradation, FakeDevice, write_network

JETSON = load_target("jetson")
N = 200


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    spec = write_network(folder / "model.onnx")
    np.save(folder / "image.npy", np.random.default_rng(0).integers(0, 256, (N, 3, 16, 16), dtype=np.uint8))
    return Job(
        "tensorrt", folder / "model.onnx", "fp32", spec, {"image": folder / "image.npy"}, "predictions", Measure()
    )


def change(job, **fields):
    return Job(**{**vars(job), **fields})


def test_facts_match_the_target_so_the_level_is_device(job):
    device = FakeDevice.for_target(JETSON)
    result = device.run(job)
    assert device.fake
    assert not device.is_host
    assert level(JETSON, result.facts, result.runtime, is_host=device.is_host, simulated=False)[0] == "device"
    assert result.runtime["name"] == "tensorrt"
    assert result.runtime["version"] == JETSON.runtime.version


def test_predictions_are_those_of_onnx_runtime(job):
    real = HostDevice().run(change(job, backend="ort"))
    fake = FakeDevice.for_target(JETSON, peak_memory_mb=321).run(job)
    np.testing.assert_array_equal(fake.probabilities, real.probabilities)
    assert fake.realised_precision == real.realised_precision == {"fp32": 3}
    assert fake.peak_memory_mb == 321


def test_latency_is_scripted_seeded_and_as_long_as_asked(job):
    asked = change(job, what="latency", measure=Measure(runs=400))
    one, again = (FakeDevice.for_target(JETSON, latency_ms=7, seed=3).run(asked).latencies_ms for _ in range(2))
    other = FakeDevice.for_target(JETSON, latency_ms=7, seed=4).run(asked).latencies_ms
    assert one.shape == (400,)
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    assert np.median(one) == pytest.approx(7, rel=0.02)


def test_a_degradation_flips_only_its_rows_at_its_rate(job):
    rows = np.arange(N) % 4 == 0
    clean = FakeDevice.for_target(JETSON).run(job).probabilities
    hurt = FakeDevice.for_target(JETSON, degrade=Degradation(5, rows, 0.5)).run(job).probabilities
    flipped = job.spec.decide(clean) != job.spec.decide(hurt)
    np.testing.assert_array_equal(hurt[~flipped], clean[~flipped])
    assert not flipped[~rows].any()
    assert 0.3 < flipped[rows].mean() < 0.7
    np.testing.assert_allclose(hurt.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("threshold", [0.05, 0.5, 0.95])
def test_a_flip_changes_the_decision_at_any_threshold(job, threshold):
    spec = job.spec.model_copy(update={"decision": Decision(threshold=threshold)})
    p = np.linspace(0, 1, 50, dtype=np.float32)
    probabilities = np.stack([1 - p, p], axis=1)
    hurt = Degradation(0, np.ones(50, bool), 1.0).apply(spec, probabilities)
    assert (spec.decide(hurt) != spec.decide(probabilities)).all()


def test_a_degradation_for_other_rows_is_refused(job):
    with pytest.raises(ValueError, match="3 rows, the job has 200"):
        FakeDevice.for_target(JETSON, degrade=Degradation(0, np.ones(3, bool), 1.0)).run(job)


def test_the_key_holds_the_whole_script():
    rows = np.ones(4, bool)
    devices = [
        FakeDevice.for_target(JETSON),
        FakeDevice.for_target(JETSON, latency_ms=6),
        FakeDevice.for_target(JETSON, peak_memory_mb=1),
        FakeDevice.for_target(JETSON, seed=1),
        FakeDevice.for_target(load_target("x86-openvino")),
        FakeDevice.for_target(JETSON, degrade=Degradation(0, rows, 0.1)),
        FakeDevice.for_target(JETSON, degrade=Degradation(1, rows, 0.1)),
        FakeDevice.for_target(JETSON, degrade=Degradation(0, rows, 0.2)),
        FakeDevice.for_target(JETSON, degrade=Degradation(0, ~rows, 0.1)),
    ]
    assert len({str(device.key()) for device in devices}) == len(devices)
    assert FakeDevice.for_target(JETSON).key() == devices[0].key()
