"""YAML files in, validated records out, and every error with file, line and column.

Refused before anything is built: duplicate keys, anchors and aliases (236 bytes of them grow to 28 MB), merge
keys, tags, directives, several documents, nesting deeper than 50, files over 1 MB.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    NodeEvent,
    ScalarEvent,
)

from fairdeploy.errors import ConfigError

MAX_BYTES = 1_000_000
MAX_DEPTH = 50
KeyPath = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Origin:
    """Where a value stands: file, 1-based line and column."""

    file: Path
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Document:
    """Plain data of a YAML file, and the origin of every key and item in it."""

    file: Path
    data: dict[str, Any]
    origins: dict[KeyPath, Origin]

    def origin(self, path: KeyPath) -> Origin:
        """Return where a key stands, or the nearest key above it."""
        while path and path not in self.origins:
            path = path[:-1]
        return self.origins.get(path, Origin(self.file, 1, 1))

    def error(self, message: str, path: KeyPath = ()) -> ConfigError:
        """Make an error that points at a key."""
        place = self.origin(path)
        return ConfigError(message, file=place.file, line=place.line, column=place.column)


def read(file: Path) -> Document:
    """Read one YAML mapping.

    Raises
    ------
    ConfigError
        If the file is missing, too large, not YAML, not a mapping, or uses what is refused above.
    """
    try:
        size = file.stat().st_size
        text = file.read_text("utf-8") if size <= MAX_BYTES else ""
    except FileNotFoundError:
        raise ConfigError("no such file", file=file) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", file=file) from None
    if size > MAX_BYTES:
        raise ConfigError(f"{size} bytes; a configuration has at most {MAX_BYTES}", file=file)
    try:
        _refuse_the_unusual(text, file)
        tree = YAML(typ="rt", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (None, None)
        problem = " ".join(str(error.problem or error.context).split())
        raise ConfigError(f"not valid YAML: {problem}", file=file, line=line, column=column) from None
    except (YAMLError, ValueError) as error:  # ValueError: a date such as 2026-02-30
        raise ConfigError(f"not valid YAML: {str(error).splitlines()[0]}", file=file) from None
    if not isinstance(tree, CommentedMap):
        raise ConfigError("expected 'key: value' lines at the top", file=file, line=1, column=1)
    origins: dict[KeyPath, Origin] = {}
    data = _plain(tree, (), file, origins)
    return Document(file, data, origins)


def _refuse_the_unusual(text: str, file: Path) -> None:
    depth = documents = 0
    for event in YAML(typ="rt", pure=True).parse(text):
        refused = None
        if isinstance(event, AliasEvent):
            refused = f"alias '*{event.anchor}'"
        elif isinstance(event, DocumentStartEvent):
            documents += 1
            if event.version or event.tags:
                refused = "a % directive"
            elif documents > 1:
                refused = "a second document"
        elif isinstance(event, NodeEvent) and event.anchor:
            refused = f"anchor '&{event.anchor}'"
        elif isinstance(event, ScalarEvent) and event.value == "<<" and event.implicit[0]:
            refused = "merge key '<<'"
        elif isinstance(event, (ScalarEvent, CollectionStartEvent)) and event.tag:
            refused = f"tag '{event.tag}'"
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > MAX_DEPTH:
            refused = f"nesting deeper than {MAX_DEPTH}"
        if refused:
            mark = event.start_mark
            raise ConfigError(
                f"{refused} is not allowed here: write plain values",
                file=file,
                line=mark.line + 1,
                column=mark.column + 1,
            )


def _plain(node: Any, path: KeyPath, file: Path, origins: dict[KeyPath, Origin]) -> Any:
    if isinstance(node, CommentedMap):
        plain = {}
        for key, value in node.items():
            line, column = node.lc.key(key)
            if not isinstance(key, str):
                raise ConfigError(f"key {key!r} is not text: quote it", file=file, line=line + 1, column=column + 1)
            origins[(*path, key)] = Origin(file, line + 1, column + 1)
            plain[key] = _plain(value, (*path, key), file, origins)
        return plain
    if isinstance(node, CommentedSeq):
        items = []
        for index, value in enumerate(node):
            line, column = node.lc.item(index)
            origins[(*path, index)] = Origin(file, line + 1, column + 1)
            items.append(_plain(value, (*path, index), file, origins))
        return items
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node.isoformat() if isinstance(node, date) else node


def overlay(base: Document, over: Document) -> Document:
    """Merge `over` into `base`: mappings merge, anything else replaces; each value keeps its own origin."""
    origins = dict(base.origins)

    def merge(low: Any, high: Any, path: KeyPath) -> Any:
        if isinstance(low, dict) and isinstance(high, dict):
            return low | {key: merge(low.get(key), value, (*path, key)) for key, value in high.items()}
        for known in [known for known in origins if known[: len(path)] == path]:
            del origins[known]
        return high

    data = merge(base.data, over.data, ())
    return Document(over.file, data, origins | over.origins)


def validate(model: type[M], document: Document) -> M:
    """Validate a document.

    Raises
    ------
    ConfigError
        For the first of the errors found, with its line and column, and how many more there are.
    """
    errors = problems(model, document)
    if errors:
        raise errors[0]
    return model.model_validate(document.data)


def problems(model: type[BaseModel], document: Document) -> list[ConfigError]:
    """Return every validation error of a document, in the order of its lines."""
    try:
        model.model_validate(document.data)
    except ValidationError as error:
        details = error.errors(include_url=False)
        echoes = [one for one in details if one["type"] == "too_short" and one["input"]]  # its items are in error
        found = [_explain(model, document, one) for one in details if one not in echoes]
        unique = {str(one): one for one in found}
        return sorted(unique.values(), key=lambda one: (one.line or 0, one.column or 0))
    return []


def _explain(model: type[BaseModel], document: Document, detail: Any) -> ConfigError:
    path = _real_path(document.data, detail["loc"])
    where = ".".join(str(part) for part in path) or "the file"
    kind, value = detail["type"], detail.get("input")
    if kind == "extra_forbidden":
        return document.error(
            f"unknown key '{where}'{nearest(str(path[-1]), _keys_at(model, document.data, path[:-1]))}", path
        )
    if kind == "missing":
        missing = detail["loc"][-1]
        return document.error(
            f"'{where}' lacks the key '{missing}'" if path else f"the key '{missing}' is missing", path
        )
    if kind == "string_type" and isinstance(value, (int, float)):
        return document.error(f"'{where}' must be text: quote it, as in \"{value}\"", path)
    if kind == "literal_error":
        known = detail["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        return document.error(f"'{where}' is {value!r}{nearest(str(value), known)}", path)
    if kind == "string_pattern_mismatch":
        is_import = path[-1:] == ("import",)
        form = "'package.module:name'" if is_import else "small letters, digits and hyphens, as in 'door-cam'"
        return document.error(f"'{where}' is {value!r}: write {form}", path)
    if kind == "too_short":
        return document.error(f"'{where}' is empty", path)
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return document.error(f"'{where}': {message}", path)


def _real_path(data: Any, loc: tuple[str | int, ...]) -> KeyPath:
    """Drop the union tags that pydantic puts into error paths and that are not in the file."""
    path: list[str | int] = []
    for part in loc:
        known = data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
        if part in known:
            data = data[part]
            path.append(part)
    return tuple(path)


def _keys_at(model: type[BaseModel], data: Any, path: KeyPath) -> list[str]:
    """Return the keys that the schema knows at a path; of alternatives only those of the one that the data chose."""
    schema: Any = model.model_json_schema()
    root = schema

    def resolve(node: Any) -> list[Any]:
        if "$ref" in node:
            return resolve(root["$defs"][node["$ref"].rsplit("/", 1)[1]])
        return [leaf for option in node.get("anyOf", node.get("oneOf", [])) for leaf in resolve(option)] or [node]

    nodes = resolve(schema)
    for part in path:
        data = data[part]
        below = []
        for node in nodes:
            if isinstance(part, int):
                below += resolve(node["items"]) if "items" in node else []
            elif part in node.get("properties", {}):
                below += resolve(node["properties"][part])
            elif isinstance(node.get("additionalProperties"), dict):
                below += resolve(node["additionalProperties"])
        nodes = [node for node in below if _is_chosen(node, data)] or below
    return sorted({key for node in nodes for key in node.get("properties", {})})


def _is_chosen(node: Any, data: Any) -> bool:
    """Whether the data hold what tells this alternative from others: its constants and the keys that it must have."""
    properties = node.get("properties", {})
    constants = {key: one["const"] for key, one in properties.items() if "const" in one}
    if not isinstance(data, dict) or any(data.get(key) != value for key, value in constants.items()):
        return False
    return bool(constants) or all(key in data for key in node.get("required", ()))


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'? (known: a, b, x)`` for an unknown word."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1)
    guess = f"; did you mean '{close[0]}'?" if close else ";"
    return f"{guess} known: {', '.join(known)}" if known else ""
