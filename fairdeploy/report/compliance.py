"""The compliance view: per target the fields that an auditor asks for, as facts and tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fairdeploy.bundle import BuildRecord, Bundle, JudgedBundle
from fairdeploy.evidence.compliance import Impact, Inequity, compliance
from fairdeploy.evidence.records import EvidenceRecord
from fairdeploy.gates import CellVerdict, Status
from fairdeploy.report import words
from fairdeploy.report.find import find_change, find_rate, find_shift
from fairdeploy.report.source import Source
from fairdeploy.report.tables import Table

CELL_COLUMNS = (
    "Cell", "Reference, %", "Deployed, %", "Found", "Bound", "Margin, set at", "n", "α, method", "Verdict, why, waiver",
)  # fmt: skip
IMPACT_COLUMNS = ("Category", "Rows", "Share, %", "Selection rate, %", "Impact ratio", "Four fifths")


@dataclass(frozen=True)
class ComplianceView:
    """One target's facts, by name, and its tables."""

    target: str
    status: Status
    facts: tuple[tuple[str, str], ...]
    tables: tuple[Table, ...]


def compliance_views(source: Source) -> list[ComplianceView]:
    """Return the compliance view of every target, what blocks a release first."""
    return [_view(bundle, source.build) for bundle in source.worst_first]


def _view(bundle: Bundle, build: BuildRecord | None) -> ComplianceView:
    figures = compliance(bundle.evidence)
    cells = Table(
        title="Every gated cell",
        note="Rates in %, changes and gaps in points; where a drop is limited, a loss is positive. The bound at 1 − α "
        "decides, against the margin. "
        f"Seed of the bootstrap: {bundle.evidence.seed}.",
        columns=CELL_COLUMNS,
        rows=tuple(_cell(bundle.evidence, cell) for cell in bundle.verdict.cells),
    )
    tables = [cells, *map(_impact, figures.impacts), *map(_inequity, figures.inequities)]
    return ComplianceView(
        target=bundle.verdict.target,
        status=bundle.verdict.status,
        facts=tuple(_facts(bundle, build)),
        tables=tuple(table for table in tables if table.rows),
    )


def _facts(bundle: Bundle, build: BuildRecord | None) -> Iterable[tuple[str, str]]:
    evidence, manifest = bundle.evidence, bundle.manifest
    if isinstance(bundle, JudgedBundle):
        yield "Decision", bundle.predictions.decision
        for name, text in bundle.predictions.references.items():
            yield f"Reference {name}", text
    yield "Artifact digest", evidence.artifact_digest or "none: made elsewhere, or nothing was built"
    yield "Backend and version", " ".join(filter(None, map(evidence.runtime.get, ("name", "version")))) or "none"
    yield "Device", "fake device: nothing was measured on hardware" if evidence.fake_device else evidence.level_reason
    yield "Evidence level", evidence.level or "none"
    yield "Precision asked for", evidence.requested_precision
    yield "Layers by realised precision", words.precision(evidence.realised_precision)
    yield "Data digest", evidence.data_fingerprint
    yield from _groups(evidence)
    yield "Rows excluded", "none: a row that cannot be used is refused, never dropped"
    yield "Evidence digest", bundle.verdict.evidence_digest
    fixed = "" if isinstance(bundle, JudgedBundle) else ", fixed before the target ran"
    yield f"Gates digest{fixed}", bundle.verdict.gates_digest
    for name, known in evidence.tally_digests.items():
        yield f"Tally digest, {name}", known
    yield "Method and version", f"fairdeploy {manifest.versions.get('fairdeploy', 'of unknown version')}"
    yield "Seed", str(evidence.seed)
    if build:
        yield "Looks", words.first_upper(words.looks(build.attempts, build.gate_sets))


def _groups(evidence: EvidenceRecord) -> Iterable[tuple[str, str]]:
    """Yield each attribute with its levels, their rows, and how many are unknown."""
    everyone = find_rate(evidence, "accuracy", {})
    if everyone is not None:
        yield "Rows judged", words.count(everyone.n)
    counts: dict[str, dict[str, int]] = {}
    for rate in evidence.rates:
        if rate.metric == "accuracy" and len(rate.group) == 1 and not rate.context:
            ((attribute, level),) = rate.group.items()
            counts.setdefault(attribute, {"unknown": 0})[level] = rate.n
    for attribute, levels in counts.items():
        unknown = levels.pop("unknown")
        known = ", ".join(f"{level} {words.count(n)}" for level, n in levels.items())
        yield f"Groups by {attribute.replace('_', ' ')}", f"{known}; unknown {words.count(unknown)}"


def _cell(evidence: EvidenceRecord, cell: CellVerdict) -> tuple[str, ...]:
    wanted = (cell.metric, cell.against, cell.group, cell.context)
    change = find_change(evidence, *wanted) or find_shift(evidence, *wanted)
    decides = cell.lower if cell.condition == "min" else cell.upper
    why = [words.STATUS_WORD[cell.status] + ("" if cell.required else ", only reported") + ":", cell.reason]
    if cell.waiver:
        why.append(words.waiver(cell))
    return (
        words.cell_name(cell),
        words.rate(change.reference) if change else words.NONE,
        words.rate(change.deployed) if change else words.NONE,
        words.quantity(cell.value, cell.unit, decimals=2),
        words.quantity(decides, cell.unit, decimals=2),
        words.allowed(cell) + (f", {cell.where}" if cell.where else ""),
        words.count(cell.n),
        f"{1 - cell.confidence:.3g}, {cell.method}",
        " ".join(why),
    )


def _impact(impact: Impact) -> Table:
    most = words.group_name(impact.most_selected) if impact.most_selected else "no category: the ratios are undefined"
    return Table(
        title=f"Selection rates and impact ratios by {_names(impact.attributes)}",
        note=f"Against the most selected category, {most}. {words.count(impact.unknown)} of {words.count(impact.rows)} "
        "rows are of unknown category and in none. A category under 2 % of the rows is left out of the ratios, not of "
        "the list. Four fifths looks at the point and knows no interval.",
        columns=IMPACT_COLUMNS,
        rows=tuple(
            (
                words.group_name(one.group),
                words.count(one.n),
                words.rate(one.share),
                f"{words.rate(one.selection_rate)} ({words.span(one.interval)})",
                "left out: under 2 % of the rows" if one.left_out else _ratio(one.impact_ratio),
                words.NONE if one.below_four_fifths is None else "below" if one.below_four_fifths else "met",
            )
            for one in impact.categories
        ),
    )


def _inequity(inequity: Inequity) -> Table:
    return Table(
        title=f"{words.first_upper(words.metric_name(inequity.metric))} by {_names(inequity.attributes)}, how unequal",
        note=f"Largest over geometric mean {_ratio(inequity.max_over_geometric_mean)}, largest over smallest "
        f"{_ratio(inequity.max_over_min)}, Gini {_ratio(inequity.gini)}. A dash: a group has no rows that count, or a "
        "rate is 0. Points, without intervals.",
        columns=("Group", "Rows that count", "Rate, %", "Over geometric mean"),
        rows=tuple(
            (words.group_name(one.group), words.count(one.n), words.rate(one.rate), _ratio(one.over_geometric_mean))
            for one in inequity.groups
        ),
    )


def _names(attributes: tuple[str, ...]) -> str:
    return " and ".join(name.replace("_", " ") for name in attributes)


def _ratio(value: float | None) -> str:
    return words.NONE if value is None else words.number(value, 3)
