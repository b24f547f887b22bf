"""`run_child`: one Python function in a child process with limits, for compilers, quantisers and linters."""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from fairdeploy import errors
from fairdeploy.devices.process import run_limited
from fairdeploy.devices.runner import limit_process
from fairdeploy.errors import BackendError, FairdeployError


def run_child(function: str, arguments: dict[str, Any], *, timeout_s: float = 600, memory_mb: int = 8192) -> Any:
    """Call a function in a child process.

    Parameters
    ----------
    function : str
        As in ``"package.module:function"``.
    arguments : dict
        Keyword arguments as JSON; large arrays go through files.
    timeout_s : float
        Wall and CPU time.
    memory_mb : int
        Address space.

    Returns
    -------
    object
        What the function returned, through JSON.

    Raises
    ------
    FairdeployError
        The function's own error, of the same class with the same message.
    BackendError
        If the child raised anything else, crashed or did not end in time; with its last words.
    """
    with tempfile.TemporaryDirectory(prefix="fairdeploy-child-") as name:
        folder = Path(name)
        call = {"function": function, "arguments": arguments, "cpu_s": int(timeout_s) + 1, "memory_mb": memory_mb}
        (folder / "call.json").write_text(json.dumps(call))
        command = [sys.executable, "-m", "fairdeploy.devices.child", name]
        ended = run_limited(command, folder, threads=1, timeout_s=timeout_s)
        try:
            answer = json.loads((folder / "answer.json").read_text("utf-8"))
        except (OSError, ValueError):
            raise BackendError(f"{function} {ended.describe()}") from None
    if "error" in answer:
        raise _revive(function, answer["error"], answer["message"])
    return answer["value"]


def _revive(function: str, name: str, message: str) -> FairdeployError:
    kind = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, FairdeployError)):
        return BackendError(f"{function} failed: {name}: {message}")
    # Not through __init__: several classes build their message there, and this one is already built.
    error = kind.__new__(kind, message)
    error.args = (message,)
    return error


def _serve(folder: Path) -> None:
    call = json.loads((folder / "call.json").read_text("utf-8"))
    limit_process(call)
    module, name = call["function"].split(":")
    try:
        answer = {"value": getattr(importlib.import_module(module), name)(**call["arguments"])}
    except Exception as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    (folder / "answer.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
