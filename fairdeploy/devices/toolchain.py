"""Compile and lint in a child process: vendor compilers crash and hang on files that they do not like."""

from __future__ import annotations

from pathlib import Path

from fairdeploy import backends
from fairdeploy.devices.child import run_child


def compile_artifact(backend: str, portable: Path, precision: str, out: Path, *, timeout_s: float = 600) -> Path:
    """Compile an ONNX file and return the artifact's main file, which lies in the folder `out`.

    Raises
    ------
    BackendUnavailable
        If the compiler is not installed.
    BackendError
        If it refused, crashed or hung; with its last words.
    """
    arguments = {"backend": backend, "portable": str(portable), "precision": precision, "out": str(out)}
    run_child("fairdeploy.backends:compile_here", arguments, timeout_s=timeout_s)
    return out / backends.load(backend).artifact_name


def lint(backend: str, portable: Path, *, timeout_s: float = 600) -> list[str]:
    """Return what a runtime would refuse in an ONNX file, one sentence per node.

    Raises
    ------
    BackendUnavailable
        If the linter is not installed.
    BackendError
        If it crashed or hung; with its last words.
    """
    arguments = {"backend": backend, "portable": str(portable)}
    found: list[str] = run_child("fairdeploy.backends:lint_here", arguments, timeout_s=timeout_s)
    return found
