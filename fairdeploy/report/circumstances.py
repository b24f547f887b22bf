"""Circumstances: changes within one context, as in dim light, and where the whole and its parts disagree."""

from __future__ import annotations

from fairdeploy.bundle import Bundle
from fairdeploy.evidence.records import Change, EvidenceRecord, Reversal
from fairdeploy.gates.records import EXCESS
from fairdeploy.report import words

CHANGES = ("max_drop", "max_increase")
MOST_SAID = 10


def context_rows(bundle: Bundle) -> list[Change]:
    """Return the changes within one context of the metrics that are gated on a change."""
    gated = {(cell.metric, cell.against) for cell in bundle.verdict.cells if cell.condition in CHANGES}
    return [one for one in bundle.evidence.changes if one.context and (one.metric, one.against) in gated]


def reversals(evidence: EvidenceRecord) -> list[str]:
    """Say Simpson's reversals, a sentence for each, the largest first; of many only how many more there are."""
    ordered = sorted(evidence.reversals, key=lambda one: -abs(one.change))
    more = len(ordered) - MOST_SAID
    rest = [f"{words.count(more)} smaller ones stand in the evidence."] if more > 0 else []
    return [_sentence(one) for one in ordered[:MOST_SAID]] + rest


def _sentence(one: Reversal) -> str:
    rate = words.metric_name(one.metric.removesuffix(EXCESS))
    who, context, up = words.group_name(one.group), one.context.replace("_", " "), one.change > 0
    whole, parts = words.change(one.change), ", ".join(f"{at} {words.change(part)}" for at, part in one.within.items())
    if one.than is not None:
        said = f"{who} is above that of {words.group_name(one.than)} over everything ({whole} points), yet below it"
    elif one.metric.endswith(EXCESS):
        more, less = ("more", "less") if up else ("less", "more")
        said = f"{who} fell {more} than everyone's over everything ({whole} points against {one.against}), yet {less}"
    else:
        went, turned = ("rose", "fell") if up else ("fell", "rose")
        said = f"{who} {went} over everything ({whole} points against {one.against}), yet {turned}"
    return (
        f"The {rate} of {said} within every {context} ({parts}): the rows are spread differently over them, so judge "
        f"the parts (Simpson's reversal)."
    )
