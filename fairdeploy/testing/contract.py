"""What every backend must do, as a pytest class: subclass it and supply one fixture.

::

    class TestMine(BackendContract):
        @pytest.fixture
        def backend(self):
            return MyBackend()
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from fairdeploy import backends
from fairdeploy.backends import Backend, check_precision
from fairdeploy.calibrate import quantize
from fairdeploy.devices import HostDevice, Job, Result
from fairdeploy.devices.child import run_child
from fairdeploy.devices.package import session_name
from fairdeploy.devices.runner import preprocess, probabilities
from fairdeploy.devices.toolchain import compile_artifact, lint
from fairdeploy.errors import BackendError
from fairdeploy.target import Measure
from fairdeploy.testing.networks import write_network
from fairdeploy.testing.plugins import registered

ROWS = 70  # more than the runner feeds at once
QUICK = Measure(warmup_ms=10, runs=25)


@dataclass(frozen=True)
class Bench:
    """A small network, its inputs, and the truth: ONNX's reference evaluator on the same inputs."""

    backend: Backend
    folder: Path
    portable: Path
    raw: NDArray[np.uint8]
    truth: NDArray[np.float32]
    job: Job

    def run(self, **changes: Any) -> Result:
        """Run the job with changes on this host."""
        return HostDevice(timeout_s=60).run(replace(self.job, **changes))

    def inputs(self, **arrays: NDArray[Any]) -> dict[str, Path]:
        """Write raw inputs of a job by name."""
        paths = {}
        for name, values in arrays.items():
            paths[name] = self.folder / f"raw-{name}.npy"
            np.save(paths[name], values)
        return paths


