"""A reference in a file of its own: joined by the ids of its rows, or apart where it saw other rows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fairdeploy.data.classes import BOOLEANS
from fairdeploy.data.roles import Roles, references_named, refuse_missing_columns, refuse_two_roles
from fairdeploy.data.spelling import without_decimals
from fairdeploy.data.tables import Chunk, Table
from fairdeploy.data.values import Part, parts_of
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
        If an id stands twice in `others`, or the ids or, where `others` have them, the labels are not the same on both
        sides; with their number and the first.
    ConfigError
        If more than one reference is named.

    Notes
    -----
    The ids of `others` are held in memory, about 200 bytes for each, 300 with labels.
    """
    name, column = one_reference(others, reference)
    for other in others:
        refuse_missing_columns(other, [("id", roles.id), ("reference", column)])
    joint = f"{column} of {name_of(others, 'the reference')}"
    return _joined(tables, others, roles=roles, column=column, name=joint), replace(roles, references={name: joint})


def roles_apart(roles: Roles, others: Sequence[Table], reference: str | Mapping[str, str] | None) -> Roles:
    """Settle the columns of a reference that saw other rows: called as those of the judged predictions.

    Its labels stand where the judged predictions would. Its clusters are in the column of theirs; a column called
    ``cluster`` is one even where theirs have none.

    Raises
    ------
    DataError
        If a file lacks a column.
    ConfigError
        If more than one reference is named, or its column has another role, too.
    """
    name, column = one_reference(others, reference)
    cluster = roles.cluster or ("cluster" if "cluster" in others[0].columns else None)
    kept = replace(roles, prediction=None, score=None, references={name: column}, cluster=cluster)
    for other in others:
        refuse_missing_columns(other, kept.columns)
    refuse_two_roles(kept)
    return replace(kept, prediction=roles.label)


def labels_not_compared(others: Sequence[Table], label: str) -> list[str]:
    """Say which files of the reference have no labels that could be held against the judged ones."""
    without = [other for other in others if label not in other.columns]
    names = ", ".join(name_of([other], "the reference") for other in without)
    return [f"no column '{label}' in {names}: its labels were not compared with the judged ones"] if without else []


def name_of(tables: Sequence[Table], otherwise: str) -> str:
    """Return the name of the first file."""
    return tables[0].file.name if tables[0].file else otherwise


def one_reference(others: Sequence[Table], reference: str | Mapping[str, str] | None) -> tuple[str, str]:
    """Return the name and the column of the one reference that a file of its own holds.

    Raises
    ------
    ConfigError
        If several are named.
    """
    if reference is None:
        reference = "prediction" if "prediction" in others[0].columns else "score"
    named = references_named(reference)
    if len(named) != 1:
        raise ConfigError("the file of the reference holds one reference: name one column")
    ((name, column),) = named.items()
    return name, column


def _joined(tables: Sequence[Table], others: Sequence[Table], *, roles: Roles, column: str, name: str) -> list[Table]:
    """Return the tables with a further column `name`: for each row what `column` says in `others` under the same id."""
    id = roles.id
    values = _by_id(others, id, column)
    _check_same_rows(tables, others, id, values)
    labelled = [other for other in others if roles.label in other.columns]
    if labelled:
        _check_same_labels(tables, labelled, id, roles.label)

    def with_values(table: Table) -> Table:
        def read(columns: Sequence[str]) -> Iterator[Chunk]:
            inner = list(dict.fromkeys([*(one for one in columns if one != name), id]))
            for part in parts_of([table], inner):
                more = {name: [values[text] for text in part.names(id)]} if name in columns else {}
                chunk = {**part.chunk, **more}
                yield {one: chunk[one] for one in columns}

        return replace(table, columns=(*table.columns, name), read=read)

    return [with_values(table) for table in tables]


def _check_same_rows(tables: Sequence[Table], others: Sequence[Table], id: str, values: Mapping[str, Any]) -> None:
    seen = 0
    missing: list[str] = []
    for part in parts_of(tables, [id]):
        ids = part.names(id)
        absent = [text for text in ids if text not in values]
        seen += len(ids) - len(absent)
        missing += absent
    if missing or seen < len(values):
        known = {text for part in parts_of(tables, [id]) for text in part.names(id)}
        extra = [text for text in values if text not in known]
        wrong = [_some(missing, "are missing there"), _some(extra, "stand only there")]
        raise DataError(
            f"is not of the same rows: {' and '.join(filter(None, wrong))}: give the reference's predictions for the "
            "same ids, or say --unpaired if it saw other rows",
            file=others[0].file,
        )


def _check_same_labels(tables: Sequence[Table], others: Sequence[Table], id: str, label: str) -> None:
    """Refuse labels that differ under one id: then one of the files is of other rows, or of another state of them."""
    theirs = {text: own for part in parts_of(others, [id, label]) for text, own in _labelled(part, id, label)}
    found = (pair for part in parts_of(tables, [id, label]) for pair in _labelled(part, id, label))
    differ = [text for text, own in found if own != theirs.get(text, own)]
    if differ:
        raise DataError(
            f"column '{label}': {_some(differ, 'have another label there')}: give the reference's predictions for the "
            "same rows, or say --unpaired if it saw other rows",
            file=others[0].file,
        )


def _labelled(part: Part, id: str, label: str) -> Iterator[tuple[str, str]]:
    """Yield each row's id and class; whole numbers with decimals and booleans mean 0, 1, ..., as in `data.classes`."""
    for text, own in zip(part.names(id), part.levels(label), strict=True):
        yield text, BOOLEANS.get(own.lower(), without_decimals(own))


def _by_id(tables: Sequence[Table], id: str, column: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for part in parts_of(tables, [id, column]):
        for at, (text, value) in enumerate(zip(part.names(id), part.chunk[column], strict=True)):
            if text in values:
                raise part.error(at, f"column '{id}': '{text}' stands twice: each row needs an id of its own")
            values[text] = value
    return values


def _some(ids: Collection[str], what: str) -> str:
    first = ", ".join(f"'{text}'" for text in list(ids)[:SHOWN]) + (" ..." if len(ids) > SHOWN else "")
    return f"{len(ids)} ids {what}, first {first}" if ids else ""
