"""Simpson's reversal between two groups: one above the other over everything, below it within every context."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from fairdeploy.evidence.records import Rate, Reversal
from fairdeploy.evidence.shifts import COMPARED
from fairdeploy.evidence.tally import UNKNOWN

Key = tuple[str, str, str]  # metric, attribute, level


def order_reversals(rates: Sequence[Rate]) -> tuple[Reversal, ...]:
    """Find the pairs of groups whose order by a deployed rate turns round within every level of a context.

    Levels in which a group of the pair has no denominator cannot be compared; at least two must be left (Simpson 1951,
    J. R. Stat. Soc. B 13, 238; Bickel et al. 1975, Science 187, 398). A pair that is even somewhere is no reversal.

    Parameters
    ----------
    rates : sequence of Rate
        Of one artifact, over everything and within contexts; of each attribute alone.

    Returns
    -------
    tuple of Reversal
        `group` is the one with the higher rate over everything and `than` the other.
    """
    whole: dict[tuple[str, str], dict[str, float]] = {}
    within: dict[Key, dict[str, dict[str, float]]] = {}
    for one in rates:
        if one.metric not in COMPARED or one.value is None or len(one.group) != 1:
            continue
        ((attribute, level),) = one.group.items()
        if level == UNKNOWN:
            continue
        if not one.context:
            whole.setdefault((one.metric, attribute), {})[level] = one.value
        for context, place in one.context.items():
            within.setdefault((one.metric, attribute, level), {}).setdefault(context, {})[place] = one.value
    return tuple(
        found
        for (metric, attribute), levels in whole.items()
        for pair in combinations(sorted(levels, key=lambda level: -levels[level]), 2)
        for found in _between(metric, attribute, pair, levels, within)
    )


def _between(
    metric: str,
    attribute: str,
    pair: tuple[str, ...],
    levels: Mapping[str, float],
    within: Mapping[Key, Mapping[str, Mapping[str, float]]],
) -> Iterator[Reversal]:
    higher, lower = pair
    change = levels[higher] - levels[lower]
    parts, others = (within.get((metric, attribute, level), {}) for level in pair)
    for context in parts:
        there = others.get(context, {})
        differences = {place: value - there[place] for place, value in parts[context].items() if place in there}
        if change > 0 and len(differences) > 1 and max(differences.values()) < 0:
            yield Reversal(
                metric=metric,
                against=None,
                group={attribute: higher},
                than={attribute: lower},
                context=context,
                change=change,
                within=differences,
            )
