"""`gate`: from evidence and rules to a verdict, one sentence for whoever must sign, and an exit code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date

from fairdeploy.errors import ExitCode, IntegrityError
from fairdeploy.evidence.judge import Evidence
from fairdeploy.evidence.records import LEVELS, Level
from fairdeploy.gates.finding import Finding
from fairdeploy.gates.findings import findings
from fairdeploy.gates.records import CellVerdict, Gates, Rule, Status, Verdict, Waiver
from fairdeploy.gates.summary import overall, summary
from fairdeploy.gates.waivers import waive, waiver_sentences

MOST_ROWS = 2**53 - 1  # the largest whole number that canonical JSON can write


def gate(evidence: Evidence, gates: Gates, *, waivers: Sequence[Waiver] = (), today: date | None = None) -> Verdict:
    """Decide every cell of every rule, and the target.

    The target fails if a required cell fails; otherwise it is inconclusive if a required cell is inconclusive or
    undefined, or if there is no required cell at all; otherwise it is waived if a required cell is; otherwise it
    passes.

    Parameters
    ----------
    evidence : Evidence
    gates : Gates
    waivers : sequence of Waiver
        Those for this target; the verdict says what became of each.
    today : date
        What waivers are held against; needed where there are any.

    Raises
    ------
    IntegrityError
        If the tallies are not those that the evidence was made from.
    ConfigError
        If a rule's metric has no meaning for the number of classes, or `today` is missing.
    """
    record = evidence.record
    cells = judged_cells(evidence, gates)
    cells, uses = waive(cells, record.target, waivers, today)
    status = overall(cells)
    if record.failure is None:
        unmeasured = f"{record.target} itself was not measured (evidence level: {record.level or 'none'})"
        sentence = summary(f"On {record.target}", status, cells, unmeasured=unmeasured)
    else:
        sentence = f"On {record.target}, nothing could be judged: {' '.join(record.failure.split())}"
    return Verdict(
        target=record.target,
        status=status,
        sentence=" ".join([sentence, *waiver_sentences(uses)]),
        cells=cells,
        waivers=uses,
        gates_digest=gates.digest,
        evidence_digest=record.digest,
    )


def judged_cells(evidence: Evidence, gates: Gates) -> tuple[CellVerdict, ...]:
    """Decide every cell of every rule, without waivers; raises as `gate` does."""
    record = evidence.record
    digests = {name: tally.digest for name, tally in evidence.tallies.items()}
    unpaired = {name: tally.digest for name, tally in evidence.unpaired.items()}
    if digests != record.tally_digests or unpaired != record.unpaired_digests:
        raise IntegrityError(f"{record.target}: the tallies are not those that the evidence was made from")
    return tuple(cell_verdict(rule, one, record.level) for rule in gates.rules for one in findings(evidence, rule))


def worst_exit(statuses: Iterable[Status]) -> ExitCode:
    """Return the exit code over all targets: a fail before not enough evidence before done."""
    seen = set(statuses)
    if not seen:
        return ExitCode.NOTHING_JUDGED
    if "fail" in seen:
        return ExitCode.FAILED
    return ExitCode.DONE if seen <= {"pass", "waived"} else ExitCode.INCONCLUSIVE


def least_level(rule: Rule) -> Level | None:
    """Return the least evidence level that a rule accepts: its own, else the default of its kind."""
    if rule.level is not None or rule.metric == "size_mb":
        return rule.level
    return "emulated" if rule.kind == "fairness" else "device"


def lowest_level(evidence: Iterable[Evidence]) -> Level | None:
    """Return the lowest level of some evidence; None if one was made elsewhere."""
    levels = [one.record.level for one in evidence]
    return None if None in levels else min(levels, key=LEVELS.index)


def cell_verdict(rule: Rule, found: Finding, level: Level | None) -> CellVerdict:
    """Turn a finding into a verdict; evidence below the least level is inconclusive, with a forecast."""
    least = least_level(rule) if level is not None else rule.level
    known = found.value is not None or found.status == "undefined"
    too_low = least is not None and (level is None or LEVELS.index(level) < LEVELS.index(least))
    status, reason, forecast = found.status, found.reason, None
    if too_low and known:
        status, forecast = "inconclusive", found.status
        have = f"only at level {level}" if level else "elsewhere, at no known level"
        reason = f"{found.reason} It was measured {have}; this gate needs at least {least}."
    return CellVerdict(
        rule=rule.name,
        metric=rule.metric,
        condition=rule.condition,
        against=rule.against,
        group=found.group,
        context=found.context,
        of_class=rule.of_class,
        status=status,
        bound=rule.bound,
        value=found.value,
        lower=_rounded(found.lower),
        upper=_rounded(found.upper),
        unit=found.unit,
        n=found.n,
        method=found.method,
        confidence=rule.confidence,
        reason=reason,
        rows_needed=None if found.rows_needed is None else min(found.rows_needed, MOST_ROWS),
        forecast=forecast,
        required=rule.required,
        where=rule.where,
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 9) + 0.0
