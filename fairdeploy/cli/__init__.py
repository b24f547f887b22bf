"""The command line: thin commands, loaded by name; the only place where errors become exit codes."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import cyclopts

from fairdeploy import __version__
from fairdeploy.cli.common import complain, devices, stdout
from fairdeploy.errors import ExitCode, FairdeployError

if TYPE_CHECKING:
    from fairdeploy.devices.base import Device

EPILOGUE = """Exit codes: 0 done, every gate passed or is waived; 1 a gate failed; 2 usage or configuration;
3 nothing could be judged; 4 inconclusive; 5 a digest is bad; 130 interrupted."""

app = cyclopts.App(
    name="fairdeploy",
    version=__version__,
    config=cyclopts.config.Env("FAIRDEPLOY_", command=False),
    help="Prune a network fairly, ship it to edge devices, and prove per group of people what every step changed.",
    help_epilogue=EPILOGUE,
    suppress_keyboard_interrupt=False,
)
for name, place, what in (
    ("init", "init:init", "A new project from an example."),
    ("build", "build:build", "Everything: prune to sealed bundle and report, per target."),
    ("prune", "prune:prune", "Candidates alone: fair teacher, pruning, compaction, fine-tuning."),
    ("compact", "compact:compact", "A network without the channels that carry nothing, and the proof."),
    ("plan", "plan:plan", "What a build would run, and the rows that each gate needs."),
    ("validate", "validate:validate", "Check the configuration, line and column."),
    ("doctor", "doctor:doctor", "What this machine can do with each backend and target."),
    ("verify", "verify:verify", "Judge an artifact that exists already."),
    ("judge", "judge:judge", "Evidence and gates for predictions that were made elsewhere."),
    ("gate", "gate:gate", "Gate a finished build again with today's gates."),
    ("explain", "explain:explain", "The rows behind a failed or undecided cell, and where they flipped."),
    ("compare", "compare:compare", "Show bundles side by side."),
    ("report", "report:report", "Write the report of a build or a bundle: HTML, Markdown, JUnit, SARIF and more."),
    ("schema", "schema:schema", "Print the JSON Schema of a file, for editors and other tools."),
    ("completion", "completion:completion", "Print the script that completes commands in a shell."),
    ("version", "doctor:version", "Print the version."),
):
    app.command(f"fairdeploy.cli.{place}", name=name, help=what)
targets = cyclopts.App(name="targets", help="The catalogue of targets.")
for name, what in (
    ("ls", "The known targets; a project's own come before the shipped ones."),
    ("show", "One target: every value and where it comes from."),
):
    targets.command(f"fairdeploy.cli.targets:{name}", name=name, help=what)
app.command(targets)
cache = cyclopts.App(name="cache", help="The store of what was built: list, check, clean up.")
for name, what in (
    ("ls", "What the store holds, by station: how many results, how large, how old."),
    ("verify", "Read every result again, and name those that are not as they were written."),
    ("prune", "Remove results by age, or those that no build refers to; with both, what meets both."),
):
    cache.command(f"fairdeploy.cli.cache:{name}", name=name, help=what)
app.command(cache)


def main(argv: Sequence[str] | None = None, *, with_devices: Mapping[str, Device] | None = None) -> int:
    """Run the command line and return its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; those of the process by default.
    with_devices : mapping of str to Device, optional
        Devices by target id in the place of this host, as `fairdeploy.testing.FakeDevice`.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    code = ExitCode.NOTHING_JUDGED
    with devices(with_devices or {}):
        try:
            code = app(
                arguments, console=stdout(), exit_on_error=False, print_error=False, result_action="return_value"
            )
            code = code or ExitCode.DONE
            sys.stdout.flush()
        except cyclopts.CycloptsError as error:
            complain(str(error))
            return ExitCode.USAGE
        except FairdeployError as error:
            complain(str(error))
            return error.exit_code
        except KeyboardInterrupt:
            complain("interrupted; finished stations are kept")
            return ExitCode.INTERRUPTED
        except BrokenPipeError:  # whoever read stdout has gone; the verdict's code stands
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except OSError as error:
            complain(f"{error.filename or 'this machine'}: {error.strerror or error}; nothing was judged")
            return ExitCode.NOTHING_JUDGED
        except (Exception, SystemExit) as error:
            complain(f"unexpected {type(error).__name__}: {error}\n{_where(error)}; nothing was judged")
            return ExitCode.NOTHING_JUDGED
    return int(code)


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return "\n".join(f"  at {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames[-3:])


def run() -> None:
    """Entry point of the ``fairdeploy`` script."""
    sys.exit(main())
