"""``fairdeploy init``: a new project from an example."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from fairdeploy.cli.common import Targets, print_json
from fairdeploy.errors import ConfigError, ExitCode


def init(
    folder: Annotated[Path, Parameter(help="A new or empty folder; its name becomes the project's.")] = Path("."),
    *,
    example: Annotated[str | None, Parameter(help="The example to start from, as adult or kiosk.")] = None,
    target: Targets = (),
    ci: Annotated[str | None, Parameter(help="Also write the file that gates it there: github or gitlab.")] = None,
    json: Annotated[bool, Parameter(negative="", help="Print one JSON document.")] = False,
) -> int:
    """Write a new project from an example: data, network, configuration, and what runs it in CI.

    Nothing is overwritten. The project validates and builds as it is; its targets are the example's own unless given.
    """
    from fairdeploy.scaffold import examples, start

    if example is None:
        raise ConfigError(f"give the example to start from: --example {' or --example '.join(examples())}")
    written = start(folder, example, targets=target, ci=ci)
    there = "" if folder == Path(".") else f" -C {shlex.quote(str(folder))}"
    further = [f"fairdeploy doctor{there}", f"fairdeploy build{there}"]
    if json:
        files = [file.as_posix() for file in written]
        print_json("init", folder=str(folder), example=example, files=files, next=further)
        return ExitCode.DONE
    print(f"{folder.resolve().name}: {len(written)} files in {folder}, from the example {example}")
    print("next:", *further, sep="\n  ")
    return ExitCode.DONE
