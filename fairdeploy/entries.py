"""What lies in the store: the entry of each result, what a build took, and how two keys differ."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairdeploy.errors import ConfigError, IntegrityError
from fairdeploy.records import Record, canonical_json, digest, file_digest

KEY_LENGTH = 24
SHORT = 40  # characters of a value that is shown as it is


class Entry(Record):
    """What `entry.json` holds: the parts of the key, the digest of every file, and how long it took."""

    station: str
    label: str
    parts: dict[str, Any]
    files: dict[str, str]
    seconds: float

    @property
    def key(self) -> str:
        """The name of its folder."""
        return digest({"station": self.station, "parts": self.parts})[:KEY_LENGTH]

    def damage(self, folder: Path) -> list[str]:
        """Return what is not as it was written, file by file; empty when all is well."""
        found = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()} - {"entry.json"}
        wrong = [] if self.key == folder.name else ["entry.json is of another key"]
        wrong += [f"missing {name}" for name in sorted(self.files.keys() - found)]
        wrong += [f"added {name}" for name in sorted(found - self.files.keys())]
        both = sorted(found & self.files.keys())
        return wrong + [f"changed {name}" for name in both if file_digest(folder / name) != self.files[name]]


class Uses(Record):
    """The results that a build took from the store or left there, as ``station/key``."""

    results: tuple[str, ...]


@dataclass(frozen=True)
class Held:
    """A result as it lies in the store; `entry` is None where entry.json cannot be read.

    `made` is its time in seconds since the epoch.
    """

    name: str
    folder: Path
    entry: Entry | None
    size_bytes: int
    made: float

    def damage(self) -> list[str]:
        """Return what is not as it was written, see `Entry.damage`."""
        return self.entry.damage(self.folder) if self.entry else ["entry.json cannot be read"]


def held(root: Path, station: str = "*") -> list[Held]:
    """Return what lies in a store, of one station or all, by name."""
    return [_held(folder) for folder in sorted(root.glob(f"{station}/*")) if _is_result(folder)]


def uses_of(root: Path) -> Path:
    """Return the folder, beside a store, with the `Uses` of each build."""
    return root.parent / "uses"


def used(root: Path, builds: Iterable[str]) -> set[str]:
    """Return the names of the results that builds took.

    Raises
    ------
    ConfigError
        If a build was made by a version that did not note them.
    """
    names: set[str] = set()
    for build in builds:
        file = uses_of(root) / f"{build}.json"
        if not file.is_file():
            raise ConfigError(
                f"build {build} did not note what it took from the store: run 'fairdeploy build' again", file=file
            )
        names |= {*Uses.load(file).results}
    return names


def last_used(root: Path) -> tuple[str, ...]:
    """Return the names of the results that the last build took."""
    notes = sorted(uses_of(root).glob("*.json"), key=lambda file: file.stat().st_mtime)
    return Uses.load(notes[-1]).results if notes else ()


def changes(before: Any, now: Any, path: str = "") -> list[str]:
    """Name what differs between two keys, as in ``measure.runs (500 → 50)``; long values and digests by name only."""
    if isinstance(before, dict) and isinstance(now, dict):
        names = sorted(before.keys() | now.keys())
        return [
            line
            for name in names
            for line in changes(before.get(name), now.get(name), f"{path}.{name}" if path else name)
        ]
    shown = [canonical_json(value).decode() for value in (before, now)]
    if shown[0] == shown[1]:
        return []
    plain = all(len(one) <= SHORT and not re.fullmatch(r'"[0-9a-f]{12,}"', one) for one in shown)
    return [f"{path} ({shown[0]} → {shown[1]})" if plain else path]


def _is_result(folder: Path) -> bool:
    return folder.is_dir() and not folder.name.startswith(".")


def _held(folder: Path) -> Held:
    entry = None
    with suppress(IntegrityError):
        entry = Entry.load(folder / "entry.json")
    size_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Held(f"{folder.parent.name}/{folder.name}", folder, entry, size_bytes, folder.stat().st_mtime)
