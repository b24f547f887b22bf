"""Labels, groups and ids of a table, every wrong value refused with its file and row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairdeploy.data.classes import BOOLEANS
from fairdeploy.data.roles import refuse_missing_columns
from fairdeploy.data.spelling import without_decimals
from fairdeploy.data.splits import SPLITS, UNKNOWN, Rows
from fairdeploy.data.tables import Table
from fairdeploy.data.values import parts_of
from fairdeploy.errors import DataError
from fairdeploy.project import MOST_LEVELS, Groups
from fairdeploy.source import Columns, ImageColumns
from fairdeploy.yamlfile import nearest

Texts = NDArray[np.str_]


@dataclass(frozen=True)
class Labelled:
    """All rows of a table, in its order, and the split [n] of each where a column says so."""

    rows: Rows
    splits: Texts | None


def columns_of(table: Table, columns: Columns, groups: Groups) -> dict[str, str]:
    """Return the column of each role that is filled.

    Raises
    ------
    DataError
        If the table lacks one; ``id`` and ``split`` may be missing where the project does not name them.
    """
    roles = {"label": columns.label}
    for role in ("id", "split"):
        name = getattr(columns, role)
        if name in table.columns or role in columns.model_fields_set:
            roles[role] = name
    if isinstance(columns, ImageColumns):
        roles["path"] = columns.path
    roles |= {f"attribute {name}": name for name in groups.attributes}
    roles |= {f"context {name}": name for name in groups.contexts}
    if groups.cluster is not None:
        roles["cluster"] = groups.cluster
    settings = {role: f"data.columns.{role}" for role in Columns.model_fields | {"path": None}}
    wanted = [(settings.get(role, f"{role.split()[0]} under groups"), column) for role, column in roles.items()]
    refuse_missing_columns(table, wanted)
    return roles


def read_labelled(table: Table, columns: Columns, *, groups: Groups, classes: tuple[str, ...]) -> Labelled:
    """Read what a table says about its rows besides their inputs.

    Labels are names of classes, or indices 0, 1, ... of them. Missing attribute values become ``unknown``.

    Raises
    ------
    DataError
        At the first thing that is wrong, with the row.
    """
    roles = columns_of(table, columns, groups)
    found = _Columns(table, _read(table, roles))
    named = roles.get("id", roles.get("path"))
    ids = found.different(named) if named else np.arange(1, len(found) + 1).astype(np.str_)
    rows = Rows(
        ids=ids,
        labels=found.classes(roles["label"], classes),
        attributes={name: found.levels(name, levels) for name, levels in groups.attributes.items()},
        contexts={name: found.few(name) for name in groups.contexts},
        clusters=found.values[groups.cluster] if groups.cluster else None,
    )
    return Labelled(rows, found.known(roles["split"], SPLITS) if "split" in roles else None)


def _read(table: Table, roles: dict[str, str]) -> dict[str, Texts]:
    names = {column for role, column in roles.items() if role in ("id", "path", "cluster")}
    complete = names | {column for role, column in roles.items() if not role.startswith("attribute")}
    parts: dict[str, list[Texts]] = {column: [] for column in roles.values()}
    for part in parts_of([table], list(parts)):
        for column in parts:
            texts = part.names(column) if column in names else part.levels(column)
            parts[column].append(np.array(part.complete(column, texts) if column in complete else texts, np.str_))
    if not any(map(len, parts[roles["label"]])):
        raise DataError("has no rows", file=table.file)
    return {column: np.concatenate(values) for column, values in parts.items()}


@dataclass(frozen=True)
class _Columns:
    table: Table
    values: dict[str, Texts]

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def different(self, column: str) -> Texts:
        ids = self.values[column]
        order = np.argsort(ids, kind="stable")
        again = np.flatnonzero(ids[order][1:] == ids[order][:-1])
        if len(again):
            first = again[np.argmin(order[again + 1])]
            raise self.table.error(
                f"column '{column}': '{ids[order[first]]}' stands at {self.table.place(int(order[first]))} already: "
                "each row needs an id of its own",
                int(order[first + 1]),
            )
        return ids

    def few(self, column: str) -> Texts:
        texts, first = np.unique(self.values[column], return_index=True)
        if len(texts) > MOST_LEVELS:
            raise self.table.error(
                f"column '{column}' holds {len(texts):,} different values, at most {MOST_LEVELS} can be told apart: "
                "put them into a few named ranges or merge them",
                int(np.sort(first)[MOST_LEVELS]),
            )
        return self.values[column]

    def known(self, column: str, names: tuple[str, ...]) -> Texts:
        for text, row in self._first(column):
            if text not in names:
                raise self.table.error(f"column '{column}': '{text}' is none of them{nearest(text, names)}", row)
        return self.values[column]

    def levels(self, column: str, levels: tuple[str, ...]) -> Texts:
        self.few(column)
        for text, row in self._first(column):
            if text and text not in (*levels, UNKNOWN):
                raise self.table.error(
                    f"column '{column}': '{text}' is not a declared level{nearest(text, levels)}", row
                )
        values = self.values[column]
        return np.where(values == "", UNKNOWN, values)

    def classes(self, column: str, classes: tuple[str, ...]) -> NDArray[np.int64]:
        texts, inverse = np.unique(self.values[column], return_inverse=True)
        plain = [without_decimals(BOOLEANS.get(text.lower(), text)) for text in texts.tolist()]
        named = {name: index for index, name in enumerate(classes)}
        indexed = {str(index): index for index in range(len(classes))}
        for texts_as, meaning in ((texts.tolist(), named), (plain, indexed)):
            if all(text in meaning for text in texts_as):
                return np.array([meaning[text] for text in texts_as], np.int64)[inverse]
        meaning = named if any(text in named for text in texts.tolist()) else named | indexed
        text, row = next(one for one in self._first(column) if one[0] not in meaning)
        raise self.table.error(
            f"column '{column}': '{text}' is no class: expected {', '.join(classes)}, or indices from 0 to "
            f"{len(classes) - 1} everywhere",
            row,
        )

    def _first(self, column: str) -> Iterator[tuple[str, int]]:
        texts, first = np.unique(self.values[column], return_index=True)
        order = np.argsort(first)
        return zip(texts[order].tolist(), first[order].tolist(), strict=True)
