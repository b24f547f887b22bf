"""Predictions that were made elsewhere: which classes and levels there are, and rows that can be counted.

`survey` reads the tables once and settles what all rows together say; `coded` reads them again and yields the rows in
codes. Every value that cannot be used is refused with its file, line and column.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairdeploy.data.roles import Levels, Roles
from fairdeploy.data.splits import UNKNOWN
from fairdeploy.data.tables import Chunk, Table, Values
from fairdeploy.errors import DataError
from fairdeploy.yamlfile import nearest

MOST_CLASSES = 50
MOST_NUMBERS = 50
MOST_LEVELS = 500
MOST_DIFFERENT = 1_000
MOST_CHARACTERS = 512
BOOLEANS = {"false": "0", "true": "1", "0": "0", "1": "1", "0.0": "0", "1.0": "1"}
WHOLE = re.compile(r"(-?\d+)\.0+")
NATURAL = ({"0", "1"}, {"-1", "1"})


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


@dataclass
class _Seen:
    """The different texts of one column, each with the row where it stood first."""

    column: str
    first: dict[str, tuple[Table, int]] = field(default_factory=dict)

    def note(self, table: Table, start: int, texts: list[str]) -> None:
        if not self.crowded:
            for text in sorted(set(texts) - self.first.keys()):
                self.first[text] = table, start + texts.index(text)

    @property
    def crowded(self) -> bool:
        return len(self.first) > MOST_DIFFERENT

    @property
    def numeric(self) -> bool:
        return all(_is_number(text) for text in self.first if text)

    def error(self, text: str, message: str) -> DataError:
        table, row = self.first[text]
        return table.error(f"column '{self.column}': {message}", row)


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
        For ids that are missing or doubled, labels and predictions that are missing or no class, levels that are not
        declared, and columns of groups with so many levels that they must be meant otherwise.
    """
    label = _Seen(roles.label)
    predicted = [_Seen(roles.prediction)] if roles.prediction else []
    references = {name: _Seen(column) for name, column in roles.references.items()}
    levelled = {column: _Seen(column) for column in (*roles.groups, *roles.contexts)}
    declared = {**roles.groups, **roles.contexts}
    decided = [label, *predicted, *references.values()]
    hashes: list[NDArray[np.int64]] = []
    for table, start, chunk in _chunks(tables, [roles.id, *(one.column for one in (*decided, *levelled.values()))]):
        ids = _texts(table, start, roles.id, chunk)
        _refuse_missing(table, start, roles.id, ids)
        hashes.append(np.fromiter(map(hash, ids), np.int64, len(ids)))
        for one in decided:
            texts = _known(_texts(table, start, one.column, chunk))
            _refuse_missing(table, start, one.column, texts)
            one.note(table, start, texts)
        for column, one in levelled.items():
            one.note(table, start, _known(_texts(table, start, column, chunk)))
            _refuse_levels(one, declared[column])
    rows = sum(map(len, hashes))
    if not rows:
        raise DataError("has a header, but no rows", file=tables[0].file)
    _refuse_doubled_ids(tables, roles.id, hashes)
    names, canonical = _class_names(label, [*predicted, *references.values()], classes, positive)
    scored = tuple(name for name, one in references.items() if _holds_scores(one, names, canonical))
    by_class = [label, *predicted, *(one for name, one in references.items() if name not in scored)]
    levels = {column: declared[column] or _levels(one) for column, one in levelled.items()}
    notes = [] if classes else [f"classes read from the labels: {', '.join(names)}"]
    notes += [
        f"levels of {name} read from the data: {', '.join(levels[name])}" for name in levels if not declared[name]
    ]
    notes += [f"'{roles.references[name]}' holds scores: class 1 from {roles.threshold:g} on" for name in scored]
    return Survey(
        classes=names,
        class_of={text: _class_index(one, text, names, canonical) for one in by_class for text in one.first},
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
    scored = {} if roles.score is None else {"deployed": roles.score}
    scored |= {name: roles.references[name] for name in found.scored}
    for table, start, chunk in _chunks(tables, list(dict.fromkeys(column for _, column in roles.columns))):

        def texts(column: str, table: Table = table, start: int = start, chunk: Chunk = chunk) -> list[str]:
            return _texts(table, start, column, chunk)

        def classes(column: str) -> NDArray[np.int64]:
            coded = [found.class_of[text] for text in _known(texts(column))]  # noqa: B023
            return np.array(coded, np.int64)

        scores = {name: _scores(table, start, column, chunk) for name, column in scored.items()}
        decided = {name: (values >= roles.threshold).astype(np.int64) for name, values in scores.items()}
        clusters = texts(roles.cluster) if roles.cluster else None
        if clusters is not None and roles.cluster:
            _refuse_missing(table, start, roles.cluster, clusters)
        yield CodedRows(
            ids=texts(roles.id),
            labels=classes(roles.label),
            deployed=classes(roles.prediction) if roles.prediction else decided["deployed"],
            references={
                name: decided[name] if name in found.scored else classes(column)
                for name, column in roles.references.items()
            },
            attributes={name: _known(texts(name)) for name in roles.groups},
            contexts={name: _known(texts(name)) for name in roles.contexts},
            clusters=clusters,
            scores=scores,
        )


def _chunks(tables: Sequence[Table], columns: Sequence[str]) -> Iterator[tuple[Table, int, Chunk]]:
    for table in tables:
        start = 0
        for chunk in table.read(list(dict.fromkeys(columns))):
            yield table, start, chunk
            start += len(chunk[columns[0]])


def _texts(table: Table, start: int, column: str, chunk: Chunk) -> list[str]:
    """Return a column's values as text, a missing one as an empty text."""
    values, kinds = chunk[column], set(map(type, chunk[column]))
    if kinds <= {str}:
        texts = [value.strip() for value in values]
    elif kinds <= {int}:
        texts = list(map(str, values))
    else:
        texts = []
        for at, value in enumerate(values):
            text = _text(value)
            if text is None:
                kind = type(value).__name__
                raise table.error(f"column '{column}' holds a {kind}: turn it into text or numbers", start + at)
            texts.append(text)
    longest = max(texts, key=len, default="")
    if len(longest) > MOST_CHARACTERS:
        raise table.error(
            f"column '{column}': {len(longest)} characters; at most {MOST_CHARACTERS} make an id, a class or a level",
            start + texts.index(longest),
        )
    return texts


def _text(value: Any) -> str | None:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return ""
    if isinstance(value, float):
        if value != value:
            return ""
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value).strip() if isinstance(value, str | int) else None


