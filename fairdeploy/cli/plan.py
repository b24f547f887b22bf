"""``fairdeploy plan``: what a build would run and why, and what the gates need of the data."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from fairdeploy.cli.common import Common, Targets, print_json, stdout
from fairdeploy.errors import ExitCode
from fairdeploy.evidence import words
from fairdeploy.evidence.planner import Assumptions, PlanRow
from fairdeploy.planning import Plan
from fairdeploy.planning import plan as make_plan


def plan(
    *,
    target: Targets = (),
    check: Annotated[bool, Parameter(negative="", help="Exit 1 if a gate cannot be proven or a station ran.")] = False,
    flip_rate: Annotated[float, Parameter(help="Expected share of predictions that change.")] = 0.02,
    rate: Annotated[float, Parameter(help="Expected accuracy, TPR … where a rate or a gap is gated.")] = 0.9,
    design_effect: Annotated[float, Parameter(help="Rows that weigh as one, being of one cluster.")] = 1.0,
    power: Annotated[float, Parameter(help="Wanted probability that all cells of a gate pass.")] = 0.8,
    common: Common | None = None,
) -> int:
    """Say before anything is made: rows per group that each gate needs, the smallest margin, and what would run."""
    common = common or Common()
    given = Assumptions(flip_rate=flip_rate, rate=rate, design_effect=design_effect, power=power)
    found = make_plan(common.folder, target, config=common.config, assumptions=given)
    code = ExitCode.FAILED if check and not _settled(found) else ExitCode.DONE
    if common.json:
        print_json(
            "plan",
            exit_code=int(code),
            stations=[one.__dict__ for one in found.stations],
            rows=[row.model_dump(mode="json") for row in found.rows],
        )
        return code
    console = stdout()
    table = Table(
        "gate", "group", "margin", "rows", "needs", "can prove", box=None, title="Evaluate split", min_width=70
    )
    for row in found.rows:
        table.add_row(*map(Text, _cells(row)))
    console.print(table)
    for assumption in dict.fromkeys(row.assumption for row in found.rows):
        console.print(Text(f"  assumed: {assumption}"), soft_wrap=True)
    console.print()
    table = Table("station", "state", box=None, title="Stations")
    for station in found.stations:
        table.add_row(Text(station.label), Text("kept" if station.kept else f"would run: {station.why}"))
    console.print(table)
    return code


def _cells(row: PlanRow) -> tuple[str, ...]:
    margin = "none" if row.smallest_margin is None else f"{row.smallest_margin * 100:.1f} points"
    needs = "no number is enough" if row.rows_needed is None else f"{row.rows_needed:,}"
    tick = "✓" if row.enough else "✗"
    return (row.rule, words(row.group), f"{row.bound:g}", f"{row.rows_available:,}", f"{tick} {needs}", margin)


def _settled(found: Plan) -> bool:
    return all(station.kept for station in found.stations) and all(row.enough for row in found.rows)
