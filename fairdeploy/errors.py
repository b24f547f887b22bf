"""Every error that fairdeploy raises on purpose.

::

    FairdeployError
    ├── ConfigError              a file, key, flag or row is wrong: the user mends it            exit 2
    │   └── DataError            the data set: ids, labels, groups, overlap                       exit 2
    ├── MissingExtra             an optional library is not installed; names the extra            exit 2
    ├── StageError               a stage before the targets failed, so nothing can be judged      exit 3
    │   ├── CompactionError      the compacted network's outputs differ, or surgery is impossible
    │   └── ExportError          the exported graph differs from PyTorch, or breaks a promise
    ├── TargetError              one target cannot be judged; the others go on                    exit 4
    │   ├── BackendUnavailable   its runtime or compiler is not installed here
    │   ├── BackendError         its compiler or runtime refused, crashed, hung or gave NaN
    │   └── PrecisionError       realised precision is not the requested one
    └── IntegrityError           a digest or signature is bad                                     exit 5

Only ``fairdeploy.cli`` turns an error into an exit code, through ``exit_code``.
"""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path


class ExitCode(IntEnum):
    """What the process says when it ends; of several targets the worst counts: 5, 3, 1, 4, 0."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOTHING_JUDGED = 3
    INCONCLUSIVE = 4
    INTEGRITY = 5
    INTERRUPTED = 130


class FairdeployError(Exception):
    """Root of all errors: one clear message saying what was wrong, where, and how to mend it."""

    exit_code = ExitCode.USAGE


class ConfigError(FairdeployError):
    """A file, key, flag or row that the user can mend.

    Parameters
    ----------
    message : str
        What is wrong and how to mend it.
    file : Path, optional
        The file it stands in.
    line, column : int, optional
        1-based position in the file.
    """

    def __init__(
        self, message: str, *, file: Path | None = None, line: int | None = None, column: int | None = None
    ) -> None:
        self.message, self.file, self.line, self.column = message, file, line, column
        place = ":".join(str(part) for part in (file, line, column) if part is not None)
        super().__init__(f"{place}: {message}" if place else message)


class DataError(ConfigError):
    """The data set cannot be used: ids, labels, groups, shapes or overlapping splits."""


class MissingExtra(FairdeployError):
    """An optional library is needed.

    Parameters
    ----------
    what : str
        What needs it, as in "exporting a PyTorch model".
    extra : str
        The extra that brings it.
    """

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the extra '{extra}': pip install 'fairdeploy[{extra}]'")


class StageError(FairdeployError):
    """A stage before the targets failed, so nothing could be judged."""

    exit_code = ExitCode.NOTHING_JUDGED


class CompactionError(StageError):
    """Channels cannot be removed without changing the outputs."""


class ExportError(StageError):
    """The exported graph differs from PyTorch or breaks a promise (opset, IR version, shapes)."""


class TargetError(FairdeployError):
    """One target cannot be judged; it becomes inconclusive and the others go on."""

    exit_code = ExitCode.INCONCLUSIVE


class BackendUnavailable(TargetError):
    """A backend's runtime or compiler is not installed on this machine.

    Parameters
    ----------
    backend : str
        Name of the backend.
    reason : str
        What is missing, and the command that mends it.
    """

    def __init__(self, backend: str, reason: str) -> None:
        super().__init__(f"backend '{backend}' cannot run here: {reason}")


class BackendError(TargetError):
    """A compiler or runtime refused, crashed, hung or gave NaN; carries its last words."""


class PrecisionError(TargetError):
    """The precision that a runtime really used is not the one that was asked for."""


class IntegrityError(FairdeployError):
    """A digest or signature does not match."""

    exit_code = ExitCode.INTEGRITY
