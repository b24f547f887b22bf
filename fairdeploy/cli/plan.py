"""``fairdeploy plan``: what a build would run and why, what the gates need of the data, and what the last lacked."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from fairdeploy.cli.common import Common, Targets, print_json, stdout
from fairdeploy.errors import ExitCode
from fairdeploy.evidence import words
from fairdeploy.evidence.plans import PlanRow
from fairdeploy.planning import Plan, TooSmall, too_small
from fairdeploy.planning import plan as make_plan


def plan(
    *,
    target: Targets = (),
    check: Annotated[bool, Parameter(negative="", help="Exit 1 if a gate cannot be proven or a station ran.")] = False,
    flips_compact: Annotated[float, Parameter(help="Expected share of predictions that quantisation changes.")] = 0.01,
    flips_dense: Annotated[float, Parameter(help="Expected share that pruning and quantisation change.")] = 0.05,
    rate: Annotated[float, Parameter(help="Expected accuracy, TPR … where a rate or a gap is gated.")] = 0.9,
    icc: Annotated[float, Parameter(help="Expected correlation of the rows of one cluster.")] = 0.1,
    power: Annotated[float, Parameter(help="Wanted probability that all cells of a gate pass.")] = 0.8,
    gap: Annotated[float, Parameter(help="Expected true gap between groups; 0 is optimistic.")] = 0.0,
    loss: Annotated[float, Parameter(help="Expected true loss of every group against dense.")] = 0.0,
    simulate: Annotated[bool, Parameter(negative="", help="Check the planned rows by simulation, per rule.")] = False,
    build: Annotated[Path | None, Parameter(help="Only list the cells that this build had too few rows for.")] = None,
    common: Common | None = None,
) -> int:
    """Say before anything is made: rows per group that each gate needs, the smallest margin, and what would run.

    After a build, --build build/latest lists the cells that stayed open for want of rows.
    """
    common = common or Common()
    if build is not None:
        return _lacking(too_small(build, target), common)
    flips = {"compact": flips_compact, "dense": flips_dense}
    found = make_plan(
        common.folder, target, config=common.config, flip_rates=flips, rate=rate, icc=icc, power=power, gap=gap,
        loss=loss, simulate=simulate,
    )  # fmt: skip
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
    for (name, bound), rows in groupby(found.rows, key=lambda row: (row.rule, row.bound)):
        group = list(rows)
        columns = [
            "group",
            "rows",
            "needs",
            "can prove",
            "design effect",
            *(["planned, simulated"] if simulate else []),
        ]
        table = Table(*columns, box=None, padding=(0, 2))
        for row in group:
            table.add_row(*map(Text, _cells(row)[: len(columns)]))
        console.print(Text(f"{name}: {bound:g}", style="bold"))
        console.print(table)
        console.print(Text(f"  assumed: {group[0].shared_assumption}\n"), soft_wrap=True)
    missing = [station for station in found.stations if not station.kept]
    console.print(Text(f"stations: {len(found.stations) - len(missing)} are in the store"), style="bold")
    for station in missing:
        console.print(Text(f"  would run: {station.label} ({station.why})"), soft_wrap=True)
    return code


def _cells(row: PlanRow) -> tuple[str, ...]:
    margin = "none" if row.smallest_margin is None else f"{row.smallest_margin * 100:.1f} points"
    needs = "no number is enough" if row.rows_needed is None else f"{row.rows_needed:,}"
    tick = "✓" if row.enough else "✗"
    simulated = "none" if row.simulated_power is None else f"{row.simulated_power:.0%}"
    passes = f"{row.planned_power:.0%}, {simulated}"
    return (words(row.group), f"{row.rows_available:,}", f"{tick} {needs}", margin, f"{row.design_effect:g}", passes)


def _lacking(cells: tuple[TooSmall, ...], common: Common) -> int:
    if common.json:
        print_json("plan", exit_code=int(ExitCode.DONE), too_small=[cell.__dict__ for cell in cells])
        return ExitCode.DONE
    console = stdout()
    if not cells:
        console.print("No cell of this build is open for want of rows.")
        return ExitCode.DONE
    table = Table("target", "rule", "group", "rows", "needs", "missing", box=None, padding=(0, 2))
    for cell in cells:
        needs, missing = (
            "more may not settle it" if number is None else f"{number:,}"
            for number in (cell.rows_needed, cell.rows_missing)
        )
        who = words({**cell.group, **cell.context})
        table.add_row(*map(Text, (cell.target, cell.rule, who, f"{cell.rows:,}", needs, missing)))
    console.print(table)
    return ExitCode.DONE


def _settled(found: Plan) -> bool:
    return all(station.kept for station in found.stations) and all(row.enough for row in found.rows)
