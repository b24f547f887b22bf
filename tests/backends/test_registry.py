"""Finding backends by name, and the precision check."""

import subprocess
import sys

import pytest

from fairdeploy import backends
from fairdeploy.backends import check_precision
from fairdeploy.devices.toolchain import compile_artifact, lint
from fairdeploy.errors import BackendUnavailable, ConfigError, PrecisionError
from fairdeploy.testing import registered, write_network


def test_built_in_backends_are_registered_like_anybodys():
    assert {"ort", "openvino", "tensorrt"} <= set(backends.names())
    for name in ("ort", "openvino", "tensorrt"):
        assert backends.load(name).name == name


def test_names_import_no_plugin(tmp_path):
    (tmp_path / "exploding_plugin.py").write_text("raise SystemExit('imported')\n")
    with registered(tmp_path, exploding="exploding_plugin:Backend"):
        assert "exploding" in backends.names()


def test_no_vendor_library_is_imported_by_asking_what_it_can():
    code = """
import sys
from fairdeploy import backends
for name in backends.names(): backends.load(name).capability()
heavy = {"onnx", "onnxruntime", "openvino", "torch", "tensorrt_rtx"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_unknown_names_get_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown backend 'openvin'; did you mean 'openvino'\? known: .*ort"):
        backends.load("openvin")


def test_two_plugins_of_one_name_are_refused(tmp_path):
    with registered(tmp_path, ort="somebody_else:Backend"):
        with pytest.raises(ConfigError, match="two plug-ins call their backend 'ort'"):
            backends.names()
        with pytest.raises(ConfigError, match="somebody_else"):
            backends.load("openvino")


@pytest.mark.parametrize("value", ["no_such_module:Backend", "json:NoSuchClass"])
def test_a_plugin_that_cannot_be_imported_is_named(tmp_path, value):
    with registered(tmp_path, broken=value), pytest.raises(ConfigError, match="backend 'broken'.*cannot be imported"):
        backends.load("broken")


@pytest.mark.parametrize(
    ("requested", "realised"),
    [("fp32", {"fp32": 5}), ("int8", {"int8": 4, "fp32": 1}), ("int8", {"int8": 1}), ("fp32", {"fp32": 2, "bf16": 0})],
)
def test_realised_precision_as_asked(requested, realised):
    check_precision(requested, realised)


@pytest.mark.parametrize(
    ("requested", "realised", "said"),
    [
        ("fp32", {"fp32": 4, "bf16": 1}, "asked for fp32.*1 in bf16, 4 in fp32"),
        ("fp32", {"int8": 5}, "5 in int8"),
        ("int8", {"fp32": 5}, "asked for int8.*5 in fp32"),
        ("int8", {"int8": 4, "bf16": 1}, "1 in bf16, 4 in int8"),
        ("int8", {"int8": 0}, "none at all"),
        ("fp32", {}, "none at all"),
    ],
)
def test_another_precision_is_an_error_with_counts(requested, realised, said):
    with pytest.raises(PrecisionError, match=said):
        check_precision(requested, realised)


def test_tensorrt_neither_compiles_nor_lints_here_and_says_what_to_do(tmp_path):
    write_network(tmp_path / "model.onnx")
    capability = backends.load("tensorrt").capability()
    assert "run" not in capability.can
    assert "trtexec --onnx=model.onnx --stronglyTyped" in capability.mend
    with pytest.raises(BackendUnavailable, match="built and run on the device"):
        compile_artifact("tensorrt", tmp_path / "model.onnx", "int8", tmp_path / "out")
    if "lint" not in capability.can:
        with pytest.raises(BackendUnavailable, match="pip install --no-deps tensorrt-rtx"):
            lint("tensorrt", tmp_path / "model.onnx")


def test_every_shipped_file_says_what_it_would_do_without_its_runtime(tmp_path, monkeypatch):
    from importlib.metadata import PackageNotFoundError

    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("fairdeploy.backends.base.version", missing)
    for name in ("ort", "openvino", "tensorrt"):
        capability = backends.load(name).capability()
        assert capability.can == ()
        assert "pip install" in capability.mend
    with pytest.raises(BackendUnavailable, match=r"openvino is not installed: pip install 'fairdeploy\[openvino\]'"):
        backends.load("openvino").lint(tmp_path / "model.onnx")
