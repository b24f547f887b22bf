"""Kill builds with SIGKILL at random points until they are done: `python benchmarks/kills.py`.

A tiny project is built again and again, each time for a random number of stations and a random part of the next,
until a build ends by itself; then the next project begins, until so many kills are reached. After every kill each
result in the store is read again; at the end the results must be those of a build that nobody disturbed, byte for
byte, besides measured times and memory. That build runs in this process, the others in processes forked from it,
which then need not import PyTorch again.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from tables import RESULTS, machine, markdown, write
from tiny_project import write_project

from fairdeploy.cli import main as fairdeploy
from fairdeploy.entries import held
from fairdeploy.records import file_digest

MEASURED = ("entry.json", "run.json", "latencies_ms.npy")  # hold times, and memory at its peak
JUDGED = ("evidence.json", "verdict.json", "manifest.json", "decision-log.json")  # hold these, or their digests
CHILDREN_END_S = 10
STATIONS = 2  # fewer than so many stations end before the next kill
LAST = 1.5  # how long a build that has all stations may live, in times of what it takes
EARLY = 0.1  # so many kills strike while a build starts and reads what it has
BETWEEN = "between stations"


def start_build(folder: Path) -> int:
    """Fork a build and return its process id."""
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        quiet = os.open(folder.parent / f"{folder.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(quiet, stream)
        os._exit(fairdeploy(["build", "-C", str(folder), "-q"]))
    finally:
        os._exit(99)


def wait(child: int, seconds: float) -> int | None:
    """Wait for a process for a while; its exit code, or None when it still runs."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def let_live(child: int, folder: Path, seconds: list[float], again_s: float, random: np.random.Generator) -> int | None:
    """Let a build end a few stations and a part of the next one; return its exit code if it ended before.

    Its stations take so many `seconds`, and `again_s` a build that has all of them.
    """
    if random.random() < EARLY:
        return wait(child, random.uniform(0, again_s))
    store = folder / ".fairdeploy" / "store"
    before = half_made(folder)
    target = min(len(ended(store)) + int(random.integers(STATIONS)), len(seconds))
    while (now := len(ended(store))) < target or (now < len(seconds) and not half_made(folder) - before):
        if (code := wait(child, 0.01)) is not None:
            return code
    return wait(child, random.uniform(0, 1.2 * seconds[now] if now < len(seconds) else LAST * again_s))


def ended(store: Path) -> list[Path]:
    return list(store.glob("*/[0-9a-f]*/entry.json"))


def half_made(folder: Path) -> set[Path]:
    """Return what a build has half made, or a killed one left so."""
    return {*folder.glob("build/.sealing-*"), *folder.glob(".fairdeploy/store/*/.making-*")}


def at_work(begun: set[Path]) -> str:
    """Name the station that a killed build was at, from what it had begun."""
    return next(("sealing" if one.parent.name == "build" else one.parent.name for one in begun), BETWEEN)


def results(folder: Path) -> dict[str, str]:
    """Digest every file of the store and of the latest build that holds no measured time or memory."""
    files = [*folder.glob(".fairdeploy/store/*/*/**/*"), *folder.glob("build/latest/*/**/*")]
    return {
        file.relative_to(folder).as_posix(): file_digest(file)
        for file in sorted(files)
        if file.is_file() and file.name not in (*MEASURED, *JUDGED)
    }


def leftovers(folder: Path) -> list[str]:
    """Return what a finished build should not leave: anything half made."""
    return [str(file) for pattern in (".making-*", ".sealing-*", ".latest*") for file in folder.rglob(pattern)]


def runners_at_work() -> int:
    """Count the runtimes that a killed build left at work, after they had time to end."""
    until = time.monotonic() + CHILDREN_END_S
    while (count := sum(1 for _ in _orphans())) and time.monotonic() < until:
        time.sleep(0.01)
    return count


def _orphans() -> Iterator[Path]:
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words, status = (place / "cmdline").read_bytes(), (place / "status").read_text()
        except OSError:
            continue
        if (b"runner.pyz" in words or b"fairdeploy.devices.child" in words) and "PPid:\t1\n" in status:
            yield place


def disturb(kills: int, seed: int, folder: Path, nowhere: TextIO) -> Iterator[dict[str, Any]]:
    """Kill builds so often; yield what was found so far after each project."""
    random, took_s = np.random.default_rng(seed), 0.0
    for name in ("warm", "undisturbed", "undisturbed"):
        whole = folder / name if (folder / name).exists() else write_project(folder / name)
        before_s, started = took_s, time.monotonic()
        with redirect_stdout(nowhere):
            assert fairdeploy(["build", "-C", str(whole), "-q"]) == 0
        took_s = time.monotonic() - started
    expected = results(folder / "undisturbed")
    known = sorted(held(folder / "undisturbed" / ".fairdeploy" / "store"), key=lambda one: one.made)
    seconds = [one.entry.seconds for one in known if one.entry]
    hit: Counter[str] = Counter()
    corrupt: Counter[str] = Counter()
    unequal, unfinished, left, builds, running = [], 0, 0, 0, 0
    while sum(hit.values()) < kills:
        project = write_project(folder / f"killed-{builds}")
        builds += 1
        while True:
            before = half_made(project)
            child = start_build(project)
            done = sum(hit.values()) >= kills
            code = wait(child, 3600) if done else let_live(child, project, seconds, took_s, random)
            if code is not None:
                break
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            running += runners_at_work()
            place = at_work(half_made(project) - before)
            hit[place] += 1
            corrupt[place] += sum(bool(one.damage()) for one in held(project / ".fairdeploy" / "store"))
        unfinished += code != 0
        left += len(leftovers(project))
        made = results(project)
        names = sorted(expected.keys() | made.keys())
        unequal += [f"{project.name}/{name}" for name in names if made.get(name) != expected.get(name)]
        yield {
            "kills": sum(hit.values()),
            "builds": builds,
            "seed": seed,
            "undisturbed_s": round(before_s, 1),
            "files_compared": len(expected),
            "unfinished": unfinished,
            "unequal": unequal,
            "leftovers": left,
            "runtimes_left_at_work": running,
            "rows": [
                {"killed while at": place, "kills": count, "corrupt results after it": corrupt[place]}
                for place, count in hit.most_common()
            ],
        }


def text_of(found: dict[str, Any]) -> str:
    corrupt = sum(row["corrupt results after it"] for row in found["rows"])
    return (
        "# Builds killed with SIGKILL\n\n"
        f"{machine()}; seed {found['seed']}. {found['kills']} kills at random points of {found['builds']} builds of a "
        f"tiny project, each resumed until it ended by itself (undisturbed: {found['undisturbed_s']} s).\n\n"
        f"Corrupt results in the store after a kill: {corrupt}. Builds that did not end with exit code 0: "
        f"{found['unfinished']}. Files that differ from the undisturbed build's, of {found['files_compared']} compared "
        f"in each of {found['builds']} builds: {len(found['unequal'])}. Half-made folders left by a finished build: "
        f"{found['leftovers']}. Runtimes left at work by a killed build: {found['runtimes_left_at_work']}.\n\n"
        "Compared are all files that hold no measured time or memory: data, weights, masks, ONNX files, predictions, "
        "artifacts, tallies.\n\n" + markdown(found["rows"]) + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="kills-") as folder, open(os.devnull, "w") as nowhere:
        for found in disturb(options.kills, options.seed, Path(folder), nowhere):
            print(f"{found['kills']} kills, {found['builds']} builds", file=sys.stderr, flush=True)
            write("kills", found, text_of(found), folder=options.results)


if __name__ == "__main__":
    main()
