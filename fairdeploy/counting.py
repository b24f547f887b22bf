"""From rows of predictions to counts, in memory that does not grow but for 8 bytes a row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairdeploy.data.predictions import CodedRows
from fairdeploy.data.roles import LONE
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


def _arrays(columns: Mapping[str, Sequence[str]]) -> dict[str, NDArray[np.str_]]:
    return {name: np.array(columns[name]) for name in sorted(columns)}


def _row_hashes(columns: Sequence[NDArray[Any]]) -> NDArray[np.uint64]:
    hashes = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        hashes = hashes * np.uint64(GOLDEN) + hash_text(column)
    return hashes
