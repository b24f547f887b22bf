"""The numbers that no chart shows, as tables: gaps, statistics and scores, flips, and changes that are no sums."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fairdeploy.evidence.metrics import FLIPS, GAPS, RATES
from fairdeploy.evidence.records import EvidenceRecord, Gap, Rate, Shift
from fairdeploy.report import words
from fairdeploy.report.find import group_key
from fairdeploy.report.tables import Table

KINDS = (
    ("_excess_drop", "Excess drop: what a group lost beyond everyone", "points"),
    ("_normalised_change", "Normalised change: the change relative to the reference's rate", "%"),
    ("", "Changes of statistics and scores", "points"),
)
QUANTISATION = "After ±: how far a score metric may be from that of unbinned scores."


def measure_tables(evidence: EvidenceRecord) -> list[Table]:
    """Return the tables of one target over all contexts; those without a row are left out."""
    rates = [one for one in evidence.rates if not one.context and one.metric not in RATES]
    shifts = [one for one in evidence.shifts if not one.context]
    tables = [
        _gaps(evidence.gaps),
        _by_group(
            "Statistics and scores of what is deployed",
            "In %, with intervals.",
            [one for one in rates if one.metric not in FLIPS],
        ),
        _by_group(
            "Flips: predictions that differ from the reference's",
            "In % of the rows, with intervals.",
            [one for one in rates if one.metric in FLIPS],
        ),
    ]
    unpaired = "" if all(one.paired for one in shifts) else " The reference saw other rows: the bounds are unpaired."
    for suffix, title, unit in KINDS:
        chosen = [one for one in shifts if one.metric.endswith(suffix)]
        shifts = [one for one in shifts if not one.metric.endswith(suffix)]
        for against in dict.fromkeys(one.against for one in chosen):
            note = f"In {unit}, with intervals, against {against}.{unpaired}"
            tables.append(_by_group(title, note, [one for one in chosen if one.against == against]))
    return [table for table in tables if table.rows]


def _gaps(gaps: Iterable[Gap]) -> Table:
    return Table(
        title="Gaps over the groups",
        note="Differences in points, ratios as numbers, with simultaneous intervals. A dash: a group has no rows that "
        "count, or there is only one.",
        columns=("Measure", "Over", "Value", "Interval", "Highest", "Lowest"),
        rows=tuple(_gap(one) for one in gaps),
    )


def _gap(gap: Gap) -> tuple[str, ...]:
    def show(value: float) -> str:
        return words.number(value, 3) if ratio else words.rate(value)

    ratio = gap.metric in GAPS and GAPS[gap.metric].ratio
    return (
        words.metric_name(gap.metric),
        gap.attribute.replace("_", " "),
        words.NONE if gap.value is None else show(gap.value),
        f"{show(gap.interval.lower)} to {show(gap.interval.upper)}" if gap.interval else words.NONE,
        gap.highest or words.NONE,
        gap.lowest or words.NONE,
    )


def _by_group(title: str, note: str, records: Sequence[Rate | Shift]) -> Table:
    """Lay records out as groups x (metric, reference)."""
    columns = list(dict.fromkeys((one.metric, one.against) for one in records))
    several = len({against for _, against in columns}) > 1
    groups = {group_key(one.group): one.group for one in records}
    found = {(group_key(one.group), one.metric, one.against): _number(one) for one in records}
    return Table(
        title=title,
        note=f"{note} {QUANTISATION}" if any(one.quantisation for one in records) else note,
        columns=("Group", *(_heading(metric, against if several else None) for metric, against in columns)),
        rows=tuple(
            (words.group_name(group), *(found.get((key, *column), words.NONE) for column in columns))
            for key, group in groups.items()
        ),
    )


def _heading(metric: str, against: str | None) -> str:
    short = metric.removesuffix("_excess_drop").removesuffix("_normalised_change")
    return words.first_upper(words.metric_name(short)) + (f" against {against}" if against else "")


def _number(one: Rate | Shift) -> str:
    signed = isinstance(one, Shift)
    value = words.change(one.change) if isinstance(one, Shift) else words.rate(one.value)
    exactness = f" ± {words.significant(100 * one.quantisation)}" if one.quantisation else ""
    return f"{value}{exactness}" + (f" ({words.span(one.interval, signed=signed)})" if one.interval else "")
