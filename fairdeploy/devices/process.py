"""One child process with limits: how all native code runs. A hang is killed with its whole process group."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TAIL_BYTES = 2000
THREAD_POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes
    ----------
    returncode : int
        Negative for a signal, as in `subprocess`.
    timed_out : bool
    last_words : str
        The end of what it wrote to stdout and stderr.
    """

    returncode: int
    timed_out: bool
    last_words: str

    def describe(self) -> str:
        """Say in words how it ended."""
        if self.timed_out:
            how = "did not end in time and was killed"
        elif self.returncode < 0:
            how = f"was killed by {signal.Signals(-self.returncode).name}"
        else:
            how = f"ended with code {self.returncode}"
        return f"{how}; its last words: {self.last_words or '(none)'}"


def run_limited(command: Sequence[str], folder: Path, *, threads: int, timeout_s: float) -> Ended:
    """Run a command without stdin, in a process group of its own, and wait for it.

    Whatever interrupts the wait (Ctrl-C included) kills the group first.

    Parameters
    ----------
    command : sequence of str
    folder : Path
        Where its temporary files go, so that they vanish with the caller's folder even after a crash.
    threads : int
        Size of every thread pool that listens to the environment.
    timeout_s : float
        Wall time, after which the group is killed.
    """
    env = {**os.environ, "TMPDIR": str(folder), **{pool: str(threads) for pool in THREAD_POOLS}}
    timed_out = threading.Event()
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
        )

        def kill() -> None:
            timed_out.set()
            _kill_group(child.pid)

        timer = threading.Timer(timeout_s, kill)
        try:
            timer.start()
            _, status = os.waitpid(child.pid, 0)
        except BaseException:
            _kill_group(child.pid)
            child.wait()
            raise
        finally:
            timer.cancel()
        child.returncode = os.waitstatus_to_exitcode(status)
        size = said.seek(0, os.SEEK_END)
        said.seek(max(0, size - TAIL_BYTES))
        last_words = " ".join(said.read().decode("utf-8", "replace").split())
    return Ended(child.returncode, timed_out.is_set(), last_words)


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
