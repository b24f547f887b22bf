"""Which cell is meant, and what it counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fairdeploy.bundle import TargetBundle
from fairdeploy.data import Rows
from fairdeploy.errors import ConfigError
from fairdeploy.evidence.metrics import ALL, FLIPS, GAPS, RATES, RateMetric, accuracy
from fairdeploy.evidence.records import Group, StageName
from fairdeploy.gates import CellVerdict, Status, nearness
from fairdeploy.gates.records import EVERYONE, EXCESS, LATENCY
from fairdeploy.target import ALIASES
from fairdeploy.yamlfile import nearest

WORST_FIRST: tuple[Status, ...] = ("fail", "inconclusive", "undefined", "waived", "pass")

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Harm = Literal["lost", "gained", "any"]


@dataclass(frozen=True)
class Counting:
    """What a cell counts.

    Attributes
    ----------
    words : str
    admits : callable
        ``labels [n] -> bool [n]``: the rows of its denominator.
    good : callable
        ``(labels [n], predictions [n]) -> bool [n]``: what is lost or gained.
    by_class : bool
        Whether any other predicted class is a flip, also one that is as wrong.
    flips : callable
        ``(reference [n], deployed [n]) -> bool [n]``: the changes of prediction that count; all but for one direction.
    harm : {"lost", "gained", "any"}
    before : StageName
        The stage that it is compared with.
    """

    words: str
    admits: Callable[[Any], Bools]
    good: Callable[[Any, Any], Bools]
    by_class: bool
    flips: Callable[[Any, Any], Bools]
    harm: Harm
    before: StageName


def find_cell(
    bundles: Sequence[TargetBundle], cell: Sequence[str] = (), *, target: str | None = None
) -> tuple[TargetBundle, CellVerdict]:
    """Return the cell that is meant: the worst of those that the words leave.

    Parameters
    ----------
    bundles : sequence of TargetBundle
    cell : sequence of str
        A rule's name, then ``axis=level`` for each attribute and context, or ``everyone``; as much as is known.
    target : str, optional
        Id or alias.

    Raises
    ------
    ConfigError
        If there is no such target or cell (the nearest is named), or it is not about predictions.
    """
    named = {bundle.target.id: bundle for bundle in bundles}
    if target is not None and ALIASES.get(target, target) not in named:
        raise ConfigError(f"the latest build has no target '{target}'{nearest(target, named)}")
    chosen = [named[ALIASES.get(target, target)]] if target else list(bundles)
    found = [(bundle, one) for bundle in chosen for one in bundle.verdict.cells]
    for part in _matches, _in_group:
        found = part(found, cell)
    return min(found, key=lambda pair: _rank(pair[1]))


Found = list[tuple[TargetBundle, CellVerdict]]


def _matches(found: Found, cell: Sequence[str]) -> Found:
    about_people = [pair for pair in found if _about_people(pair[1])]
    if not cell:
        if not about_people:
            raise ConfigError("no gate of this build is about predictions, so there is nothing to explain")
        return about_people
    rule = cell[0]
    if any(one.rule == rule and not _about_people(one) for _, one in found):
        raise ConfigError(f"'{rule}' is not about predictions: no row explains it; 'fairdeploy report' shows its runs")
    kept = [pair for pair in about_people if pair[1].rule == rule]
    if not kept:
        raise ConfigError(f"no gate '{rule}'{nearest(rule, {one.rule for _, one in about_people})}")
    return kept


def _about_people(cell: CellVerdict) -> bool:
    return not LATENCY.fullmatch(cell.metric) and cell.metric not in ("size_mb", "peak_memory_mb")


def _in_group(found: Found, cell: Sequence[str]) -> Found:
    words = list(cell[1:])
    if not words:
        return found
    wanted = {} if words == [EVERYONE] else dict(_assignment(word) for word in words)
    kept = [pair for pair in found if {**pair[1].group, **pair[1].context} == wanted]
    if not kept:
        known = {cell_words(one) for _, one in found}
        raise ConfigError(f"'{cell[0]}' has no cell '{' '.join(words)}'{nearest(' '.join(words), known)}")
    return kept


def _assignment(word: str) -> tuple[str, str]:
    axis, equals, level = word.partition("=")
    if not equals:
        raise ConfigError(f"'{word}': name the group as attribute=level, or '{EVERYONE}'")
    return axis, level


def cell_words(cell: CellVerdict) -> str:
    """Return a cell's group and context as they are typed, as in ``skin_tone=VI``."""
    return " ".join(cell.address[1:])