def _known(texts: list[str]) -> list[str]:
    """Return texts with what numpy and pandas write for a missing value as an empty one."""
    return ["" if text in ("nan", "NaN") else text for text in texts]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _refuse_missing(table: Table, start: int, column: str, texts: list[str]) -> None:
    if "" in texts:
        raise table.error(f"column '{column}' is empty: every row needs a value here", start + texts.index(""))


def _refuse_doubled_ids(tables: Sequence[Table], column: str, hashes: list[NDArray[np.int64]]) -> None:
    """Find doubled ids by their hashes, and then by their texts, so that no collision accuses a row."""
    ordered = np.sort(np.concatenate(hashes))
    suspects = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if not suspects:
        return
    places: dict[str, list[tuple[Table, int]]] = {}
    for table, start, chunk in _chunks(tables, [column]):
        for at, text in enumerate(_texts(table, start, column, chunk)):
            if hash(text) in suspects:
                places.setdefault(text, []).append((table, start + at))
    doubled = {text: rows for text, rows in places.items() if len(rows) > 1}
    if doubled:
        text, ((first, row), (table, again), *_) = next(iter(doubled.items()))
        count = sum(len(rows) - 1 for rows in doubled.values())
        more = f"; {count} rows repeat an id" if count > 1 else ""
        raise table.error(
            f"column '{column}': '{text}' stands at {first.place(row)} already{more}: each row needs an id of its own",
            again,
        )


def _refuse_levels(one: _Seen, declared: tuple[str, ...]) -> None:
    if declared:
        for text in one.first:
            if text and text not in (*declared, UNKNOWN):
                raise one.error(text, f"'{text}' is not a declared level{nearest(text, declared)}")
    elif len(one.first) > MOST_NUMBERS and one.numeric:
        last = list(one.first)[-1]
        raise one.error(last, f"more than {MOST_NUMBERS} different numbers: bin them into a few named ranges first")
    elif len(one.first) > MOST_LEVELS:
        last = list(one.first)[-1]
        raise one.error(last, f"more than {MOST_LEVELS} levels: is it a group of people? Merge or declare the levels")


