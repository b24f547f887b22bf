"""``fairdeploy doctor`` and ``version``: what this machine can do with each backend and target."""

from __future__ import annotations

import platform
from importlib.metadata import version as version_of
from importlib.util import find_spec
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from fairdeploy import __version__, backends
from fairdeploy.backends.base import Capability
from fairdeploy.cli.common import Common, Targets, print_json, stdout, target_names
from fairdeploy.errors import ExitCode
from fairdeploy.target import ALIASES, Target, catalogue, load_target


def doctor(
    *,
    target: Targets = (),
    strict: Annotated[bool, Parameter(negative="", help="Exit 4 unless every named target runs here.")] = False,
    common: Common | None = None,
) -> int:
    """Say for each backend and target: runs, only compiles, or missing, with what mends it.

    Also whether a PyTorch network can be pruned, compacted and exported here.
    """
    common = common or Common()
    network = _network()
    known = {name: backends.load(name).capability() for name in backends.names()}
    own = target_names(common)
    names = dict.fromkeys(ALIASES.get(name, name) for name in target or (*own, *catalogue(common.folder)))
    states = {name: _state(load_target(own.get(name, name), common.folder), known) for name in names}
    rows = {name: capability.__dict__ for name, capability in known.items()}
    if common.json:
        print_json(
            "doctor",
            network=network,
            backends=rows,
            targets={name: {"state": state, "mend": mend} for name, (state, mend) in states.items()},
        )
    else:
        _print({"PyTorch network": network} | rows, states)
    return ExitCode.INCONCLUSIVE if strict and any(state != "runs" for state, _ in states.values()) else ExitCode.DONE


def version() -> int:
    """Print fairdeploy's version and Python's."""
    print(f"fairdeploy {__version__}, Python {platform.python_version()} on {platform.machine()}")
    return ExitCode.DONE


def _network() -> dict[str, Any]:
    """Return what can be done with a PyTorch network, in the form of a backend's `Capability`."""
    lacking = [name for name in ("torch", "safetensors", "onnxscript", "onnxslim") if find_spec(name) is None]
    return {
        "version": None if lacking else version_of("torch"),
        "can": () if lacking else ("prune", "compact", "export"),
        "precisions": () if lacking else ("fp32",),
        "reason": f"not installed: {', '.join(lacking)}." if lacking else "",
        "mend": "pip install 'fairdeploy[torch]'" if lacking else "",
    }


def _state(target: Target, known: dict[str, Capability]) -> tuple[str, str]:
    capability = known.get(target.runtime.backend)
    if capability is None:
        return "missing", f"no backend '{target.runtime.backend}' is registered"
    if target.build.precision not in capability.precisions:
        return "missing", f"{target.runtime.backend} has no {target.build.precision} here. {capability.mend}".strip()
    arch = target.hardware.arch
    if arch and arch != platform.machine():
        return "simulated only", f"needs {arch} hardware, this is {platform.machine()}. {capability.mend}".strip()
    if "run" in capability.can:
        return "runs", ""
    return ("only compiles" if "compile" in capability.can else "missing"), capability.mend


def _print(rows: dict[str, dict[str, Any]], states: dict[str, tuple[str, str]]) -> None:
    console = stdout()
    table = Table("what", "version", "can", "precisions", "what is missing", box=None)
    for name, row in rows.items():
        missing = " ".join(filter(None, (row["reason"], row["mend"])))
        cells = (name, row["version"] or "-", ", ".join(row["can"]) or "-", " ".join(row["precisions"]), missing)
        table.add_row(*map(Text, cells))
    console.print(table)
    console.print()
    table = Table("target", "here", "what mends it", box=None)
    for name, (state, mend) in states.items():
        table.add_row(Text(name), Text(state), Text(mend))
    console.print(table)
