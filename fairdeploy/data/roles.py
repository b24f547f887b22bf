"""Which column of a table of predictions is what."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fairdeploy.data.splits import UNKNOWN
from fairdeploy.data.tables import Table
from fairdeploy.errors import ConfigError, DataError

SHOWN = 20
LONE: Literal["reference"] = "reference"
NAMES = ("dense", "compact")
Named = Sequence[str] | Mapping[str, Sequence[str]]
Levels = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Roles:
    """Which column is what.

    Attributes
    ----------
    id, label : str
    prediction, score : str or None
        At least one of them. The prediction decides; without it, the score does.
    threshold : float
        A score at or above it is class 1.
    references : dict of str to str
        Column by the name of the reference.
    groups, contexts : dict of str to tuple of str
        Declared levels by column; empty where they are to be read from the data.
    cluster : str or None
    """

    id: str
    label: str
    prediction: str | None
    score: str | None
    threshold: float
    references: Mapping[str, str]
    groups: Levels
    contexts: Levels
    cluster: str | None

    @property
    def columns(self) -> list[tuple[str, str]]:
        """Every role that is filled, with its column."""
        found = [("id", self.id), ("label", self.label), ("prediction", self.prediction), ("score", self.score)]
        found += [(LONE if name == LONE else f"reference {name}", c) for name, c in self.references.items()]
        found += [("group", column) for column in self.groups] + [("context", column) for column in self.contexts]
        return [(role, column) for role, column in (*found, ("cluster", self.cluster)) if column is not None]

    @property
    def decision(self) -> str:
        """How the judged predictions were decided, in words."""
        return f"column '{self.prediction}'" if self.prediction else f"column '{self.score}' >= {self.threshold:g}"


def assign_roles(
    tables: Sequence[Table],
    *,
    id: str | None = None,
    label: str | None = None,
    prediction: str | None = None,
    score: str | None = None,
    threshold: float | None = None,
    reference: str | Mapping[str, str] | None = None,
    groups: Named = (),
    contexts: Named = (),
    cluster: str | None = None,
) -> Roles:
    """Settle which column is what; one that is called after its role (id, label, ...) need not be named.

    Raises
    ------
    ConfigError
        If a column is needed and not named, has two roles, or the threshold lies outside (0, 1).
    DataError
        If a file lacks a column.
    """
    first = tables[0].columns

    def filled(role: str, given: str | None) -> str | None:
        return given or (role if role in first else None)

    def needed(role: str, given: str | None, what: str) -> str:
        column = filled(role, given)
        if column is None:
            raise ConfigError(f"no column is called '{role}': name with --{role} the one that {what}; {_shown(first)}")
        return column

    if threshold is not None and not 0 < threshold < 1:
        raise ConfigError(f"the threshold is {threshold}: give a number between 0 and 1")
    if prediction and threshold is not None:
        raise ConfigError("a prediction and a threshold would both decide: leave one of them out")
    by_score = threshold is not None or filled("prediction", prediction) is None
    if by_score:
        score = needed("score", score, "holds the probability of the positive class (or --prediction for a class)")
    if reference is None:
        reference = LONE if LONE in first else {}
    if not groups:
        raise ConfigError(f"name with --groups the columns of sensitive attributes; {_shown(first)}")
    found = Roles(
        id=needed("id", id, "names each row"),
        label=needed("label", label, "holds the true class"),
        prediction=None if by_score else filled("prediction", prediction),
        score=filled("score", score),
        threshold=0.5 if threshold is None else threshold,
        references=references_named(reference),
        groups=_declared(groups),
        contexts=_declared(contexts),
        cluster=filled("cluster", cluster),
    )
    for table in tables:
        refuse_missing_columns(table, found.columns)
    refuse_two_roles(found)
    return found


def _declared(given: Named) -> Levels:
    by_column: dict[str, tuple[str, ...]] = {}
    if isinstance(given, str):
        given = (given,)
    for name in given:
        levels = tuple(map(str, given[name])) if isinstance(given, Mapping) else ()
        if name in by_column or UNKNOWN in levels or len(set(levels)) < len(levels) or len(levels) == 1:
            raise ConfigError(
                f"'{name}': name it once, with no level or at least two different ones; '{UNKNOWN}' is added by itself"
            )
        by_column[name] = levels
    return by_column


def references_named(given: str | Mapping[str, str]) -> Mapping[str, str]:
    """Return the columns of references by name; one alone needs none and is called "reference".

    Raises
    ------
    ConfigError
        If there are several and one has another name than ``dense`` or ``compact``.
    """
    named: dict[str, str] = {LONE: given} if isinstance(given, str) else dict(given)
    for name in named:
        if name not in NAMES and (name != LONE or len(named) > 1):
            raise ConfigError(
                f"a reference cannot be called '{name}': name several, as in dense=COLUMN and compact=COLUMN, or "
                "give one column without a name"
            )
    return named


def refuse_missing_columns(table: Table, wanted: Collection[tuple[str, str]]) -> None:
    """Raise DataError for the first of the wanted (role, column) that a table lacks."""
    for role, column in wanted:
        if column not in table.columns:
            close = difflib.get_close_matches(column, table.columns, n=1)
            guess = f"; did you mean '{close[0]}'?" if close else ""
            raise DataError(f"no column '{column}' ({role}){guess} {_shown(table.columns)}", file=table.file)


def refuse_two_roles(found: Roles) -> None:
    """Raise ConfigError if a column has two roles."""
    used: dict[str, str] = {}
    for role, column in found.columns:
        if column in used:
            raise ConfigError(f"column '{column}' cannot be both {used[column]} and {role}: give each its own")
        used[column] = role


def _shown(columns: Collection[str]) -> str:
    more = f" … ({len(columns)} in all)" if len(columns) > SHOWN else ""
    return f"(columns: {', '.join(sorted(columns)[:SHOWN])}{more})"
