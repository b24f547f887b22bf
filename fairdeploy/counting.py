"""From rows of predictions to counts, in memory that does not grow but for 8 bytes a row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairdeploy.data.predictions import CodedRows
from fairdeploy.data.roles import LONE
from fairdeploy.evidence import Schema, Tally
from fairdeploy.evidence.records import Reference


def count_rows(chunks: Iterable[CodedRows], schema: Schema) -> tuple[dict[Reference, Tally], str]:
    """Count all rows, in memory that does not grow but for 8 bytes a row; also return the data's fingerprint.

    Without a reference the labels stand for one, so that no change can pass for want of anything to compare with.
    """
    tallies: dict[Any, Tally] = {}
    hashes: list[NDArray[np.uint64]] = []
    for rows in chunks:
        hashes.append(_row_hashes(rows))
        references: Mapping[str, NDArray[np.int64]] = rows.references or {LONE: rows.labels}
        counted = Tally.count_all(
            schema,
            ids=np.array(rows.ids),
            labels=rows.labels,
            attributes={column: np.array(values) for column, values in rows.attributes.items()},
            contexts={column: np.array(values) for column, values in rows.contexts.items()},
            clusters=None if rows.clusters is None else np.array(rows.clusters),
            references=references,
            deployed=rows.deployed,
        )
        tallies = {name: tallies[name] + tally if name in tallies else tally for name, tally in counted.items()}
    ordered = np.concatenate(hashes)
    ordered.sort()
    return tallies, hashlib.sha256(ordered.astype("<u8").tobytes()).hexdigest()


def _row_hashes(rows: CodedRows) -> NDArray[np.uint64]:
    """Hash what is known of each row besides its predictions, so that the order of rows and shards is no matter."""
    columns = [rows.ids, map(str, rows.labels.tolist())]
    columns += [part[name] for part in (rows.attributes, rows.contexts) for name in sorted(part)]
    columns += [] if rows.clusters is None else [rows.clusters]
    joined = map("\x1f".join, zip(*columns, strict=True))
    hashes = b"".join(hashlib.blake2b(row.encode(), digest_size=8).digest() for row in joined)
    return np.frombuffer(hashes, "<u8")
