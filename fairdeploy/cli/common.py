"""What every command shares: flags, consoles, progress, and the devices given from Python."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from fairdeploy import CONFIG_NAME
from fairdeploy.errors import ExitCode

if TYPE_CHECKING:
    from fairdeploy.devices.base import Device
    from fairdeploy.gates import Verdict
    from fairdeploy.store import Kept

_devices: ContextVar[Mapping[str, Device]] = ContextVar("devices")


@Parameter(name="*")
@dataclass(frozen=True)
class Common:
    """Flags of every command.

    Attributes
    ----------
    folder : Path
        The project's folder.
    config : str
        Name of the configuration file in it.
    json : bool
        Print one JSON document with a schema version to stdout.
    quiet, verbose : bool
        Print less or more to stderr.
    """

    folder: Annotated[Path, Parameter(name=["--directory", "-C"], help="The project's folder.")] = Path(".")
    config: Annotated[str, Parameter(name=["--config", "-c"], help="Configuration file in it.")] = CONFIG_NAME
    json: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON document.")] = False
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative="", help="No progress.")] = False
    verbose: Annotated[bool, Parameter(name=["--verbose", "-v"], negative="", help="Also what was kept.")] = False

    @property
    def config_flag(self) -> str:
        """What names the configuration to a further command in the project's folder; empty for the usual name."""
        return "" if self.config == CONFIG_NAME else f"-c {shlex.quote(self.config)}"

    @property
    def flags(self) -> str:
        """What names the project to a further command from here."""
        there = "" if self.folder == Path(".") else f"-C {shlex.quote(str(self.folder))}"
        return " ".join(filter(None, (there, self.config_flag)))


Targets = Annotated[
    tuple[str, ...],
    Parameter(name=["--target", "-t"], negative="", help="A target's id or alias; may be given several times."),
]


BuildFolder = Annotated[Path | None, Parameter(help="A build's folder; the project's latest by default.")]
MEANING = {
    ExitCode.DONE: "every gate holds or is waived",
    ExitCode.FAILED: "a gate failed",
    ExitCode.INCONCLUSIVE: "not enough evidence for at least one target",
}


def target_names(common: Common) -> dict[str, str]:
    """Return the targets that the project here uses, if there is one: its own id to the name of the file."""
    from fairdeploy.project import load_project
    from fairdeploy.target import ALIASES

    if not (common.folder / common.config).is_file():
        return {}
    project, _ = load_project(common.folder, common.config)
    return {use.id or ALIASES.get(use.use, use.use): use.use for use in project.targets}


class _Results(Console):
    """A console on stdout; when whoever read it has gone, the rest goes nowhere and the verdict's code stands."""

    def on_broken_pipe(self) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def stdout() -> Console:
    """Return the console for results."""
    return _Results(highlight=False)


def stderr() -> Console:
    """Return the console for progress and complaints."""
    return Console(stderr=True, highlight=False)


def complain(message: str) -> None:
    """Print an error to stderr, as it is."""
    stderr().print(Text.assemble(("error: ", "bold"), message), soft_wrap=True)


def print_json(command: str, **content: Any) -> None:
    """Print a command's result as one JSON document."""
    document = {"schema_version": 1, "command": command, **content}
    print(json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False))


def print_result(
    command: str,
    verdicts: list[Verdict],
    common: Common,
    *,
    details: Callable[[Console], None] = lambda console: None,
    **more: object,
) -> int:
    """Print verdicts and return their exit code: as text with `details`, or as one JSON document with `more`."""
    from fairdeploy.gates import worst_exit

    code = worst_exit([verdict.status for verdict in verdicts])
    if common.json:
        plain = [verdict.model_dump(mode="json") for verdict in verdicts]
        print_json(command, exit_code=int(code), verdicts=plain, **more)
        return code
    from fairdeploy.report.terminal import print_verdict

    for verdict in verdicts:
        print_verdict(verdict, stdout())
    details(stdout())
    stdout().print(Text(f"exit code {int(code)}: {MEANING[code]}"))
    return code


@contextmanager
def devices(given: Mapping[str, Device]) -> Iterator[None]:
    """Make devices known to the commands that run inside."""
    token = _devices.set(given)
    try:
        yield
    finally:
        _devices.reset(token)


def given_devices() -> Mapping[str, Device]:
    """Return the devices that `devices` made known."""
    return _devices.get({})


class Progress:
    """One line per station on stderr; within a long station a count, on a terminal only."""

    def __init__(self, common: Common) -> None:
        self.common, self.console, self.label = common, stderr(), ""
        self._began = 0.0

    def start(self, label: str) -> None:
        """Say that a station starts."""
        self.label, self._began = label, time.monotonic()
        if self.console.is_terminal and not self.common.quiet:
            self.console.print(Text(f"  {label} ..."), end="\r")

    def done(self, kept: Kept) -> None:
        """Say that a station's result is there."""
        if self.common.quiet or (kept.cached and not self.common.verbose):
            return
        how = "from the store" if kept.cached else f"{kept.seconds:.1f} s"
        self._clear()
        self.console.print(Text(f"  {kept.label}: {how}"), soft_wrap=True)

    def count(self, done: int, total: int, said: str) -> None:
        """Show how far a station is, how long it still takes, and how its constraints stand."""
        if self.console.is_terminal and not self.common.quiet:
            left_s = (time.monotonic() - self._began) * (total - done) / max(1, done)
            text = f"  {self.label} ... {done}/{total}, {left_s:.0f} s left" + (f"; {said}" if said else "")
            self._clear()
            self.console.print(Text(text), end="\r", overflow="ellipsis", no_wrap=True)

    def _clear(self) -> None:
        if self.console.is_terminal:
            sys.stderr.write("\x1b[2K\r")
