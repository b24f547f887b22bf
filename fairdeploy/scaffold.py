"""A new project from a shipped example: all of it or nothing, and nothing is ever overwritten.

Any folder under ``examples/`` with a ``fairdeploy.yaml`` is an example. A copy gets the folder's name, the targets that
were asked for, the schema of its configuration for editors, and on request a file for continuous integration.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from fairdeploy import CONFIG_NAME, __version__
from fairdeploy.errors import ConfigError
from fairdeploy.project import load_project
from fairdeploy.schemas import file_schema
from fairdeploy.target import ID_PATTERN, load_target, shipped
from fairdeploy.usercode import SKIPPED_FOLDERS
from fairdeploy.yamlfile import nearest

SCHEMA_NAME = "fairdeploy.schema.json"
CI_FILES = {"github": Path(".github/workflows/fairdeploy.yml"), "gitlab": Path(".gitlab-ci.yml")}
_IGNORED_BY_GIT = ".fairdeploy/\nbuild/\n__pycache__/\n"
_SHOWN = 5


def examples() -> dict[str, Path]:
    """Return the shipped examples' folders by name."""
    return {file.parent.name: file.parent for file in sorted(shipped("examples").glob(f"*/{CONFIG_NAME}"))}


def start(folder: Path, example: str, *, targets: Sequence[str] = (), ci: str | None = None) -> list[Path]:
    """Write a project into a new or empty folder, which gives it its name.

    Parameters
    ----------
    folder : Path
        May exist if it is empty, or holds nothing but ``.git``; folders above it are made.
    example : str
        One of `examples`.
    targets : sequence of str, optional
        Ids or aliases; the example's own by default.
    ci : {"github", "gitlab"}, optional
        Also write the file that builds and gates the project there.

    Returns
    -------
    list of Path
        The files written, relative to the folder.

    Raises
    ------
    ConfigError
        If there is no such example, target or CI (with the nearest name), the folder's name is no project name,
        something stands in the way or cannot be written; nothing is written then.
    """
    known = examples()
    if example not in known:
        raise ConfigError(f"no example '{example}'{nearest(example, known)}")
    if ci is not None and ci not in CI_FILES:
        raise ConfigError(f"no CI '{ci}'{nearest(ci, CI_FILES)}")
    ids = list(dict.fromkeys(load_target(name, known[example]).id for name in targets))
    try:
        folder = folder.resolve()
        home = _nearest_folder(folder)
        name = _project_name(folder)
        with tempfile.TemporaryDirectory(prefix=".fairdeploy-init-", dir=home) as stage:
            made = Path(stage, "new") / folder.relative_to(home)
            _fill(made, known[example], name, ids, ci)
            written = sorted(file.relative_to(made) for file in made.rglob("*") if file.is_file())
            _move_in(Path(stage, "new"), home)
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror or error}", file=folder) from error
    return written


def _nearest_folder(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists.

    Raises
    ------
    ConfigError
        If what exists is no folder, or the folder itself is not empty.
    """
    there = next(one for one in (folder, *folder.parents) if one.exists())
    if not there.is_dir():
        raise ConfigError("is a file, and a project needs a folder: give another name", file=there)
    in_the_way = sorted(one.name for one in there.iterdir() if one.name != ".git") if there == folder else []
    if in_the_way:
        more = f" and {len(in_the_way) - _SHOWN} more" if len(in_the_way) > _SHOWN else ""
        raise ConfigError(
            f"is not empty, and nothing is overwritten: {', '.join(in_the_way[:_SHOWN])}{more}; give a new folder",
            file=folder,
        )
    return there


def _project_name(folder: Path) -> str:
    if not re.fullmatch(ID_PATTERN, folder.name):
        idea = re.sub(r"[^a-z0-9]+", "-", folder.name.lower()).strip("-") or "my-project"
        raise ConfigError(
            f"the folder's name becomes the project's, and '{folder.name}' is none: small letters, digits and hyphens, "
            f"as in '{idea}'",
            file=folder,
        )
    return folder.name


def _fill(made: Path, example: Path, name: str, targets: Sequence[str], ci: str | None) -> None:
    for parent, folders, files in os.walk(example):
        folders[:] = [one for one in folders if one not in SKIPPED_FOLDERS and one[0] != "."]
        place = made / Path(parent).relative_to(example)
        place.mkdir(parents=True)
        for file in files:
            shutil.copyfile(Path(parent, file), place / file)
    config = made / CONFIG_NAME
    config.write_text(_configuration(config.read_text("utf-8"), name, targets), "utf-8")
    (made / SCHEMA_NAME).write_text(json.dumps(file_schema("project"), indent=1) + "\n", "utf-8")
    (made / ".gitignore").write_text(_IGNORED_BY_GIT)
    if ci is not None:
        place = made / CI_FILES[ci]
        place.parent.mkdir(parents=True, exist_ok=True)
        template = Path(__file__).parent / "ci" / f"{ci}.yml"
        place.write_text(template.read_text("utf-8").replace("@REQUIREMENT@", _requirement(made)), "utf-8")


def _configuration(text: str, name: str, targets: Sequence[str]) -> str:
    """Return an example's configuration under another name, for other targets if any are given, comments and all."""
    text = re.sub(r"^name:.*", f"name: {name}", text, count=1, flags=re.MULTILINE)
    if targets:
        listed = f"targets: [{', '.join(targets)}]\n"
        text = re.sub(r"^targets:.*\n?(?:[ -].*\n?)*", listed, text, count=1, flags=re.MULTILINE)
    return f"# yaml-language-server: $schema={SCHEMA_NAME}\n{text}"


def _requirement(folder: Path) -> str:
    """Return what pip installs for a project: this version with the extras of its network and its targets."""
    project, document = load_project(folder)
    try:
        known = set(metadata("fairdeploy").get_all("Provides-Extra") or ())
    except PackageNotFoundError:
        known = set()
    backends = {load_target(one.use, folder).runtime.backend for one in project.targets}
    extras = (backends & known) | ({"torch"} if "import" in document.data["model"] else set())
    return f"fairdeploy[{','.join(sorted(extras))}]=={__version__}"


def _move_in(made: Path, home: Path) -> None:
    """Move everything in `made` into `home`, or nothing."""
    moved: list[Path] = []
    try:
        for one in sorted(made.iterdir()):
            os.rename(one, home / one.name)
            moved.append(home / one.name)
    except BaseException:
        for place in moved:
            shutil.rmtree(place) if place.is_dir() else place.unlink()
        raise
