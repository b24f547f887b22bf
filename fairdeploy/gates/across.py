"""The global view: rules that hold over all targets of a build, as one verdict with the target "*".

A rule of one target (`min`, `max_drop` …) must hold on the worst of them; ``max_spread`` bounds how far they differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from fairdeploy.errors import ConfigError
from fairdeploy.evidence.judge import Evidence
from fairdeploy.gates.finding import Finding, missing
from fairdeploy.gates.records import CellVerdict, Gates, Rule, Status, Verdict, Waiver
from fairdeploy.gates.spread import spreads
from fairdeploy.gates.summary import nearness, overall, summary
from fairdeploy.gates.verdict import cell_verdict, judged_cells, lowest_level
from fairdeploy.gates.waivers import waive, waiver_sentences
from fairdeploy.records import digest

ALL_TARGETS = "*"
WORST: tuple[Status, ...] = ("fail", "inconclusive", "undefined", "waived", "pass")


def gate_across(
    evidence: Sequence[Evidence],
    gates: Gates,
    *,
    absent: Sequence[str] = (),
    waivers: Sequence[Waiver] = (),
    today: date | None = None,
) -> Verdict:
    """Decide rules over all targets.

    Parameters
    ----------
    evidence : sequence of Evidence
        One per target, of the same rows.
    gates : Gates
    absent : sequence of str
        Targets that the project has and that were not built: while there are any, nothing holds over all of them.
    waivers : sequence of Waiver
        Those for the target "*".
    today : date
        What waivers are held against.

    Returns
    -------
    Verdict
        Of the target "*"; each cell says which target decided it.

    Raises
    ------
    ConfigError
        If there is no target, or as `gate` raises.
    """
    if not evidence:
        raise ConfigError("there is no target to judge over")
    found = [cell for rule in gates.rules for cell in _rule(rule, evidence, absent)]
    found_cells, uses = waive(found, ALL_TARGETS, waivers, today)
    status = overall(found_cells)
    sentence = summary(
        "Over all targets", status, found_cells, unmeasured="Not every target itself was measured at the level needed"
    )
    return Verdict(
        target=ALL_TARGETS,
        status=status,
        sentence=" ".join([sentence, *waiver_sentences(uses)]),
        cells=found_cells,
        waivers=uses,
        gates_digest=gates.digest,
        evidence_digest=digest({one.record.target: one.record.digest for one in evidence}),
    )


def _rule(rule: Rule, evidence: Sequence[Evidence], absent: Sequence[str]) -> list[CellVerdict]:
    if absent:
        return [cell_verdict(rule, missing(rule, f"{', '.join(absent)} was not built"), lowest_level(evidence))]
    if rule.condition == "max_spread":
        return [cell_verdict(rule, one, lowest_level(evidence)) for one in _spreads(rule, evidence)]
    return _worst(rule, evidence)


def _worst(rule: Rule, evidence: Sequence[Evidence]) -> list[CellVerdict]:
    """Return each cell as it stands on the target where it is worst; that target is named once, in the reason.

    Where nothing is known of a target, that is a cell of its own: neither another's fail nor a waiver of it hides it.
    """
    worst: dict[str, CellVerdict] = {}
    for one in evidence:
        for cell in judged_cells(one, Gates(rules=(rule,))):
            reason = f"On {one.record.target}, {cell.reason[0].lower()}{cell.reason[1:]}"
            cell = cell.model_copy(update={"reason": reason, "target": one.record.target})
            unknown = cell.value is None and cell.status == "inconclusive"
            key = digest([cell.group, cell.context, cell.target if unknown else None])
            if key not in worst or _badness(cell) > _badness(worst[key]):
                worst[key] = cell
    return list(worst.values())


def _badness(cell: CellVerdict) -> tuple[int, float]:
    return -WORST.index(cell.status), nearness(cell)


def _spreads(rule: Rule, evidence: Sequence[Evidence]) -> list[Finding]:
    failed = [one.record.target for one in evidence if one.record.failure is not None or not one.tallies]
    if failed:
        return [missing(rule, f"there are no predictions of {', '.join(failed)}")]
    if len(evidence) < 2:
        return [missing(rule, "there is only one target")]
    if len({one.record.data_fingerprint for one in evidence}) > 1:
        return [missing(rule, "the targets were evaluated on different rows")]
    names = [one.record.target for one in evidence]
    tallies = [next(iter(one.tallies.values())) for one in evidence]
    if rule.of_class is not None:
        classes = tallies[0].schema.classes
        if rule.of_class not in classes:
            return [missing(rule, f"there is no class {rule.of_class} among {', '.join(classes)}")]
        tallies = [one.one_vs_rest(classes.index(rule.of_class)) for one in tallies]
    if rule.within is not None and rule.within not in tallies[0].schema.contexts:
        return [missing(rule, f"there is no context {rule.within}")]
    return spreads(rule, names, tallies, seed=evidence[0].record.seed)
