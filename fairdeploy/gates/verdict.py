"""`gate`: from evidence and rules to a verdict, one sentence for whoever must sign, and an exit code."""

from __future__ import annotations

from collections.abc import Iterable

from fairdeploy.errors import ExitCode, IntegrityError
from fairdeploy.evidence.judge import Evidence
from fairdeploy.evidence.records import LEVELS, EvidenceRecord, Level
from fairdeploy.gates.finding import Finding
from fairdeploy.gates.findings import findings
from fairdeploy.gates.records import CellVerdict, Gates, Rule, Status, Verdict

WOULD: dict[Status, str] = {"fail": "fail", "inconclusive": "stay open", "undefined": "be undefined", "pass": "pass"}


def gate(evidence: Evidence, gates: Gates) -> Verdict:
    """Decide every cell of every rule, and the target.

    The target fails if a required cell fails; otherwise it is inconclusive if a required cell is inconclusive or
    undefined, or if there is no required cell at all; otherwise it passes.

    Raises
    ------
    IntegrityError
        If the tallies are not those that the evidence was made from.
    ConfigError
        If a rule's metric has no meaning for the number of classes.
    """
    record = evidence.record
    digests = {name: tally.digest for name, tally in evidence.tallies.items()}
    if digests != record.tally_digests:
        raise IntegrityError(f"{record.target}: the tallies are not those that the evidence was made from")
    cells = tuple(_cell(rule, one, record.level) for rule in gates.rules for one in findings(evidence, rule))
    status = _overall(cells)
    return Verdict(
        target=record.target,
        status=status,
        sentence=_sentence(record, status, [cell for cell in cells if cell.required]),
        cells=cells,
        gates_digest=gates.digest,
        evidence_digest=record.digest,
    )


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


def _cell(rule: Rule, found: Finding, level: Level | None) -> CellVerdict:
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
        rows_needed=found.rows_needed,
        forecast=forecast,
        required=rule.required,
        where=rule.where,
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 9) + 0.0


def _overall(cells: Iterable[CellVerdict]) -> Status:
    required = {cell.status for cell in cells if cell.required}
    if "fail" in required:
        return "fail"
    return "pass" if required == {"pass"} else "inconclusive"


def _sentence(record: EvidenceRecord, status: Status, cells: list[CellVerdict]) -> str:
    target = record.target
    if record.failure is not None:
        return f"On {target}, nothing could be judged: {' '.join(record.failure.split())}"
    if not cells:
        return f"On {target}, no gate that must hold was checked, so nothing was shown."
    deciding = [
        cell for cell in cells if cell.status == status or (status == "inconclusive" and cell.status == "undefined")
    ]
    forecasts = [cell.forecast for cell in deciding if cell.forecast]
    if status == "inconclusive" and forecasts:
        would = ", ".join(f"{forecasts.count(one)} would {WOULD[one]}" for one in WOULD if one in forecasts)
        return (
            f"{target} itself was not measured (evidence level: {record.level or 'none'}), so "
            f"{_checks(len(deciding))} of {len(cells)} cannot be decided; on the evidence there is, {would}."
        )
    worst = max(deciding, key=nearness)
    reason = worst.reason[0].lower() + worst.reason[1:]
    if status == "pass":
        hold = f"all {len(cells)} checks hold" if len(cells) > 1 else "the one check holds"
        return f"On {target}, {hold}; closest: {reason}"
    if status == "fail":
        return f"On {target}, {_checks(len(deciding))} of {len(cells)} failed; worst: {reason}"
    return f"On {target}, {_checks(len(deciding))} of {len(cells)} cannot be decided; foremost: {reason}"


def _checks(count: int) -> str:
    return f"{count} check{'s' if count != 1 else ''}"


def nearness(cell: CellVerdict) -> float:
    """Rank cells by how much of what is allowed they use up: by their value if failed, else by their bound."""
    decisive = cell.value if cell.status == "fail" else cell.lower if cell.condition == "min" else cell.upper
    if decisive is None:
        return float("inf")
    return (1 - decisive) / (1 - cell.bound) if cell.condition == "min" else decisive / cell.bound
