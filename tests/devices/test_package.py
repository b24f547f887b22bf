"""The zipapp: the same bytes from the same sources, and only what the runner needs."""

import io
import os
import subprocess
import sys
import zipfile

from fairdeploy import backends
from fairdeploy.devices.package import build_zipapp

CODE = """
import sys
from fairdeploy import backends
from fairdeploy.devices.package import build_zipapp
sys.stdout.buffer.write(build_zipapp(backends.load("ort")))
"""


def test_another_process_packs_the_same_bytes():
    env = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    there = subprocess.run([sys.executable, "-c", CODE], env=env, capture_output=True, check=True).stdout
    assert there == build_zipapp(backends.load("ort"))


def test_it_holds_the_runner_and_one_backend_and_no_package_code():
    archive = zipfile.ZipFile(io.BytesIO(build_zipapp(backends.load("openvino"))))
    full = {name for name in archive.namelist() if archive.read(name)}
    assert full == {
        "__main__.py",
        "fairdeploy/backends/ov.py",
        "fairdeploy/devices/facts.py",
        "fairdeploy/devices/runner.py",
        "fairdeploy/evidence/encoding.py",
        "fairdeploy/evidence/schema.py",
        "fairdeploy/evidence/tally.py",
    }
