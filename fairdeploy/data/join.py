"""A column of another file, joined to tables by the ids of their rows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fairdeploy.data.roles import Roles, references_named, refuse_missing_columns
from fairdeploy.data.tables import Chunk, Table
from fairdeploy.data.values import parts_of
from fairdeploy.errors import ConfigError, DataError

SHOWN = 3


def join_reference(
    tables: Sequence[Table], roles: Roles, others: Sequence[Table], reference: str | Mapping[str, str] | None
) -> tuple[list[Table], Roles]:
    """Join the reference's predictions, which are in tables of their own, by the ids of their rows.

    Parameters
    ----------
    tables, others : sequence of Table
        The shards of the judged predictions and of the reference's.
    reference : str or mapping of one name to a column, optional
        Column in `others`; ``prediction``, else ``score``, when left out.

    Returns
    -------
    tables : list of Table
        With a column for the reference.
    roles : Roles
        That name it.

    Raises
    ------
    DataError
        If an id stands twice in `others`, or the ids are not the same on both sides; with their number and the first.
    ConfigError
        If more than one reference is named.

    Notes
    -----
    The ids of `others` are held in memory, about 200 bytes for each.
    """
    if reference is None:
        reference = "prediction" if "prediction" in others[0].columns else "score"
    named = references_named(reference)
    if len(named) != 1:
        raise ConfigError("the file of the reference holds one reference: name one column")
    ((name, column),) = named.items()
    for other in others:
        refuse_missing_columns(other, [("id", roles.id), ("reference", column)])
    joint = f"{column} of {others[0].file.name if others[0].file else 'the reference'}"
    return _joined(tables, others, id=roles.id, column=column, name=joint), replace(roles, references={name: joint})


def _joined(tables: Sequence[Table], others: Sequence[Table], *, id: str, column: str, name: str) -> list[Table]:
    """Return the tables with a further column `name`: for each row what `column` says in `others` under the same id."""
    values = _values_by_id(others, id, column)
    seen = 0
    missing: list[str] = []
    for part in parts_of(tables, [id]):
        ids = part.texts(id)
        absent = [text for text in ids if text not in values]
        seen += len(ids) - len(absent)
        missing += absent
    if missing or seen < len(values):
        known = {text for part in parts_of(tables, [id]) for text in part.texts(id)}
        extra = [text for text in values if text not in known]
        wrong = [_some(missing, "are missing there"), _some(extra, "stand only there")]
        raise DataError(
            f"is not of the same rows: {' and '.join(filter(None, wrong))}: give the reference's predictions for the "
            "same ids",
            file=others[0].file,
        )

    def with_values(table: Table) -> Table:
        def read(columns: Sequence[str]) -> Iterator[Chunk]:
            inner = list(dict.fromkeys([*(one for one in columns if one != name), id]))
            for part in parts_of([table], inner):
                more = {name: [values[text] for text in part.texts(id)]} if name in columns else {}
                chunk = {**part.chunk, **more}
                yield {one: chunk[one] for one in columns}

        return replace(table, columns=(*table.columns, name), read=read)

    return [with_values(table) for table in tables]


def _values_by_id(tables: Sequence[Table], id: str, column: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for part in parts_of(tables, [id, column]):
        for at, (text, value) in enumerate(zip(part.complete(id, part.texts(id)), part.chunk[column], strict=True)):
            if text in values:
                raise part.error(at, f"column '{id}': '{text}' stands twice: each row needs an id of its own")
            values[text] = value
    return values


def _some(ids: Collection[str], what: str) -> str:
    first = ", ".join(f"'{text}'" for text in list(ids)[:SHOWN]) + (" ..." if len(ids) > SHOWN else "")
    return f"{len(ids)} ids {what}, first {first}" if ids else ""
