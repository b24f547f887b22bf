"""The store: each station's result, kept under the digest of everything that went into it.

::

    .fairdeploy/store/<station>/<key>/
      entry.json      Entry: the key's parts, digest of every file, seconds
      ...             the station's files

A result is written beside its place and moved in at the end, so that an interrupted station leaves nothing; its
files' digests are checked whenever it is read, and a damaged one is made again. What a killed process left beside a
place is swept by the next run, unless somebody holds that place's lock. ``.fairdeploy/uses/<build>.json`` says which
results a build took.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairdeploy.entries import KEY_LENGTH, Entry, Held, Uses, changes, held, last_used, uses_of
from fairdeploy.errors import ConfigError, FairdeployError, IntegrityError
from fairdeploy.records import digest, file_digest


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
    _in_use: bool = field(default=False, init=False)

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
        if self.dry:
            kept = self._read(place, label)
            if kept is None:
                raise NotKept(label, self._why(station, label, parts))
        else:
            self._begin()
            with locked(place):
                again = self.fresh and not any(kept.folder == place for kept in self.log)
                kept = None if again else self._read(place, label)
                if kept is None:
                    self.on_start(label)
                    try:
                        kept = self._produce(station, place, label, produce, parts)
                    except BaseException:
                        self._tidy(place)
                        raise
        self.log.append(kept)
        self.on_done(kept)
        return kept

    def note_use(self, build: str) -> None:
        """Note that a build took all that this store returned so far; `prune` then spares it."""
        names = {f"{kept.folder.parent.name}/{kept.folder.name}" for kept in self.log}
        Uses(results=tuple(sorted(names))).save(uses_of(self.root) / f"{build}.json")

    def prune(self, *, spare: Collection[str] = (), made_before: float | None = None, dry: bool = False) -> list[Held]:
        """Remove results, and return them.

        Parameters
        ----------
        spare : collection of str
            Names that stay.
        made_before : float, optional
            Remove only what was made before this time, in seconds since the epoch.
        dry : bool
            Only say what would go.

        Raises
        ------
        ConfigError
            If a build is using the store.
        """
        going = [
            one for one in held(self.root) if one.name not in spare and (made_before is None or one.made < made_before)
        ]
        if not dry:
            with _flocked(self.root / ".lock", fcntl.LOCK_EX | fcntl.LOCK_NB) as mine:
                if not mine:
                    raise ConfigError("a build is using the store: wait until it has ended", file=self.root)
                for work in [*(one.folder for one in going), *self.root.glob("*/.making-*")]:
                    shutil.rmtree(work)
        return going

    def _begin(self) -> None:
        """Keep `prune` away for as long as this object lives, and sweep what killed processes left."""
        if not self._in_use:
            self.root.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
            weakref.finalize(self, os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_SH)
            for work in self.root.glob("*/.making-*-*"):
                with locked(work.parent / work.name.split("-")[1], wait=False) as mine:
                    if mine:
                        shutil.rmtree(work, ignore_errors=True)
            self._in_use = True

    def _tidy(self, place: Path) -> None:
        """Remove the lock of a place that nothing came to, and the folders that then are empty: a store's first."""
        lock_of(place).unlink(missing_ok=True)
        with suppress(OSError):
            place.parent.rmdir()
            if [one.name for one in self.root.iterdir()] == [".lock"]:
                (self.root / ".lock").unlink()
                self.root.rmdir()
                self.root.parent.rmdir()

    def _read(self, place: Path, label: str) -> Kept | None:
        try:
            entry = Entry.load(place / "entry.json")
            intact = not entry.damage(place)
        except (IntegrityError, OSError):
            return None
        return Kept(label, place, digest(entry.files), entry.seconds, cached=True) if intact else None

    def _produce(
        self, station: str, place: Path, label: str, produce: Callable[[Path], object], parts: dict[str, Any]
    ) -> Kept:
        work = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".making-{place.name}-"))
        before = work.with_name(f"{work.name}-before")
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
                place.replace(before)
            work.replace(place)
        finally:
            for left in (work, before):
                shutil.rmtree(left, ignore_errors=True)
        return Kept(label, place, digest(files), seconds, cached=False)

    def _why(self, station: str, label: str, parts: dict[str, Any]) -> str:
        """Say which part of the key differs from the last build's result with the same label, else the newest."""
        known = [(one, one.entry) for one in held(self.root, station) if one.entry and one.entry.label == label]
        if not known:
            return "not made yet"
        last = last_used(self.root)
        _, before = max(known, key=lambda one: (one[0].name in last, one[0].made))
        changed = changes(before.parts, parts)
        return f"changed: {', '.join(changed)}" if changed else "the kept result is damaged"


def lock_of(place: Path) -> Path:
    """Return the lock beside a file or folder."""
    return place.parent / f".{place.name}.lock"


@contextmanager
def locked(place: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock beside a file or folder; another process waits for it.

    Yields whether it is held: always, unless it was told not to `wait`.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    with _flocked(lock_of(place), fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)) as mine:
        yield mine


@contextmanager
def _flocked(file: Path, how: int) -> Iterator[bool]:
    with file.open("w") as handle:
        try:
            fcntl.flock(handle, how)
        except BlockingIOError:
            yield False
        else:
            yield True
