"""How a cell's numbers are said: points with enough digits, what is allowed, how sure, and the rows still needed."""

from __future__ import annotations

import math
from collections.abc import Callable

from fairdeploy.evidence.clusters import cluster_count
from fairdeploy.gates.records import Rule, Status

Show = Callable[..., str]


def points(rate: float, beside: float | None = None) -> str:
    """Write a rate in points, with as many digits as keep it apart from the number it stands beside."""
    for digits in (1, 2, 3):
        text = f"{100 * rate:.{digits}f}"
        apart = beside is None or rate == beside or text != f"{100 * beside:.{digits}f}"
        if apart and (float(text) or not rate):
            break
    return text


def plain(value: float, beside: float | None = None) -> str:
    """Write a number that is no rate, with as many digits as keep it apart from the number it stands beside."""
    for digits in (4, 5, 6):
        text = f"{value:.{digits}g}"
        if beside is None or value == beside or text != f"{beside:.{digits}g}":
            break
    return text


def own_digits(rule: Rule) -> str:
    """Write a rule's bound as it was set, a rate in points."""
    return f"{100 * rule.bound if rule.unit == 'rate' else rule.bound:g}"


def allowed(rule: Rule) -> str:
    """Say what a rule allows or requires."""
    return f"at least {own_digits(rule)} required" if rule.at_least else f"at most {own_digits(rule)} allowed"


def sure(rule: Rule, status: Status, lower: float, upper: float, show: Show) -> str:
    """Say how sure it is that the number lies on one side of the bound, or how far it may lie beyond."""
    if status == "inconclusive":
        extreme = f"low as {show(lower, rule.bound)}" if rule.at_least else f"high as {show(upper, rule.bound)}"
        return f", but may be as {extreme} ({allowed(rule)})"
    above = rule.at_least == (status == "pass")
    beyond = f"{'above' if above else 'below'} {show(lower if above else upper, rule.bound)}"
    return f"; {100 * rule.confidence:g} % sure that it is {beyond} ({allowed(rule)})"


def rows(n: int, needed: int | None, buckets: int | None) -> str:
    """Say how many rows there are and how many are needed; `buckets` where rows are clustered."""
    there = f"{n} row{'s' if n != 1 else ''}"
    if not needed:
        return f"{there}, and more of them may not settle it"
    if not buckets:
        return f"{there}, about {needed} needed"
    clusters = math.ceil(needed * cluster_count(buckets, n) / n)
    return (
        f"{there}, about {needed} needed, the further ones from new clusters (people, drawings), "
        f"about {clusters} clusters in all"
    )