class BackendContract:
    """Tests of a backend through the runner, in child processes.

    Attributes
    ----------
    tolerance, int8_tolerance : float
        Largest absolute difference of a probability from the fp32 truth.
    """

    tolerance = 1e-5
    int8_tolerance = 0.1

    @pytest.fixture
    def backend(self) -> Backend:
        """Return the backend; a subclass overrides this."""
        raise NotImplementedError("supply a fixture 'backend'")

    @pytest.fixture
    def bench(self, backend: Backend, tmp_path: Path) -> Iterator[Bench]:
        """Compile a small network in fp32."""
        plugin = tmp_path / "plugin"
        plugin.mkdir()
        known = backend.name in backends.names()
        entry = {} if known else {backend.name: f"{type(backend).__module__}:{type(backend).__qualname__}"}
        with registered(plugin, **entry):
            portable = tmp_path / "portable.onnx"
            spec = write_network(portable)
            raw = np.random.default_rng(1).integers(0, 256, (ROWS, 3, 16, 16), dtype=np.uint8)
            np.save(tmp_path / "image.npy", raw)
            plain = spec.model_dump(mode="json")
            outputs: Any = ReferenceEvaluator(onnx.load(portable)).run(None, preprocess(plain, {"image": raw}))
            artifact = compile_artifact(backend.name, portable, "fp32", tmp_path / "fp32")
            job = Job(
                backend.name,
                artifact,
                "fp32",
                spec,
                {"image": tmp_path / "image.npy"},
                what="predictions",
                measure=QUICK,
            )
            yield Bench(backend, tmp_path, portable, raw, probabilities(plain, outputs[0]), job)

    def test_it_is_registered_under_its_own_name(self, bench: Bench) -> None:
        """Its name loads its class."""
        assert type(backends.load(bench.backend.name)) is type(bench.backend)
        assert "run" in bench.backend.capability().can

    def test_its_file_can_be_shipped_to_a_device(self, backend: Backend) -> None:
        """Python 3.8 syntax; at the top only the standard library and numpy."""
        tree = ast.parse(Path(inspect.getfile(backend.session)).read_text("utf-8"), feature_version=(3, 8))
        imported = set()
        for node in tree.body:
            if isinstance(node, ast.Import):
                imported |= {name.name.split(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").split(".")[0])
        assert imported <= {"numpy", *sys.stdlib_module_names}

    def test_fp32_equals_the_truth_for_many_rows_and_for_one(self, bench: Bench) -> None:
        """Row order and values, in chunks and alone."""
        many = bench.run()
        assert many.probabilities is not None
        np.testing.assert_allclose(many.probabilities, bench.truth, atol=self.tolerance)
        one = bench.run(inputs=bench.inputs(image=bench.raw[5:6]))
        assert one.probabilities is not None
        np.testing.assert_allclose(one.probabilities, bench.truth[5:6], atol=self.tolerance)
        check_precision("fp32", many.realised_precision)
        assert many.runtime["name"]
        assert many.runtime["version"]
        assert many.peak_memory_mb > 1

    def test_int8_is_really_int8(self, bench: Bench) -> None:
        """Its own dialect gives integer layers, close to fp32 and not equal to it."""
        if "int8" not in bench.backend.capability().precisions:
            pytest.skip("the backend has no int8")
        quantised = bench.folder / "int8.onnx"
        spec, dialect = bench.job.spec, bench.backend.dialect
        quantize(bench.portable, {"image": bench.raw}, spec=spec, dialect=dialect, out=quantised)
        artifact = compile_artifact(bench.backend.name, quantised, "int8", bench.folder / "int8")
        result = bench.run(artifact=artifact, precision="int8")
        check_precision("int8", result.realised_precision)
        assert result.probabilities is not None
        difference = np.abs(result.probabilities - bench.truth).max()
        assert 0 < difference < self.int8_tolerance

    def test_latency_is_one_positive_number_per_run(self, bench: Bench) -> None:
        """Raw times, as many as asked for."""
        latencies_ms = bench.run(what="latency").latencies_ms
        assert latencies_ms is not None
        assert latencies_ms.shape == (QUICK.runs,)
        assert (latencies_ms > 0).all()

    @pytest.mark.parametrize(
        ("arrays", "said"),
        [
            (lambda raw: {"image": raw[:, :2]}, "shape"),
            (lambda raw: {"image": raw.astype(np.float64)}, "float64"),
            (lambda raw: {"picture": raw}, "picture"),
            (lambda raw: {"image": raw, "extra": raw}, "extra"),
            (lambda raw: {"image": raw[:0]}, "rows"),
        ],
    )
    def test_inputs_that_do_not_fit_are_refused(
        self, bench: Bench, arrays: Callable[[NDArray[np.uint8]], dict[str, NDArray[Any]]], said: str
    ) -> None:
        """Shape, dtype, names, no rows."""
        with pytest.raises(BackendError, match=said):
            bench.run(inputs=bench.inputs(**arrays(bench.raw)))

    def test_nan_in_the_inputs_is_refused_with_its_row(self, bench: Bench) -> None:
        """Also beyond the first chunk."""
        raw = bench.raw.astype(np.float32)
        raw[67, 0, 3, 3] = np.nan
        with pytest.raises(BackendError, match="row 67"):
            bench.run(inputs=bench.inputs(image=raw))

    def test_sessions_are_independent_and_close_twice(self, bench: Bench) -> None:
        """Two at once give the same; wrong inputs raise and leave the session usable; close is idempotent."""
        prepared = bench.folder / "prepared.npy"
        np.save(prepared, preprocess(bench.job.spec.model_dump(mode="json"), {"image": bench.raw})["image"])
        arguments = {
            "session": session_name(bench.backend),
            "artifact": str(bench.job.artifact),
            "input_name": "image",
            "rows": str(prepared),
        }
        found = run_child("fairdeploy.testing.probe:probe_sessions", arguments, timeout_s=60)
        assert found["equal_side_by_side"]
        assert found["equal_after_errors"]
        assert found["equal_after_the_other_closed"]
        assert set(found["raised"]) == {"unknown name", "missing input", "wrong shape"}

    def test_a_broken_artifact_is_refused(self, bench: Bench) -> None:
        """Each of its files cut in half, and replaced by noise."""
        files = sorted(bench.job.artifact.parent.iterdir())
        for file in files:
            whole = file.read_bytes()
            for broken in (whole[: len(whole) // 2], bytes(range(256)) * 4, b""):
                file.write_bytes(broken)
                with pytest.raises(BackendError):
                    bench.run()
            file.write_bytes(whole)
        assert bench.run().probabilities is not None

    def test_a_broken_portable_is_refused(self, bench: Bench) -> None:
        """The compiler's refusal is an error of ours; the linter says what is wrong."""
        bench.portable.write_bytes(bench.portable.read_bytes()[:500])
        with pytest.raises(BackendError):
            compile_artifact(bench.backend.name, bench.portable, "fp32", bench.folder / "broken")
        if "lint" in bench.backend.capability().can:
            assert lint(bench.backend.name, bench.portable)

    def test_a_run_that_does_not_end_is_killed(self, bench: Bench) -> None:
        """The parent gets an error, not a hang."""
        endless = replace(bench.job, what="latency", measure=QUICK.model_copy(update={"warmup_ms": 10**7}))
        with pytest.raises(BackendError, match="did not end in time"):
            HostDevice(timeout_s=2).run(endless)
