"""The host device against artifacts and runtimes that misbehave."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest

from fairdeploy.devices import HostDevice, Job
from fairdeploy.errors import BackendError, BackendUnavailable
from fairdeploy.target import Measure
from fairdeploy.testing import registered, write_network

FAULTS = """
import os, time
import numpy as np
from fairdeploy_fault_base import Base

class Session:
    def __init__(self, artifact, threads, precision): self.calls = 0
    def __enter__(self): return self
    def __exit__(self, *exc): pass
    def realised_precision(self): return {"fp32": 1}
    def runtime(self): return {"name": "fault", "threads": os.environ["OMP_NUM_THREADS"]}
    def infer(self, inputs):
        (image,) = inputs.values()
        self.calls += 1
        return self.output(image)

class Hang(Session):
    def output(self, image):
        print("entering the long sleep", flush=True)
        time.sleep(1000)

class Crash(Session):
    def output(self, image):
        os.write(2, b"runtime: assertion failed in kernel 7\\n")
        os.abort()

class Hog(Session):
    def output(self, image):
        self.kept = [np.ones(10**8) for _ in range(100)]

class Nan(Session):
    def output(self, image):
        logits = np.zeros((len(image), 2), np.float32)
        if self.calls == 2:
            logits[5, 1] = np.inf
        return logits

class FewRows(Session):
    def output(self, image):
        return np.zeros((1, 2), np.float32)

class Silent(Session):
    def output(self, image):
        os._exit(0)

class DiesLate(Session):
    def output(self, image):
        return np.zeros((len(image), 2), np.float32)
    def runtime(self):
        import atexit
        atexit.register(os.abort)
        return {}

class Quiet(Session):
    def output(self, image):
        return np.stack([np.zeros(len(image)), image[:, 0, 0, 0]], axis=1)
"""
KINDS = ("Hang", "Crash", "Hog", "Nan", "FewRows", "Silent", "DiesLate", "Quiet")


@pytest.fixture(scope="module")
def faults(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    backends = "".join(
        dedent(f"""
        class {kind}Backend(Base):
            name = "{kind.lower()}"
            session = {kind}
        """)
        for kind in KINDS
    )
    (folder / "fairdeploy_faults.py").write_text(
        FAULTS.replace("from fairdeploy_fault_base import Base\n", BASE) + backends
    )
    with registered(folder, **{kind.lower(): f"fairdeploy_faults:{kind}Backend" for kind in KINDS}):
        yield


BASE = """
class Base:
    def capability(self):
        from fairdeploy.backends.base import Capability
        return Capability("0", ("run",), ("fp32",))
