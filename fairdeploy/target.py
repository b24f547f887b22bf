"""`Target`: hardware x runtime x precision, how to quantise, how to measure, and the gates of the place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from fairdeploy import yamlfile
from fairdeploy.errors import ConfigError
from fairdeploy.records import Record

Precision = Literal["fp32", "fp16", "int8"]
ALIASES = {"jetson": "jetson-orin-nano"}
ID_PATTERN = r"^[a-z0-9][a-z0-9-]*$"


class Hardware(Record):
    """What the artifact must run on for evidence at level *device*.

    ``this_host: true`` means the machine that runs fairdeploy, whatever it is.
    """

    this_host: bool = False
    arch: Literal["x86_64", "aarch64"] | None = None
    vendor: str | None = None
    instructions: tuple[str, ...] = ()
    compute_capability: str | None = None
    memory_mb: int | None = Field(default=None, ge=1)
    power_mode: str | None = None


class Runtime(Record):
    """The runtime that serves: a backend and, where it matters, its version."""

    backend: str
    version: str | None = None
    jetpack: str | None = None


class BuildOptions(Record):
    """Where the artifact is compiled and in which precision."""

    on: Literal["host", "device"] = "host"
    precision: Precision = "fp32"
    fallback: Literal["refuse"] = "refuse"


class Quantization(Record):
    """INT8 calibration: the recipe's name under ``calibration/``; the dialect comes from the backend."""

    calibration: str = "group-balanced"


class Measure(Record):
    """Single-stream latency: one input at a time, after a warm-up, threads pinned."""

    batch_size: Literal[1] = 1
    threads: int = Field(default=1, ge=1)
    warmup_ms: int = Field(default=200, ge=0)
    runs: int = Field(default=500, ge=20)
    percentiles: tuple[Annotated[int, Field(ge=1, le=99)], ...] = (50, 90, 99)


class Target(Record):
    """One file under ``targets/``; variants start from another by ``extends:``."""

    version: Literal[1] = 1
    id: str = Field(pattern=ID_PATTERN)
    description: str = ""
    hardware: Hardware
    runtime: Runtime
    build: BuildOptions = BuildOptions()
    quantization: Quantization = Quantization()
    measure: Measure = Measure()
    gates: dict[str, Any] = Field(default_factory=dict)


def shipped(folder: Literal["targets", "calibration", "examples"]) -> Path:
    """Return a folder of what is shipped: the packaged copy, else the repository's (editable install)."""
    here = Path(__file__).resolve().parent
    packaged = here / folder
    return packaged if any(packaged.rglob("*.yaml")) else here.parent / folder


def catalogue(project_dir: Path | None = None) -> dict[str, Path]:
    """Return every known target's file by id; a project's own ``targets/`` come before the shipped ones."""
    folders = [shipped("targets")] + ([project_dir / "targets"] if project_dir else [])
    return {file.stem: file for folder in folders for file in sorted(folder.glob("*.yaml"))}


def load_target(name: str, project_dir: Path | None = None) -> Target:
    """Read a target by id or alias.

    Raises
    ------
    ConfigError
        If no such target exists (the nearest names are given) or its file is invalid.
    """
    return yamlfile.validate(Target, resolve_target(name, project_dir))


def resolve_target(name: str, project_dir: Path | None = None) -> yamlfile.Document:
    """Read a target's file merged over the files it extends; every value keeps its origin."""
    files = catalogue(project_dir)
    name = ALIASES.get(name, name)
    if name not in files:
        raise ConfigError(f"unknown target '{name}'{yamlfile.nearest(name, [*files, *ALIASES])}")
    document = yamlfile.read(files[name])
    seen = [name]
    while (base := document.data.pop("extends", None)) is not None:
        if not isinstance(base, str):
            raise document.error(f"'extends' is {base!r}: give the id of one target as text", ("extends",))
        if base in seen or base not in files:
            reason = "extends itself" if base in seen else f"extends unknown '{base}'{yamlfile.nearest(base, files)}"
            raise ConfigError(f"target '{name}' {reason}", file=files[seen[-1]])
        seen.append(base)
        document = yamlfile.overlay(yamlfile.read(files[base]), document)
    return document
