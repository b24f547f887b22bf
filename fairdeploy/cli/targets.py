"""``fairdeploy targets``: which targets are known, and where each value of one comes from."""

from __future__ import annotations

from typing import Any

from rich.table import Column, Table
from rich.text import Text

from fairdeploy import yamlfile
from fairdeploy.cli.common import Common, print_json, stdout, target_names
from fairdeploy.errors import ExitCode
from fairdeploy.target import ALIASES, Target, catalogue, load_target, resolve_target


def ls(*, common: Common | None = None) -> int:
    """List the known targets; a project's own ``targets/`` come before the shipped ones."""
    common = common or Common()
    targets = [load_target(name, common.folder) for name in catalogue(common.folder)]
    if common.json:
        print_json("targets ls", targets=[target.model_dump(mode="json") for target in targets], aliases=ALIASES)
        return ExitCode.DONE
    table = Table("target", "backend", "precision", "what it is", box=None)
    for target in targets:
        aliases = "".join(f" ({alias})" for alias, name in ALIASES.items() if name == target.id)
        row = (target.id + aliases, target.runtime.backend, target.build.precision, target.description)
        table.add_row(*map(Text, row))
    stdout().print(table)
    return ExitCode.DONE


def show(name: str, *, common: Common | None = None) -> int:
    """Show one target: every value and where it comes from.

    Parameters
    ----------
    name
        Its id or alias, or the id that the project here gives it.
    """
    common = common or Common()
    document = resolve_target(target_names(common).get(name, name), common.folder)
    target = yamlfile.validate(Target, document)
    rows = [
        (".".join(map(str, path)), value, str(document.origins.get(path, "default")))
        for path, value in _leaves(target.model_dump(mode="json"), ())
        if value is not None
    ]
    if common.json:
        values = [{"key": key, "value": value, "origin": origin} for key, value, origin in rows]
        print_json("targets show", target=target.id, values=values)
        return ExitCode.DONE
    table = Table(*(Column(name, overflow="fold") for name in ("key", "value", "origin")), box=None)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    stdout().print(table)
    return ExitCode.DONE


def _leaves(value: Any, path: tuple[str | int, ...]) -> list[tuple[tuple[str | int, ...], Any]]:
    if isinstance(value, dict) and value:
        return [leaf for key, below in value.items() for leaf in _leaves(below, (*path, key))]
    return [(path, value)]