"""


@pytest.fixture
def job(tmp_path, faults):
    spec = write_network(tmp_path / "model.onnx")
    np.save(tmp_path / "image.npy", np.random.default_rng(0).integers(0, 256, (100, 3, 16, 16), dtype=np.uint8))
    return Job(
        "ort", tmp_path / "model.onnx", "fp32", spec, {"image": tmp_path / "image.npy"}, "predictions", Measure()
    )


def children_of(pid):
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(one) for task in tasks for one in (task / "children").read_text().split()]


def test_a_hang_is_killed_and_its_last_words_are_kept(job):
    started = time.monotonic()
    with pytest.raises(BackendError, match=r"hang .*did not end in time and was killed.*entering the long sleep"):
        HostDevice(timeout_s=1).run(replace(job, backend="hang"))
    assert time.monotonic() - started < 5


def test_a_crash_names_the_signal_and_the_last_words(job):
    with pytest.raises(BackendError, match=r"SIGABRT.*assertion failed in kernel 7"):
        HostDevice().run(replace(job, backend="crash"))


def test_a_memory_hog_is_stopped_by_its_limit(job):
    with pytest.raises(BackendError, match="(?i)memory|allocate"):
        HostDevice(memory_mb=2000).run(replace(job, backend="hog"))


def test_nan_in_the_output_names_the_row(job):
    with pytest.raises(BackendError, match="NaN or infinity in row 69"):
        HostDevice().run(replace(job, backend="nan"))


def test_too_few_rows_are_refused(job):
    with pytest.raises(BackendError, match="1 rows for 64"):
        HostDevice().run(replace(job, backend="fewrows"))


@pytest.mark.parametrize("backend", ["silent", "dieslate"])
def test_a_process_that_ends_wrongly_gives_no_result(job, backend):
    with pytest.raises(BackendError, match="ended with code 0|SIGABRT"):
        HostDevice().run(replace(job, backend=backend))


def test_threads_are_pinned_and_facts_are_read(job):
    result = HostDevice().run(replace(job, backend="quiet", measure=Measure(threads=2)))
    assert result.runtime["threads"] == "2"
    assert result.facts.arch == os.uname().machine
    assert result.facts.memory_mb > 100
    assert result.probabilities.dtype == np.float32
    np.testing.assert_allclose(result.probabilities.sum(axis=1), 1, atol=1e-6)


def test_a_backend_that_cannot_run_here_says_how_to_go_on(job):
    with pytest.raises(BackendUnavailable, match=r"on the device.*trtexec"):
        HostDevice().run(replace(job, backend="tensorrt"))


def test_missing_files_are_named(job, tmp_path):
    with pytest.raises(BackendError, match=r"no such file.*gone\.onnx"):
        HostDevice().run(replace(job, artifact=tmp_path / "gone.onnx"))
    with pytest.raises(BackendError, match=r"no such file.*gone\.npy"):
        HostDevice().run(replace(job, inputs={"image": tmp_path / "gone.npy"}))


def test_pickled_inputs_are_not_loaded(job, tmp_path):
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}] * 3, dtype=object), allow_pickle=True)
    with pytest.raises(BackendError, match="(?i)pickle|object"):
        HostDevice().run(replace(job, inputs={"image": tmp_path / "evil.npy"}))


def test_runs_repeat_bit_for_bit(job):
    first, second = (HostDevice().run(job).probabilities for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_nothing_is_left_behind(job, monkeypatch, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr("tempfile.tempdir", None)
    HostDevice().run(job)
    with pytest.raises(BackendError):
        HostDevice().run(replace(job, backend="nan"))
    assert list(scratch.iterdir()) == []


def test_an_interrupt_kills_the_child(job):
    def interrupt():
        deadline = time.monotonic() + 5
        while not (found := children_of(os.getpid())) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)
        killed.extend(found)
        os.kill(os.getpid(), signal.SIGINT)

    killed: list[int] = []
    thread = threading.Thread(target=interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            HostDevice(timeout_s=20).run(replace(job, backend="hang"))
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert killed
    assert not set(killed) & set(children_of(os.getpid()))


def test_peak_memory_is_the_runners_own(job):
    """Linux hands a child its parent's `ru_maxrss`: a parent of 600 MB must not show."""
    ballast = np.ones(600 * 2**20 // 8)
    assert 10 < HostDevice().run(job).peak_memory_mb < 400
    assert ballast.all()


def test_the_device_key_tells_machines_apart(monkeypatch):
    here = HostDevice().key()
    assert here == HostDevice().key()
    monkeypatch.setattr("platform.node", lambda: "elsewhere")
    assert HostDevice().key() != here


def test_the_runner_needs_neither_torch_nor_pydantic(job):
    modules = "torch, pydantic, openvino, onnx, scipy"
    code = f"""
import sys, runpy
for name in "{modules}".split(", "): sys.modules[name] = None
sys.argv = ["runner.pyz", sys.argv[1]]
runpy.run_path(sys.argv[1] + "/runner.pyz", run_name="__main__")
"""
    import json

    from fairdeploy import backends
    from fairdeploy.devices.package import build_zipapp, session_name

    folder = Path(job.artifact).parent / "job"
    folder.mkdir()
    (folder / "runner.pyz").write_bytes(build_zipapp(backends.load("ort")))
    description = HostDevice()._describe(job, session_name(backends.load("ort")))
    (folder / "job.json").write_text(json.dumps(description))
    ended = subprocess.run([sys.executable, "-I", "-c", code, str(folder)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert json.loads((folder / "result.json").read_text())["status"] == "done"
    # A file that changed after the job was written is not used.
    with job.artifact.open("ab") as stream:
        stream.write(b"x")
    subprocess.run([sys.executable, str(folder / "runner.pyz"), str(folder)], check=False)
    refused = json.loads((folder / "result.json").read_text())
    assert refused["status"] == "refused"
    assert "model.onnx is not the file that the job names" in refused["reason"]
