"""One child process with limits: how all native code runs. A hang is killed with its whole process group."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

TAIL_BYTES = 2000


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
    peak_memory_mb : float
        Largest resident set, in MiB.
    """

    returncode: int
    timed_out: bool
    last_words: str
    peak_memory_mb: float

    def describe(self) -> str:
        """Say in words how it ended."""
        if self.timed_out:
            how = "did not end in time and was killed"
        elif self.returncode < 0:
            how = f"was killed by {signal.Signals(-self.returncode).name}"
        else:
            how = f"ended with code {self.returncode}"
        return f"{how}; its last words: {self.last_words or '(none)'}"


def run_limited(command: Sequence[str], *, env: Mapping[str, str], timeout_s: float) -> Ended:
    """Run a command without stdin, in a process group of its own, and wait for it.

    Whatever interrupts the wait (Ctrl-C included) kills the group first.
    """
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            command, env=dict(env), stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
        )
        timed_out = threading.Event()

        def kill() -> None:
            timed_out.set()
            os.killpg(child.pid, signal.SIGKILL)

        timer = threading.Timer(timeout_s, kill)
        timer.start()
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            raise
        finally:
            timer.cancel()
        child.returncode = os.waitstatus_to_exitcode(status)
        size = said.seek(0, os.SEEK_END)
        said.seek(max(0, size - TAIL_BYTES))
        last_words = " ".join(said.read().decode("utf-8", "replace").split())
    return Ended(child.returncode, timed_out.is_set(), last_words, usage.ru_maxrss / 1024)


def pinned_threads(threads: int) -> dict[str, str]:
    """Return this process's environment with every thread pool limited."""
    pools = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
    return {**os.environ, **{pool: str(threads) for pool in pools}}
