"""The `Backend` contract.

A backend is one file, registered under the entry-point group ``fairdeploy.backends``. Its `Session` half is shipped
to devices: at its top the file imports only the standard library and numpy, in Python 3.8 syntax; vendor libraries
and host-side helpers are imported inside functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Ability = Literal["compile", "run", "lint"]


@dataclass(frozen=True)
class Capability:
    """What this machine can do with a backend.

    Attributes
    ----------
    version : str or None
        The runtime's version; None when it is not installed.
    can : tuple of {"compile", "run", "lint"}
    precisions : tuple of str
    reason, mend : str
        Why something is missing, and the command that mends it.
    """

    version: str | None
    can: tuple[Ability, ...]
    precisions: tuple[str, ...]
    reason: str = ""
    mend: str = ""


def installed_capability(
    package: str, can: tuple[Ability, ...], *, mend: str, precisions: tuple[str, ...] = ("fp32", "int8")
) -> Capability:
    """Return the `Capability` of a backend whose runtime is one installed package, without importing it."""
    try:
        return Capability(version(package), can, precisions)
    except PackageNotFoundError:
        return Capability(None, (), (), reason=f"{package} is not installed", mend=mend)


@dataclass(frozen=True)
class Dialect:
    """How a runtime wants its QDQ graph.

    Attributes
    ----------
    activations : {"u8-asymmetric", "s8-symmetric"}
    weights : {"s8-per-channel", "s8-per-tensor"}
    quantize_bias : bool
        Whether biases become int32 constants behind a DequantizeLinear.
    pair_qdq : bool
        Whether every consumer gets a Q/DQ pair of its own.
    reduce_range : bool
        7-bit weights, against u8s8 saturation on CPUs without VNNI.
    """

    activations: Literal["u8-asymmetric", "s8-symmetric"]
    weights: Literal["s8-per-channel", "s8-per-tensor"]
    quantize_bias: bool
    pair_qdq: bool
    reduce_range: bool = False


class Session(Protocol):
    """A loaded artifact on the machine that serves; a context manager."""

    def __init__(self, artifact: str, threads: int, precision: str) -> None: ...

    def __enter__(self) -> Session: ...

    def __exit__(self, *exc: object) -> None: ...

    def infer(self, inputs: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return the first output [n, classes] for named, preprocessed inputs [n, ...]."""
        ...

    def realised_precision(self) -> dict[str, int]:
        """Count the compute layers per precision that the runtime really uses, as ``{"int8": 12, "fp32": 1}``.

        Called after at least one `infer`, so that a runtime may report what ran rather than what was planned.
        """
        ...

    def runtime(self) -> dict[str, str]:
        """Name the runtime, its version and whatever changes its numerics."""
        ...

    def close(self) -> None:
        """Release the runtime's memory; calling it twice is harmless."""
        ...


class Backend(Protocol):
    """Compile on the host; the device half is `session`.

    Attributes
    ----------
    name : str
    extra : str or None
        The extra that brings its vendor library; None when the base install has it.
    artifact_name : str
        File name of the artifact's main file.
    simulator : str or None
        The backend that can run this one's portable form when its own runtime cannot run here.
    dialect : Dialect
    session : type
    """

    name: str
    extra: str | None
    artifact_name: str
    simulator: str | None
    session: type[Any]

    @property
    def dialect(self) -> Dialect:
        """The QDQ dialect of this runtime."""
        ...

    def capability(self) -> Capability:
        """Say what this machine can do with it, without loading heavy libraries where that can be avoided."""
        ...

    def lint(self, portable: Path) -> list[str]:
        """Return what the runtime would refuse in an ONNX file, one sentence per node; empty when all is well."""
        ...

    def compile(self, portable: Path, precision: str, out: Path) -> None:
        """Write the artifact into the folder `out`; called in a child process.

        Raises
        ------
        BackendError
            With the compiler's last words.
        """
        ...
