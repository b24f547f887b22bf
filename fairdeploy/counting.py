"""From rows of predictions to counts, in memory that does not grow but for 8 bytes a row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairdeploy.data.predictions import CodedRows, Survey, coded, survey
from fairdeploy.data.roles import LONE, Roles
from fairdeploy.data.tables import Table
from fairdeploy.errors import DataError
from fairdeploy.evidence import Schema, Tally
from fairdeploy.evidence.encoding import GOLDEN, hash_text
from fairdeploy.evidence.records import Reference
from fairdeploy.evidence.scores import Scores


@dataclass(frozen=True)
class Counted:
    """All rows, counted.

    Attributes
    ----------
    tallies : dict of reference to Tally
        Without a reference the labels stand for one, so that no change can pass for want of anything to compare with.
    scores : dict of {"deployed"} or reference to Scores
    fingerprint : str
        SHA-256 over the sorted 64-bit hashes of the rows without their predictions: the same rows in any order give the
        same. It tells data sets apart; it is no proof against forgery.
    """

    tallies: dict[Reference, Tally]
    scores: dict[str, Scores]
    fingerprint: str


def count_rows(chunks: Iterable[CodedRows], schema: Schema) -> Counted:
    """Count all rows, one chunk after the other."""
    tallies: dict[Any, Tally] = {}
    scores: dict[str, Scores] = {}
    hashes: list[NDArray[np.uint64]] = []
    for rows in chunks:
        ids, clusters = np.array(rows.ids), None if rows.clusters is None else np.array(rows.clusters)
        attributes, contexts = _arrays(rows.attributes), _arrays(rows.contexts)
        more = [*attributes.values(), *contexts.values(), *([] if clusters is None else [clusters])]
        hashes.append(_row_hashes([ids, rows.labels, *more]))
        references: Mapping[str, NDArray[np.int64]] = rows.references or {LONE: rows.labels}
        counted = Tally.count_all(
            schema,
            ids=ids,
            labels=rows.labels,
            attributes=attributes,
            contexts=contexts,
            clusters=clusters,
            references=references,
            deployed=rows.deployed,
        )
        tallies = {name: tallies[name] + one if name in tallies else one for name, one in counted.items()}
        for name, values in rows.scores.items():
            one = Scores.count(
                schema, ids=ids, labels=rows.labels, attributes=attributes, clusters=clusters, scores=values
            )
            scores[name] = scores[name] + one if name in scores else one
    ordered = np.concatenate(hashes)
    ordered.sort()
    return Counted(tallies, scores, hashlib.sha256(ordered.astype("<u8").tobytes()).hexdigest())


@dataclass(frozen=True)
class Apart:
    """A reference over rows of its own.

    Attributes
    ----------
    found : Survey
        What those rows say.
    tally : Tally
        Its predictions, as reference and as deployed ones.
    """

    found: Survey
    tally: Tally


def count_apart(tables: Sequence[Table], roles: Roles, judged: Survey, fingerprint: str) -> Apart:
    """Count a reference that saw other rows than those that are judged.

    Parameters
    ----------
    tables : sequence of Table
        Those of the reference.
    roles : Roles
        As `roles_apart` settles them.
    judged : Survey
        What the judged rows say; the classes are theirs.
    fingerprint : str
        Of the judged rows.

    Raises
    ------
    DataError
        If the rows are the judged ones, so that they can be compared in pairs, or their groups or contexts have other
        levels; besides, as `survey`.
    """
    found = survey(tables, roles, classes=judged.classes)
    for column, levels in {**judged.groups, **judged.contexts}.items():
        own = {**found.groups, **found.contexts}[column]
        if set(own) != set(levels):
            every = "|".join(dict.fromkeys((*levels, *own)))
            raise DataError(
                f"column '{column}' has the levels {', '.join(own)} here and {', '.join(levels)} in the judged rows: "
                f"write them alike, or declare all, as in {column}={every}, if some have no rows on one side",
                file=tables[0].file,
            )
    found = replace(found, groups=judged.groups, contexts=judged.contexts)
    (name,) = roles.references
    rows = (replace(one, deployed=one.references[name], scores={}) for one in coded(tables, roles, found))
    counted = count_rows(rows, schema_of(roles, found))
    if counted.fingerprint == fingerprint:
        raise DataError(
            "holds the very rows that are judged: leave --unpaired out, since in pairs they show far smaller changes",
            file=tables[0].file,
        )
    return Apart(found, next(iter(counted.tallies.values())))


def schema_of(roles: Roles, found: Survey) -> Schema:
    """Return what is counted of some rows."""
    return Schema(
        attributes=found.groups, contexts=found.contexts, classes=found.classes, clustered=roles.cluster is not None
    )


def _arrays(columns: Mapping[str, Sequence[str]]) -> dict[str, NDArray[np.str_]]:
    return {name: np.array(columns[name]) for name in sorted(columns)}


def _row_hashes(columns: Sequence[NDArray[Any]]) -> NDArray[np.uint64]:
    hashes = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        hashes = hashes * np.uint64(GOLDEN) + hash_text(column)
    return hashes
