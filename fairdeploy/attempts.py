"""How often the evaluate split has been looked at: every verdict on it is noted, whoever asked for it.

``.fairdeploy/attempts.jsonl`` holds a line per build and set of gates; it is locked while a line is added, so that two
builds at once lose none. Whoever tries until a gate passes is seen to have tried: the number stands in the report, each
attempt in the decision log.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairdeploy.bundle import LOOK, LogEntry
from fairdeploy.errors import ConfigError
from fairdeploy.records import write_atomic
from fairdeploy.store import locked

LOG = Path(".fairdeploy") / "attempts.jsonl"


@dataclass(frozen=True)
class Looks:
    """What was tried on one evaluate split.

    Attributes
    ----------
    builds : int
        Different builds that were judged on it.
    gate_sets : int
        Most different sets of gates that one target was judged under.
    entries : tuple of LogEntry
        One per build and set of gates, oldest first.
    """

    builds: int
    gate_sets: int
    entries: tuple[LogEntry, ...]


def note_look(
    folder: Path, build_id: str, data_fingerprint: str, gates: Mapping[str, str], verdicts: Mapping[str, str]
) -> Looks:
    """Note that a build was judged, unless that very look is noted already; return all looks at the same data.

    Parameters
    ----------
    folder : Path
        The project's folder.
    build_id, data_fingerprint : str
    gates, verdicts : mapping of target to str
        Digest of its gates, and the one word that came out.

    Raises
    ------
    ConfigError
        If the log was damaged: a lost look would flatter.
    """
    log = folder / LOG
    entry = {"build": build_id, "data": data_fingerprint, "gates": dict(gates), "verdicts": dict(verdicts)}
    with locked(log):
        looks = _read(log)
        if not any(all(look[key] == entry[key] for key in ("build", "data", "gates")) for look in looks):
            looks.append(entry)
            write_atomic(log, "".join(json.dumps(look, sort_keys=True) + "\n" for look in looks).encode())
    looks = [look for look in looks if look["data"] == data_fingerprint]
    sets = {target: {look["gates"].get(target) for look in looks} - {None} for target in gates}
    entries = tuple(_entry(number, look) for number, look in enumerate(looks, 1))
    return Looks(len({look["build"] for look in looks}), max(map(len, sets.values()), default=0), entries)


def _entry(number: int, look: Mapping[str, Any]) -> LogEntry:
    verdicts = ", ".join(f"{target}: {status}" for target, status in look["verdicts"].items())
    gates = ", ".join(f"{target} {digest[:12]}" for target, digest in look["gates"].items())
    return LogEntry(station=LOOK, decision=f"look {number}: {verdicts}", reason=f"{look['build']} under gates {gates}")


def _read(log: Path) -> list[dict[str, Any]]:
    try:
        found = [json.loads(line) for line in log.read_text("utf-8").splitlines()] if log.is_file() else []
        if all({"build", "data", "gates", "verdicts"} <= look.keys() for look in found):
            return found
    except (ValueError, AttributeError):
        pass
    raise ConfigError("is damaged or of an older version: move it away; looks are then counted anew", file=log)
