"""Predictions that were made elsewhere: which classes and levels there are, and rows that can be counted.

`survey` reads the tables once and settles what all rows together say; `coded` reads them again and yields the rows in
codes. Every value that cannot be used is refused with its file, line and column.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairdeploy.data.classes import settle_classes
from fairdeploy.data.roles import Levels, Roles
from fairdeploy.data.spelling import same_names
from fairdeploy.data.splits import UNKNOWN
from fairdeploy.data.tables import Table
from fairdeploy.data.values import Seen, parts_of
from fairdeploy.errors import ConfigError, DataError
from fairdeploy.project import MOST_LEVELS
from fairdeploy.yamlfile import nearest

MOST_NUMBERS = 50


@dataclass(frozen=True)
class Survey:
    """What all rows together say.

    Attributes
    ----------
    classes : tuple of str
        With two, the second is the positive one.
    class_of : dict of str to int
        Class index of every text that stands in a column of labels or predictions.
    groups, contexts : dict of str to tuple of str
        All levels, ``unknown`` not among them.
    scored : tuple of str
        Names of the references whose column holds scores.
    rows : int
    notes : tuple of str
        What was read from the data and not declared.
    """

    classes: tuple[str, ...]
    class_of: Mapping[str, int]
    groups: Levels
    contexts: Levels
    scored: tuple[str, ...]
    rows: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class CodedRows:
    """Some rows, ready to be counted; all arrays [n].

    `labels`, `deployed` and `references` are class indices; `scores` has the probability of class 1 by the name of
    the predictions, "deployed" or that of a reference.
    """

    ids: Sequence[str]
    labels: NDArray[np.int64]
    deployed: NDArray[np.int64]
    references: Mapping[str, NDArray[np.int64]]
    attributes: Mapping[str, Sequence[str]]
    contexts: Mapping[str, Sequence[str]]
    clusters: Sequence[str] | None
    scores: Mapping[str, NDArray[np.float64]]


def survey(
    tables: Sequence[Table], roles: Roles, *, classes: Sequence[str] = (), positive: str | None = None
) -> Survey:
    """Read all rows once: classes, levels, and that every id stands once.

    Parameters
    ----------
    tables : sequence of Table
        Shards of one data set.
    roles : Roles
    classes : sequence of str
        All classes in their order; read from the labels when left out.
    positive : str, optional
        The positive one of two classes.

    Raises
    ------
    DataError
        For ids that are missing or doubled (01 is 1 here), clusters of two spellings, labels and predictions that are
        missing or no class, levels that are not declared, an attribute of one level that is not declared, and columns
        of groups with so many levels that they must be meant otherwise.
    ConfigError
        If nothing says which of two classes is positive, or a score has to decide between more.
    """
    label = Seen(roles.label)
    predicted = [Seen(roles.prediction)] if roles.prediction else []
    references = {name: Seen(column) for name, column in roles.references.items()}
    declared = {**roles.groups, **roles.contexts}
    levelled = {column: Seen(column) for column in declared}
    rows = _read(tables, roles, [label, *predicted, *references.values()], levelled, declared)
    settled = settle_classes(
        label, [*predicted, *references.values()], declared=[*map(str, classes)], positive=positive
    )
    if not predicted and len(settled.names) > 2:
        raise ConfigError(f"a score decides between two classes, but there are {len(settled.names)}: give a prediction")
    scored = tuple(name for name, one in references.items() if settled.are_scores(one))
    by_class = [label, *predicted, *(one for name, one in references.items() if name not in scored)]
    levels = {column: declared[column] or _levels(one) for column, one in levelled.items()}
    for column in roles.groups:
        _refuse_one_group(levelled[column], levels[column])
    notes = [] if classes else [f"classes read from the labels: {', '.join(settled.names)}"]
    notes += [
        f"levels of {name} read from the data: {', '.join(levels[name])}" for name in levels if not declared[name]
    ]
    notes += [f"'{roles.references[name]}' holds scores: class 1 from {roles.threshold:g} on" for name in scored]
    if roles.score and len(settled.names) > 2:
        notes.append(f"'{roles.score}' is not used: with more than two classes one score a row says too little")
    return Survey(
        classes=settled.names,
        class_of={text: index for one in by_class for text, index in settled.indices(one).items()},
        groups={name: levels[name] for name in roles.groups},
        contexts={name: levels[name] for name in roles.contexts},
        scored=scored,
        rows=rows,
        notes=tuple(notes),
    )


def coded(tables: Sequence[Table], roles: Roles, found: Survey) -> Iterator[CodedRows]:
    """Read all rows again, in codes.

    Raises
    ------
    DataError
        For clusters that are missing, and scores that are no numbers from 0 to 1.
    """
    scored = {"deployed": roles.score} if roles.score and len(found.classes) == 2 else {}
    scored |= {name: roles.references[name] for name in found.scored}
    by_class = {"label": roles.label}
    by_class |= {name: column for name, column in roles.references.items() if name not in found.scored}
    by_class |= {} if roles.prediction is None else {"deployed": roles.prediction}
    for part in parts_of(tables, [column for _, column in roles.columns]):
        scores = {name: part.scores(column) for name, column in scored.items()}
        decided = {name: (values >= roles.threshold).astype(np.int64) for name, values in scores.items()}
        for name, column in by_class.items():
            decided[name] = np.array([*map(found.class_of.__getitem__, part.levels(column))], np.int64)
        yield CodedRows(
            ids=part.names(roles.id),
            labels=decided["label"],
            deployed=decided["deployed"],
            references={name: decided[name] for name in roles.references},
            attributes={name: part.levels(name) for name in roles.groups},
            contexts={name: part.levels(name) for name in roles.contexts},
            clusters=part.names(roles.cluster) if roles.cluster else None,
            scores=scores,
        )


def _read(
    tables: Sequence[Table], roles: Roles, decided: Sequence[Seen], levelled: Mapping[str, Seen], declared: Levels
) -> int:
    """Note what stands in the columns of classes and of levels; return the number of rows."""
    hashes: list[NDArray[np.int64]] = []
    spelt: list[NDArray[np.int64]] = []
    meant: list[NDArray[np.int64]] = []
    clusters = [] if roles.cluster is None else [roles.cluster]
    for part in parts_of(tables, [roles.id, *clusters, *(one.column for one in decided), *levelled]):
        hashes.append(_hashes(same_names(part.names(roles.id))))
        for column in clusters:
            different = [*set(part.names(column))]
            spelt.append(_hashes(different))
            meant.append(_hashes(same_names(different)))
        for one in decided:
            one.note(part, part.complete(one.column, part.levels(one.column)))
        for column, one in levelled.items():
            one.note(part, part.levels(column))
            _refuse_levels(one, declared[column])
    rows = sum(map(len, hashes))
    if not rows:
        raise DataError("has a header, but no rows", file=tables[0].file)
    _refuse_doubled_ids(tables, roles.id, hashes)
    for column in clusters:
        if len(np.unique(np.concatenate(spelt))) > len(np.unique(np.concatenate(meant))):
            _refuse_two_spellings(tables, column)
    return rows


def _hashes(texts: Sequence[str]) -> NDArray[np.int64]:
    return np.fromiter(map(hash, texts), np.int64, len(texts))


def _refuse_doubled_ids(tables: Sequence[Table], column: str, hashes: list[NDArray[np.int64]]) -> None:
    """Find doubled ids by their hashes, and then by their texts, so that no collision accuses a row."""
    ordered = np.concatenate(hashes)
    ordered.sort()
    suspects = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if not suspects:
        return
    places: dict[str, list[tuple[Table, int, str]]] = {}
    for part in parts_of(tables, [column]):
        names = part.names(column)
        for at, (text, same) in enumerate(zip(names, same_names(names), strict=True)):
            if hash(same) in suspects:
                places.setdefault(same, []).append((part.table, part.start + at, text))
    doubled = [rows for rows in places.values() if len(rows) > 1]
    if doubled:
        (first, row, other), (table, again, text), *_ = doubled[0]
        count = sum(len(rows) - 1 for rows in doubled)
        spelt = "" if text == other else f" as '{other}'"
        more = f"; {count} rows repeat an id" if count > 1 else ""
        raise table.error(
            f"column '{column}': '{text}' stands at {first.place(row)} already{spelt}{more}: "
            "each row needs an id of its own",
            again,
        )


def _refuse_two_spellings(tables: Sequence[Table], column: str) -> None:
    first: dict[str, str] = {}
    for part in parts_of(tables, [column]):
        names = part.names(column)
        for at, (text, same) in enumerate(zip(names, same_names(names), strict=True)):
            if first.setdefault(same, text) != text:
                raise part.error(
                    at, f"column '{column}': '{text}' is written '{first[same]}' elsewhere: write each cluster one way"
                )


def _refuse_one_group(one: Seen, levels: tuple[str, ...]) -> None:
    if len(levels) == 1:
        (level,) = levels
        raise one.error(
            level,
            f"only '{level}' stands here, so there is no other group to compare with: declare all levels, as in "
            f"{one.column}={level}|OTHER, or leave the column out",
        )


def _refuse_levels(one: Seen, declared: tuple[str, ...]) -> None:
    if declared:
        for text in one.first:
            if text and text not in (*declared, UNKNOWN):
                raise one.error(text, f"'{text}' is not a declared level{nearest(text, declared)}")
    elif len(one.first) > MOST_NUMBERS and one.numeric:
        raise one.error(one.last, f"more than {MOST_NUMBERS} different numbers: bin them into a few named ranges first")
    elif len(one.first) > MOST_LEVELS:
        raise one.error(
            one.last, f"more than {MOST_LEVELS} levels: is it a group of people? Merge or declare the levels"
        )


def _levels(one: Seen) -> tuple[str, ...]:
    levels = tuple(sorted(one.first.keys() - {"", UNKNOWN}))
    if not levels:
        raise one.error(next(iter(one.first)), "every value is missing: leave the column out")
    return levels
