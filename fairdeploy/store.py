"""The store: each station's result, kept under the digest of everything that went into it.

::

    .fairdeploy/store/<station>/<key>/
      entry.json      Entry: the key's parts, digest of every file, seconds
      ...             the station's files

A result is written beside its place and moved in at the end, so that an interrupted station leaves nothing; its
files' digests are checked whenever it is read, and a damaged one is made again.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairdeploy.errors import FairdeployError, IntegrityError
from fairdeploy.records import Record, canonical_json, digest, file_digest

KEY_LENGTH = 24


class Entry(Record):
    """What `entry.json` holds: the parts of the key, the digest of every file, and how long it took."""

    station: str
    label: str
    parts: dict[str, Any]
    files: dict[str, str]
    seconds: float


class NotKept(FairdeployError):
    """Raised by a dry store in the place of running a station."""

    def __init__(self, label: str, why: str) -> None:
        self.label, self.why = label, why
        super().__init__(f"{label} would run: {why}")


@dataclass(frozen=True)
class Kept:
    """One station's result.

    Attributes
    ----------
    folder : Path
        Where its files lie; read-only for everyone.
    digest : str
        Digest over all its files; goes into the keys of the stations after it.
    seconds : float
        How long it took when it ran.
    cached : bool
        Whether this call took it from the store.
    """

    label: str
    folder: Path
    digest: str
    seconds: float
    cached: bool


@dataclass
class Store:
    """Results by key, under one folder.

    Attributes
    ----------
    root : Path
    fresh : bool
        Run every station again (``--no-cache``), once each.
    dry : bool
        Raise `NotKept` in the place of running (``plan``).
    on_start, on_done : callable
        Told the label when a station starts to run, and its `Kept` when it is there.
    """

    root: Path
    fresh: bool = False
    dry: bool = False
    on_start: Callable[[str], None] = lambda label: None
    on_done: Callable[[Kept], None] = lambda kept: None
    log: list[Kept] = field(default_factory=list)

    def run(self, station: str, produce: Callable[[Path], object], /, *, of: str | None = None, **parts: Any) -> Kept:
        """Return a station's result, running it when it is not kept.

        Parameters
        ----------
        station : str
            Name of the station; a folder of the store.
        produce : callable
            Writes the result's files into the folder it is given.
        of : str, optional
            What it works on (a candidate, a target), for people.
        **parts
            Everything the result depends on, as plain data; digests for files.
        """
        label = f"{station}[{of}]" if of else station
        key = digest({"station": station, "parts": parts})[:KEY_LENGTH]
        place = self.root / station / key
        with locked(place):
            if self.fresh and not any(kept.folder == place for kept in self.log):
                kept = None
            else:
                kept = self._read(place, label)
            if kept is None:
                if self.dry:
                    raise NotKept(label, self._why(station, label, parts))
                self.on_start(label)
                kept = self._produce(station, place, label, produce, parts)
        self.log.append(kept)
        self.on_done(kept)
        return kept

    def _read(self, place: Path, label: str) -> Kept | None:
        try:
            entry = Entry.load(place / "entry.json")
            intact = all(file_digest(place / name) == known for name, known in entry.files.items())
        except (IntegrityError, OSError):
            return None
        return Kept(label, place, digest(entry.files), entry.seconds, cached=True) if intact else None

    def _produce(
        self, station: str, place: Path, label: str, produce: Callable[[Path], object], parts: dict[str, Any]
    ) -> Kept:
        work = Path(tempfile.mkdtemp(dir=place.parent, prefix=".making-"))
        try:
            start = time.perf_counter()
            produce(work)
            seconds = round(time.perf_counter() - start, 3)
            files = {
                file.relative_to(work).as_posix(): file_digest(file)
                for file in sorted(work.rglob("*"))
                if file.is_file()
            }
            entry = Entry(station=station, label=label, parts=parts, files=files, seconds=seconds)
            entry.save(work / "entry.json")
            if place.exists():
                shutil.rmtree(place)
            work.replace(place)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
        return Kept(label, place, digest(files), seconds, cached=False)

    def _why(self, station: str, label: str, parts: dict[str, Any]) -> str:
        """Say which part of the key differs from the newest result with the same label."""
        older = []
        for file in (self.root / station).glob("*/entry.json"):
            try:
                entry = Entry.load(file)
            except IntegrityError:
                continue
            if entry.label == label:
                older.append((file.stat().st_mtime, entry.parts))
        if not older:
            return "not made yet"
        before = max(older, key=lambda item: item[0])[1]
        changed = sorted(
            name
            for name in before.keys() | parts.keys()
            if canonical_json(before.get(name)) != canonical_json(parts.get(name))
        )
        return f"changed: {', '.join(changed)}" if changed else "the kept result is damaged"


@contextmanager
def locked(place: Path) -> Iterator[None]:
    """Hold the lock beside a file or folder; another process waits for it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with (place.parent / f".{place.name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
