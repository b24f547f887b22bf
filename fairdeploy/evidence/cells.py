"""Cells: the groups and contexts that numbers are stated for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from fairdeploy.errors import ConfigError
from fairdeploy.evidence.tally import BUCKETS, UNKNOWN, Schema, Tally


@dataclass(frozen=True)
class Cells:
    """The cells over one combination of attributes and contexts.

    Attributes
    ----------
    axes : tuple of str
        Attributes and contexts that are kept apart; empty for everyone.
    keep : array of int [cells]
        Positions among all level combinations, in C order.
    groups, contexts : tuple of dict
        Level by attribute and level by context, per cell.
    """

    axes: tuple[str, ...]
    keep: NDArray[np.intp]
    groups: tuple[dict[str, str], ...]
    contexts: tuple[dict[str, str], ...]

    def take(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Turn counts [buckets, levels, ...] into [buckets, cells]."""
        return counts.reshape(len(counts), -1)[:, self.keep]


def cells(tally: Tally, *, contexts: bool, intersections: bool) -> Iterator[Cells]:
    """Yield everyone, each attribute's levels and all intersections; then the same within each context.

    Every declared level has a cell, with or without rows; ``unknown`` only if it has rows.
    """
    attributes = tuple(tally.schema.attributes)
    by_group: list[tuple[str, ...]] = [(), *((name,) for name in attributes)]
    if intersections and len(attributes) > 1:
        by_group.append(attributes)
    by_context: list[tuple[str, ...]] = [(), *((name,) for name in tally.schema.contexts)] if contexts else [()]
    for where in by_context:
        for who in by_group if not where else by_group[: len(attributes) + 1]:
            yield over(tally, who, where)


def cell(schema: Schema, group: Mapping[str, str], context: Mapping[str, str]) -> Cells:
    """Return the one cell of a group within a context; both empty is everyone.

    Raises
    ------
    ConfigError
        If an attribute, a context or a level is not the schema's.
    """
    at = 0
    for axis, level in {**group, **context}.items():
        levels = schema.levels(axis)
        if level not in levels:
            raise ConfigError(f"'{level}' is not a level of {axis}; known: {', '.join(levels)}")
        at = at * len(levels) + levels.index(level)
    return Cells((*group, *context), np.array([at], dtype=np.intp), (dict(group),), (dict(context),))


def over(tally: Tally, who: tuple[str, ...], where: tuple[str, ...]) -> Cells:
    """Return the cells over some attributes and contexts; ``unknown`` only where it has rows."""
    axes = who + where
    rows = tally.sums(axes).sum(0).ravel()
    combinations = list(product(*(tally.schema.levels(axis) for axis in axes)))
    keep = [at for at, levels in enumerate(combinations) if UNKNOWN not in levels or rows[at] > 0]
    groups = tuple(dict(zip(who, combinations[at], strict=False)) for at in keep)
    contexts = tuple(dict(zip(where, combinations[at][len(who) :], strict=True)) for at in keep)
    return Cells(axes, np.array(keep, dtype=np.intp), groups, contexts)


@dataclass(frozen=True)
class Outcomes:
    """Which (label, reference, deployed) occur, each an array [k], and their rows [buckets, cells, k]."""

    label: NDArray[np.int64]
    reference: NDArray[np.int64]
    deployed: NDArray[np.int64]
    counts: NDArray[np.float64]


def outcomes(tally: Tally, part: Cells) -> Outcomes:
    """Count what occurs in each cell of a part: all that a metric of counts needs."""
    at, size = tally.coordinates, len(tally.schema.classes)
    seen, place = np.unique((at["label"] * size + at["reference"]) * size + at["deployed"], return_inverse=True)
    levels = tuple(len(tally.schema.levels(axis)) for axis in part.axes)
    shape = (BUCKETS, *levels, len(seen))
    flat = np.ravel_multi_index((*(at[axis] for axis in ("bucket", *part.axes)), place), shape)
    counts = np.bincount(flat, weights=tally.counts.astype(float), minlength=math.prod(shape)).astype(float)
    label, reference, deployed = np.array(np.unravel_index(seen, (size,) * 3), dtype=np.int64).reshape(3, -1)
    return Outcomes(label, reference, deployed, counts.reshape(BUCKETS, math.prod(levels), len(seen))[:, part.keep])
