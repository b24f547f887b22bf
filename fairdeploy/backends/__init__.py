"""Backends: runtimes that serve a network, found by name under the entry-point group ``fairdeploy.backends``.

Names are listed without importing anything; a backend's file is imported when it is loaded, its vendor library
when it is used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from fairdeploy import yamlfile
from fairdeploy.backends.base import Ability, Backend, Capability, Dialect, Session
from fairdeploy.errors import ConfigError, PrecisionError

__all__ = [
    "Ability",
    "Backend",
    "Capability",
    "Dialect",
    "Session",
    "check_precision",
    "compile_here",
    "lint_here",
    "load",
    "names",
]

GROUP = "fairdeploy.backends"


def _registered() -> dict[str, EntryPoint]:
    # One distribution may be found twice on sys.path (an editable install next to a wheel): the same entry once.
    found = {(entry.name, entry.value): entry for entry in entry_points(group=GROUP)}
    twice = [name for name, count in Counter(name for name, _ in found).items() if count > 1]
    if twice:
        rivals = ", ".join(sorted(value for name, value in found if name == twice[0]))
        raise ConfigError(f"two plug-ins call their backend '{twice[0]}' ({rivals}): uninstall one")
    return {name: entry for (name, _), entry in found.items()}


def names() -> list[str]:
    """Return the names of all registered backends, sorted; nothing is imported.

    Raises
    ------
    ConfigError
        If two installed packages register the same name.
    """
    return sorted(_registered())


def load(name: str) -> Backend:
    """Return a backend by name.

    Raises
    ------
    ConfigError
        If no plug-in registers the name (the nearest is given), two do, or its file cannot be imported.
    """
    known = _registered()
    if name not in known:
        hint = yamlfile.nearest(name, known) if known else "; none is registered: install fairdeploy with pip"
        raise ConfigError(f"unknown backend '{name}'{hint}")
    try:
        backend: Backend = known[name].load()()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"backend '{name}' ({known[name].value}) cannot be imported: {error}") from error
    return backend


def compile_here(backend: str, portable: str, precision: str, out: str) -> None:
    """Compile in this process; `fairdeploy.devices.toolchain` calls it in a child.

    Raises
    ------
    BackendError, BackendUnavailable
        As the backend's `compile`.
    """
    load(backend).compile(Path(portable), precision, Path(out))


def lint_here(backend: str, portable: str) -> list[str]:
    """Lint in this process; `fairdeploy.devices.toolchain` calls it in a child."""
    return load(backend).lint(Path(portable))


def check_precision(requested: str, realised: Mapping[str, int]) -> None:
    """Compare the precision that a runtime used with the one that was asked for.

    fp32 means every compute layer in fp32. int8 and fp16 mean at least one layer in it and the others in fp32.

    Parameters
    ----------
    requested : {"fp32", "fp16", "int8"}
    realised : mapping of str to int
        Compute layers per precision, as `Session.realised_precision` counts them.

    Raises
    ------
    PrecisionError
        With the counts.
    """
    used = {name: count for name, count in realised.items() if count}
    if requested in used and set(used) <= {requested, "fp32"}:
        return
    counts = ", ".join(f"{count} in {name}" for name, count in sorted(used.items())) or "none at all"
    raise PrecisionError(f"asked for {requested}, but the runtime ran its compute layers otherwise: {counts}")
