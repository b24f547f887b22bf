"""``fairdeploy report``: what a build or a bundle found, for people and for machines."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from fairdeploy.cli.common import Common, print_json
from fairdeploy.errors import ConfigError, ExitCode
from fairdeploy.records import write_atomic
from fairdeploy.workflow import latest

Format = Literal["html", "markdown", "junit", "sarif", "model-card", "json", "github"]


def report(
    folder: Annotated[Path | None, Parameter(help="A build or a bundle; the project's latest build.")] = None,
    *,
    format: Annotated[Format, Parameter(help="What to write; github appends to the step's summary.")] = "html",
    out: Annotated[
        Path | None, Parameter(help="File to write; else html beside the records, others to stdout.")
    ] = None,
    common: Common | None = None,
) -> int:
    """Write the report of a build or of one bundle; every format shows the same records and computes nothing."""
    from fairdeploy.report.formats import FORMATS, write_summary
    from fairdeploy.report.source import load_source

    common = common or Common()
    source = load_source(folder or latest(common.folder), config=_from_here(common.folder / common.config))
    if format == "github":
        if out is not None:
            raise ConfigError("--out does not go with --format github, which knows its file: use --format markdown")
        return _said(write_summary(source), common)
    text = FORMATS[format](source)
    place = out or _page(folder or latest(common.folder), alone=source.build is None) if format == "html" else out
    if place is None:
        sys.stdout.write(text)
        return ExitCode.DONE
    if any((parent / "manifest.json").is_file() for parent in place.resolve().parents):
        raise ConfigError("a bundle is sealed, a file more would break its seal: give --out elsewhere", file=place)
    try:
        write_atomic(place, text.encode())
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", file=place) from error
    return _said(place, common)


def _from_here(file: Path) -> Path:
    """Return a file as seen from the current folder; one outside of it by its whole path."""
    whole, here = Path(os.path.abspath(file)), Path.cwd()
    return whole.relative_to(here) if whole.is_relative_to(here) else whole


def _page(folder: Path, *, alone: bool) -> Path:
    """Return where the page stands: in a build's folder, or beside that of a bundle, which is sealed."""
    return folder.with_name(f"{folder.resolve().name}.html") if alone else folder / "report.html"


def _said(file: Path, common: Common) -> int:
    if common.json:
        print_json("report", file=str(file))
    else:
        print(file)
    return ExitCode.DONE
