"""Which rows flipped, in which direction, at which stage, and where they pile up. Arithmetic on stored predictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fairdeploy.data import Rows
from fairdeploy.evidence.metrics import ALL
from fairdeploy.evidence.records import Group, StageName
from fairdeploy.explain.cell import Bools, Counting, Ints, rows_of
from fairdeploy.explain.records import Direction, Flip, Point, Share, StageFlips, Trace
from fairdeploy.model import ModelSpec

CLUSTERS_NAMED = 5


@dataclass(frozen=True)
class Stages:
    """The predictions of all stages, in their order.

    Attributes
    ----------
    names : tuple of StageName
    probabilities : array of float [stages, n, classes]
    """

    names: tuple[StageName, ...]
    probabilities: NDArray[np.float32]
    rows: Rows
    spec: ModelSpec

    @classmethod
    def of(cls, stages: Mapping[StageName, NDArray[np.float32]], rows: Rows, spec: ModelSpec) -> Stages:
        """Stack predictions [n, classes] by stage."""
        return cls(tuple(stages), np.stack(list(stages.values())), rows, spec)

    @cached_property
    def predicted(self) -> Ints:
        """Predicted classes [stages, n]."""
        return np.stack([self.spec.decide(one) for one in self.probabilities])

    def trace(self, row: int) -> Trace:
        """Return one row's predictions at all stages."""
        rows, classes = self.rows, self.spec.classes
        label = int(rows.labels[row])
        scored = 1 if len(classes) == 2 else label
        predicted = self.predicted[:, row].tolist()
        points = tuple(
            Point(
                stage=stage,
                score=float(probabilities[scored]),
                predicted=classes[one],
                confidence=float(probabilities[one]),
            )
            for stage, probabilities, one in zip(self.names, self.probabilities[:, row], predicted, strict=True)
        )
        changed = [at for at in range(1, len(predicted)) if predicted[at] != predicted[at - 1]]
        return Trace(
            id=str(rows.ids[row]),
            label=classes[label],
            group={name: str(values[row]) for name, values in rows.attributes.items()},
            context={name: str(values[row]) for name, values in rows.contexts.items()},
            cluster=None if rows.clusters is None else str(rows.clusters[row]),
            points=points,
            changed_at=tuple(self.names[at] for at in changed),
        )


class Flips:
    """The flips of one cell.

    Parameters
    ----------
    stages : Stages
        From the reference, or before it, to the last.
    counting : Counting
    group, context : Group
    """

    def __init__(self, stages: Stages, counting: Counting, group: Group, context: Group) -> None:
        rows, predicted = stages.rows, stages.predicted[stages.names.index(counting.before) :]
        self.counting, self.all_stages = counting, stages
        self.names = stages.names[stages.names.index(counting.before) :]
        self.inside: Bools = rows_of(rows, group, context) & counting.admits(rows.labels)
        self.good: Bools = np.stack([counting.good(rows.labels, one) for one in predicted])
        self._state = predicted if counting.by_class else self.good.astype(np.int64)
        flipped = self._state[0] != self._state[-1]
        self.flipped: Bools = self.inside & flipped & counting.flips(predicted[0], predicted[-1])
        changed = self._state[1:] != self._state[:-1]
        self.stage: Ints = len(changed) - np.argmax(changed[::-1], axis=0)
        self.sign: Ints = self.good[-1].astype(np.int64) - self.good[0]

    @property
    def harmful(self) -> Bools:
        """Which rows [n] flipped in the direction that does harm."""
        wanted = {"lost": self.sign < 0, "gained": self.sign > 0}.get(self.counting.harm)
        return self.flipped if wanted is None else self.flipped & wanted

    def count(self, direction: Direction) -> int:
        """Count the flips of one direction."""
        return int((self.flipped & (self.sign == _SIGN[direction])).sum())

    @property
    def wrong_before(self) -> int:
        """Count the rows of the cell that were wrong with the reference and still are."""
        wrong = self.good if self.counting.harm == "gained" else ~self.good
        return int((wrong[0] & wrong[-1] & self.inside).sum())

    def by_stage(self) -> tuple[StageFlips, ...]:
        """Count what each stage after the reference did."""
        fell = self.good[:-1] & ~self.good[1:] & self.inside
        rose = ~self.good[:-1] & self.good[1:] & self.inside
        counts = []
        for at, name in enumerate(self.names[1:]):
            here = self.flipped & (self.stage == at + 1)
            by_direction = {word: int((here & (self.sign == sign)).sum()) for word, sign in _SIGN.items()}
            counts.append(StageFlips(stage=name, fell=int(fell[at].sum()), rose=int(rose[at].sum()), **by_direction))
        return tuple(counts)

    def harmful_at(self) -> dict[StageName, int]:
        """Count the harmful flips by the stage at which they flipped for good, most first."""
        counts = {name: int((self.harmful & (self.stage == at + 1)).sum()) for at, name in enumerate(self.names[1:])}
        return {name: n for name, n in sorted(counts.items(), key=lambda item: -item[1]) if n}

    def flip(self, row: int) -> Flip:
        """Return one row's flip."""
        direction = {sign: word for word, sign in _SIGN.items()}[int(self.sign[row])]
        return Flip(direction=direction, stage=self.names[self.stage[row]], trace=self.all_stages.trace(row))

    def ordered(self) -> list[int]:
        """Return the rows that flipped: harmful ones first, by direction, then the surest of the deployed ones."""
        chosen = np.flatnonzero(self.flipped)
        deployed = self.all_stages.predicted[-1, chosen]
        sure = self.all_stages.probabilities[-1, chosen, deployed]
        order = np.lexsort((self.all_stages.rows.ids[chosen], -sure, self.sign[chosen], ~self.harmful[chosen]))
        return [int(row) for row in chosen[order]]

    def shares(self, group: Group, context: Group) -> Iterator[Share]:
        """Say where the harmful flips pile up: by every attribute and context that is free, and by cluster."""
        rows = self.all_stages.rows
        if not self.harmful.any():
            return
        for columns, fixed in ((rows.attributes, group), (rows.contexts, context)):
            for axis, values in columns.items():
                if fixed.get(axis, ALL) == ALL:
                    yield from self._by_level(axis, values)
        if rows.clusters is not None:
            several = [one for one in self._by_level("cluster", rows.clusters) if one.flips > 1]
            yield from several[:CLUSTERS_NAMED]

    def _by_level(self, axis: str, values: NDArray[np.str_]) -> Sequence[Share]:
        levels, at = np.unique(values, return_inverse=True)
        rows = np.bincount(at[self.inside], minlength=len(levels))
        flips = np.bincount(at[self.harmful], minlength=len(levels))
        found = [
            Share(
                axis=axis,
                level=str(level),
                rows=int(n),
                flips=int(k),
                share_of_rows=float(n / rows.sum()),
                share_of_flips=float(k / flips.sum()),
            )
            for level, n, k in zip(levels, rows, flips, strict=True)
            if n
        ]
        return sorted(found, key=lambda one: (-one.flips, one.rows, one.level))


_SIGN: dict[Direction, int] = {"lost": -1, "gained": 1, "changed": 0}