def _levels(one: _Seen) -> tuple[str, ...]:
    levels = tuple(sorted(one.first.keys() - {"", UNKNOWN}))
    if not levels:
        raise one.error(next(iter(one.first)), "every value is missing: leave the column out")
    return levels


def _class_names(
    label: _Seen, others: Sequence[_Seen], declared: Sequence[str], positive: str | None
) -> tuple[tuple[str, ...], Mapping[str, str]]:
    """Return the classes, the positive one last of two, and the class that each text of a label or prediction means.

    Whole numbers with decimals (a column with gaps is written so) and booleans mean 0, 1, ...
    """
    if label.crowded or (len(label.first) > MOST_CLASSES and not declared):
        last = list(label.first)[-1]
        raise label.error(
            last, f"more than {MOST_CLASSES} different labels: if they are classes, list them (--classes)"
        )
    given = [*map(str, declared), *([] if positive is None else [str(positive)])]
    texts = {text for one in (label, *others) for text in one.first} | set(given)
    booleans = {text.lower() for text in label.first} | {text.lower() for text in given} <= BOOLEANS.keys()
    meaning = {text: (BOOLEANS.get(text.lower(), text) if booleans else WHOLE.sub(r"\1", text)) for text in texts}
    names = [meaning[str(name)] for name in declared] or _sorted({meaning[text] for text in label.first})
    if not declared and set(names) < {"0", "1"}:
        names = ["0", "1"]
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise label.error(next(iter(label.first)), f"one class only ({', '.join(names)}): list all (--classes)")
    if positive is not None:
        if len(names) != 2 or meaning[str(positive)] not in names:
            raise DataError(f"positive is '{positive}', but the classes are {', '.join(names)}: it names one of two")
        names.sort(key=meaning[str(positive)].__eq__)
    elif len(names) == 2 and not declared and set(names) not in NATURAL:
        raise DataError(
            f"column '{label.column}': the labels are '{names[0]}' and '{names[1]}': say which is the positive one, as "
            f"in --positive {names[1]}"
        )
    return tuple(names), meaning


def _sorted(names: set[str]) -> list[str]:
    return sorted(names, key=lambda name: (0, int(name), name) if re.fullmatch(r"-?\d+", name) else (1, 0, name))


def _holds_scores(one: _Seen, names: Sequence[str], meaning: Mapping[str, str]) -> bool:
    if one.crowded:
        return True
    if len(names) != 2 or all(meaning[text] in names for text in one.first):
        return False
    return all(_is_number(text) and 0 <= float(text) <= 1 for text in one.first)


def _class_index(one: _Seen, text: str, names: Sequence[str], meaning: Mapping[str, str]) -> int:
    if meaning[text] in names:
        return names.index(meaning[text])
    hint = ": it looks like a score, so name the column with --score" if "." in text and _is_number(text) else ""
    raise one.error(text, f"'{text}' is none of the classes ({', '.join(names)}){hint}")


def _scores(table: Table, start: int, column: str, chunk: Chunk) -> NDArray[np.float64]:
    values = _numbers(chunk[column])
    wrong = np.flatnonzero(~((values >= 0) & (values <= 1)))
    if len(wrong):
        found = chunk[column][wrong[0]]
        hint = ": write a decimal point" if isinstance(found, str) and re.fullmatch(r"\s*\d+,\d+\s*", found) else ""
        raise table.error(
            f"column '{column}' is {found!r}, no probability: scores are numbers from 0 to 1{hint}",
            start + int(wrong[0]),
        )
    return values


def _numbers(values: Values) -> NDArray[np.float64]:
    """Return numbers, NaN for what is none."""
    if bool not in set(map(type, values)):
        try:
            return np.array(values, np.float64)
        except (ValueError, TypeError):
            pass
    found = np.full(len(values), np.nan)
    for at, value in enumerate(values):
        if not isinstance(value, bool) and _is_number(_text(value) or ""):
            found[at] = float(value)
    return found
