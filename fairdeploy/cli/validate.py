"""``fairdeploy validate``: the project and its targets, every error with line and column."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from fairdeploy import yamlfile
from fairdeploy.cli.common import Common, print_json
from fairdeploy.data import check_source
from fairdeploy.errors import ConfigError, ExitCode, MissingExtra
from fairdeploy.gates import gates_of
from fairdeploy.project import Project, resolve_targets
from fairdeploy.target import Target, resolve_target


def validate(
    files: Annotated[tuple[Path, ...], Parameter(help="Target files or projects; the project by default.")] = (),
    *,
    output_format: Annotated[Literal["text", "github"], Parameter(help="How errors are printed.")] = "text",
    common: Common | None = None,
) -> int:
    """Check configuration files, and that data files and their columns are there; no model or runtime is loaded."""
    common = common or Common()
    found: list[ConfigError] = []
    for file in files or (common.folder / common.config,):
        found += _problems(file)
    if common.json:
        print_json("validate", errors=[_plain(error) for error in found])
    for error in [] if common.json else found:
        if output_format == "github":
            print(f"::error file={error.file},line={error.line or 1},col={error.column or 1}::{error.message}")
        else:
            print(error)
    if not found and not common.json:
        print("valid")
    return ExitCode.USAGE if found else ExitCode.DONE


def _problems(file: Path) -> list[ConfigError]:
    try:
        document = yamlfile.read(file)
        if "hardware" in document.data or "extends" in document.data:
            if "extends" in document.data:
                document = resolve_target(file.stem, file.resolve().parent.parent)
            return yamlfile.problems(Target, document)
        found = yamlfile.problems(Project, document)
        if not found:
            project = yamlfile.validate(Project, document)
            for used in resolve_targets(project, document, file.parent):
                gates_of(used, project.task)
            with suppress(MissingExtra):  # what reads the data may be on another machine
                check_source(project, document, file.parent)
        return found
    except ConfigError as error:
        return [error]


def _plain(error: ConfigError) -> dict[str, str | int | None]:
    return {"message": error.message, "file": str(error.file), "line": error.line, "column": error.column}
