"""Prune a network fairly, ship it to edge devices, and prove per group of people what every step changed.

The path is one line (``docs/path.md`` draws it)::

    prune -> compact -> recover -> export -> (calibrate -> compile -> run -> tally -> judge -> gate -> seal) per target

Heavy libraries load on first use: importing this package costs milliseconds.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
CONFIG_NAME = "fairdeploy.yaml"

_PUBLIC = {
    "ChannelGroup": "fairdeploy.compaction",
    "CompactModel": "fairdeploy.compaction",
    "Evidence": "fairdeploy.evidence",
    "FairdeployError": "fairdeploy.errors",
    "ModelSpec": "fairdeploy.model",
    "Project": "fairdeploy.project",
    "Rows": "fairdeploy.data",
    "Split": "fairdeploy.data",
    "Tally": "fairdeploy.evidence",
    "Target": "fairdeploy.target",
    "build": "fairdeploy.workflow",
    "channel_groups": "fairdeploy.compaction",
    "compact": "fairdeploy.compaction",
    "judge": "fairdeploy.judgement",
    "load_graph": "fairdeploy.graphs",
    "prune": "fairdeploy.pruning.api",
}

__all__ = ["__version__", *sorted(_PUBLIC)]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'fairdeploy' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
