"""Circumstances: changes within one context, as in dim light, and where the whole and its parts disagree."""

from __future__ import annotations

from fairdeploy.bundle import Bundle
from fairdeploy.evidence.records import Change, EvidenceRecord, Reversal
from fairdeploy.report import words

CHANGES = ("max_drop", "max_increase")


def context_rows(bundle: Bundle) -> list[Change]:
    """Return the changes within one context of the metrics that are gated on a change."""
    gated = {(cell.metric, cell.against) for cell in bundle.verdict.cells if cell.condition in CHANGES}
    return [one for one in bundle.evidence.changes if one.context and (one.metric, one.against) in gated]


def reversals(evidence: EvidenceRecord) -> list[str]:
    """Say every Simpson's reversal in a sentence."""
    return [_sentence(one) for one in evidence.reversals]


def _sentence(one: Reversal) -> str:
    went, within = ("rose", "fell") if one.change > 0 else ("fell", "rose")
    parts = ", ".join(f"{level} {words.change(change)}" for level, change in one.within.items())
    context = one.context.replace("_", " ")
    return (
        f"The {words.metric_name(one.metric)} of {words.group_name(one.group)} {went} over everything "
        f"({words.change(one.change)} points against {one.against}), yet {within} within every {context} "
        f"({parts}): the rows are spread differently over them, so judge the parts (Simpson's reversal)."
    )
