"""The user's own code: loaded by import string, called with errors that point at its line, digested.

Only the stages from plan to run come here.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from fairdeploy.errors import ConfigError, FairdeployError
from fairdeploy.records import file_digest
from fairdeploy.yamlfile import nearest

SHOWN_FRAMES = 10
_PROJECTS: set[Path] = set()  # folders that were put on sys.path, of which one project sees only its own
SKIPPED_FOLDERS = frozenset({"build", "dist", "node_modules", "__pycache__"})


def load_object(name: str, folder: Path) -> Any:
    """Import ``package.module:attribute`` with the project's folder first on ``sys.path``.

    Raises
    ------
    ConfigError
        If the module or attribute does not exist, another module of that name is in the way, or the user's code
        raises; then with the file and line of the user's innermost frame.
    """
    module_name, _, attribute = name.partition(":")
    folder = folder.resolve()
    _put_first(folder)
    _forget_other_projects(module_name.partition(".")[0], folder)
    try:
        with user_errors(f"importing '{module_name}'"):
            module = importlib.import_module(module_name)
    except ConfigError as error:
        cause = error.__cause__
        if isinstance(cause, ModuleNotFoundError) and _is_part_of(module_name, cause.name):
            message = f"no module '{cause.name}' for '{name}' in {folder}"
            if (found := _place(sys.modules.get(module_name.partition(".")[0]))) is not None:
                message += f"; '{module_name.partition('.')[0]}' is {found}"
            raise ConfigError(message) from None
        raise
    if not hasattr(module, attribute):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ConfigError(f"'{module_name}' ({_place(module)}) has no '{attribute}'{nearest(attribute, known)}")
    return getattr(module, attribute)


def call(function: Callable[..., Any], arguments: Mapping[str, Any], *, name: str) -> Any:
    """Call the user's function with keyword arguments.

    Raises
    ------
    ConfigError
        If it does not take these arguments, or raises.
    """
    with user_errors(f"calling {name}"):
        signature = inspect.signature(function)
        try:
            signature.bind(**arguments)
        except TypeError as error:
            for unknown in arguments.keys() - signature.parameters.keys():
                raise ConfigError(
                    f"{name} has no argument '{unknown}'{nearest(unknown, signature.parameters)}"
                ) from None
            raise ConfigError(f"{name}: {error}") from None
        return function(**arguments)


@contextmanager
def user_errors(doing: str) -> Iterator[None]:
    """Turn what the user's code raises into a `ConfigError` at the user's line; our own errors pass.

    What the user's code prints goes to stderr: stdout is for results.
    """
    try:
        with redirect_stdout(sys.stderr):
            yield
    except FairdeployError:
        raise
    except (Exception, SystemExit) as error:
        file, line = _user_line(error)
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise ConfigError(f"{doing} failed: {reason}{_shown(error)}", file=file, line=line) from error


def code_digest(folder: Path, files: tuple[Path, ...] = ()) -> str:
    """Return the SHA-256 over a project's Python files and its declared data files, as 64 hexadecimal digits.

    Virtual environments, hidden folders, ``build`` and the like are left out. Names and bytes count, times do not.

    Raises
    ------
    ConfigError
        If a declared file is missing.
    """
    named = {path.relative_to(folder).as_posix(): path for path in _python_files(folder)}
    for file in files:
        if not (folder / file).is_file():
            raise ConfigError(f"data.files names '{file}', which is not a file", file=folder / file)
        named[file.as_posix()] = folder / file
    total = hashlib.sha256()
    for name in sorted(named):
        total.update(f"{file_digest(named[name])} {name}\n".encode())
    return total.hexdigest()


def _python_files(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [
            one
            for one in folders
            if one not in SKIPPED_FOLDERS and one[0] != "." and not Path(parent, one, "pyvenv.cfg").exists()
        ]
        yield from (Path(parent, file) for file in files if file.endswith(".py"))


def _put_first(folder: Path) -> None:
    _PROJECTS.add(folder)
    sys.path[:] = [str(folder), *(entry for entry in sys.path if Path(entry) not in _PROJECTS)]
    importlib.invalidate_caches()


def _forget_other_projects(top: str, folder: Path) -> None:
    """Drop a package that was imported from another project's folder under the same name."""
    place = _place(sys.modules.get(top))
    foreign = place is not None and any(place.is_relative_to(other) for other in _PROJECTS - {folder})
    if not foreign and not (folder / top).is_dir() and not (folder / f"{top}.py").is_file():
        return
    if top not in sys.modules or (place is not None and place.is_relative_to(folder)):
        return
    if place is None or _is_installed(place):
        raise ConfigError(f"'{top}' in {folder} is hidden by {place or 'a built-in module'}: rename it")
    for name in [name for name in sys.modules if _is_part_of(name, top)]:
        del sys.modules[name]


def _is_part_of(name: str, package: str | None) -> bool:
    return package is not None and f"{name}.".startswith(f"{package}.")


def _place(module: Any) -> Path | None:
    """Return where a module's file lies; a package without ``__init__.py`` has its folder."""
    file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    return Path(file).resolve() if file else None


def _is_installed(file: Path) -> bool:
    roots = {Path(sysconfig.get_path(key)).resolve() for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    ours = Path(__file__).resolve().parent
    return file.is_relative_to(ours) or any(file.is_relative_to(root) for root in roots)


def _shown(error: BaseException) -> str:
    """Return the traceback from the user's first line on, without ours; of many frames the first and the last."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [at for at, frame in enumerate(frames) if _is_users(frame.filename)]
    if not own:
        return ""
    lines = traceback.format_list(frames[own[0] :])
    left_out = [f"  ... {len(lines) - SHOWN_FRAMES} more\n"] if len(lines) > SHOWN_FRAMES else []
    lines = [*lines[: SHOWN_FRAMES // 2], *left_out, *lines[-SHOWN_FRAMES // 2 :]] if left_out else lines
    return "\n" + "".join(lines).rstrip()


def _is_users(filename: str) -> bool:
    return not filename.startswith("<") and not _is_installed(Path(filename).resolve())


def _user_line(error: BaseException) -> tuple[Path | None, int | None]:
    """Return the innermost line that belongs to neither us, Python nor an installed package."""
    if isinstance(error, SyntaxError) and error.filename:
        return Path(error.filename), error.lineno
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if _is_users(frame.filename):
            return Path(frame.filename), frame.lineno
    return None, None