def _rank(cell: CellVerdict) -> tuple[int, bool, int, float]:
    forecast = WORST_FIRST.index(cell.forecast or cell.status)
    return WORST_FIRST.index(cell.status), not cell.required, forecast, -nearness(cell)


def counting(cell: CellVerdict, classes: Sequence[str]) -> Counting:
    """Say what a cell counts, row by row.

    An excess drop counts as the rate that drops. A gap of several rates, and a metric that is no rate, count right
    predictions: those are what every error rate is made of.
    """
    metric = cell.metric.removesuffix(EXCESS)
    before: StageName = "exported" if cell.against == "compact" else "dense"
    if metric in FLIPS:
        words, flips = f"predictions that differ ({FLIPS[metric].words})", FLIPS[metric].indicator
        return Counting(words, accuracy.denominator, accuracy.indicator, True, flips, "any", before)
    parts = GAPS[metric].rates if metric in GAPS else (RATES[metric],) if metric in RATES else ()
    rate = parts[0] if len(parts) == 1 and isinstance(parts[0], RateMetric) else accuracy
    admits, good = rate.denominator, rate.indicator
    if cell.of_class is not None:
        one = list(classes).index(cell.of_class)
        admits, good = _one_against_rest(admits, good, one)
    if metric in RATES:
        rises = cell.condition in ("max", "max_increase") and not cell.metric.endswith(EXCESS)
        harm: Harm = "gained" if rises else "lost"
    else:
        harm = _HARM_IN_A_GAP.get(rate.name, "lost")
    return Counting(_words(rate.name, classes, cell.of_class), admits, good, False, _differ, harm, before)


_HARM_IN_A_GAP: dict[str, Harm] = {
    "selection_rate": "any",
    "false_positive_rate": "gained",
    "false_negative_rate": "gained",
}


def _one_against_rest(admits: Any, good: Any, one: int) -> tuple[Callable[[Any], Bools], Callable[[Any, Any], Bools]]:
    def is_one(values: Ints) -> Ints:
        return np.asarray(values == one, np.int64)

    return lambda labels: admits(is_one(labels)), lambda labels, predicted: good(is_one(labels), is_one(predicted))


def _differ(reference: Ints, deployed: Ints) -> Bools:
    return np.asarray(reference != deployed, bool)


def _words(rate: str, classes: Sequence[str], of_class: str | None) -> str:
    positive, negative = of_class or classes[-1], f"not {of_class}" if of_class else classes[0]
    known = {
        "true_positive_rate": f"predicted {positive}, of rows labelled {positive}",
        "false_positive_rate": f"predicted {positive}, of rows labelled {negative}",
        "true_negative_rate": f"predicted {negative}, of rows labelled {negative}",
        "false_negative_rate": f"predicted {negative}, of rows labelled {positive}",
        "selection_rate": f"predicted {positive}, of all rows",
    }
    return known.get(rate, "predicted rightly, of all rows")


def rows_of(rows: Rows, group: Group, context: Group) -> Bools:
    """Return which rows [n] belong to a group and a context; ``*`` is every level."""
    inside = np.ones(len(rows), bool)
    for columns, levels in ((rows.attributes, group), (rows.contexts, context)):
        for axis, level in levels.items():
            if level != ALL:
                inside &= columns[axis] == level
    return inside
