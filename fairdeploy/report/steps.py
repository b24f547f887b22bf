"""What to do next about a target that did not pass: one sentence per reason, and the lines to type."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from fairdeploy.bundle import Bundle, JudgedBundle
from fairdeploy.gates import CellVerdict, nearness
from fairdeploy.report import words

MOST_NAMED = 4


@dataclass(frozen=True)
class Step:
    """What is missing or wrong, and the commands that mend or show it."""

    text: str
    commands: tuple[str, ...] = ()


def next_steps(bundle: Bundle, *, flags: str = "") -> tuple[Step, ...]:
    """Return the steps for one target, the gravest first; none when it passed.

    Parameters
    ----------
    flags : str
        What names the project to every command, as in ``-C kiosk -c other.yaml``; empty in its own folder.
    """
    if isinstance(bundle, JudgedBundle):
        return tuple(_more_rows(bundle.verdict.cells, "Add rows to the predictions", ()))
    target, cells = bundle.verdict.target, bundle.verdict.cells
    said = f" {flags}" if flags else ""
    check, build = f"fairdeploy doctor{said} -t {target}", f"fairdeploy build{said} -t {target}"
    steps = []
    failed = sorted((one for one in cells if one.status == "fail"), key=lambda one: (not one.required, -nearness(one)))
    of_people = [cell for cell in failed if words.is_fairness(cell)]
    if of_people:
        steps.append(
            Step(
                "Find the stage where it happened. A fall at “quantised” or “runtime” is mended at the target: "
                "by another precision or calibration. One before that is mended by pruning less or recovering longer.",
                (
                    f"fairdeploy explain{said} -t {target} {shlex.join(of_people[0].address)}",
                    f"fairdeploy compare{said}",
                ),
            )
        )
    if len(of_people) < len(failed):
        text = (
            "It is slower or larger than allowed: prune more, or choose another precision. See what each target costs:"
        )
        steps.append(Step(text, (f"fairdeploy compare{said}",)))
    if bundle.evidence.failure:
        steps.append(Step("The runtime gave no predictions. Mend it, then measure again:", (check, build)))
    elif any(cell.forecast for cell in cells):
        mend = bundle.evidence.level_mend
        if mend:
            steps.append(Step(f"Get evidence from the target itself: {words.full_stop(mend)}", (check,)))
        else:
            steps.append(Step("Run these two lines on the target hardware itself:", (check, build)))
    return (*steps, *_more_rows(cells, "Add rows to the evaluate split", (f"fairdeploy plan{said}", build)))


def _more_rows(cells: Iterable[CellVerdict], what: str, commands: tuple[str, ...]) -> Iterable[Step]:
    """Yield the step for cells that lack rows: each group once, with the most that it needs."""
    short = [
        cell
        for cell in cells
        if cell.required and cell.status == "inconclusive" and too_small(cell) and not cell.forecast
    ]
    if short:
        most = {words.group_name(cell.group): cell for cell in sorted(short, key=lambda one: one.rows_needed or 0)}
        named = sorted(most.items(), key=lambda item: -(item[1].rows_needed or 0))
        wanted = [f"{name}: n = {words.count(c.n)}, needs {words.count(c.rows_needed)}" for name, c in named]
        others = f"; and {len(wanted) - MOST_NAMED} more groups" if len(wanted) > MOST_NAMED else ""
        end = ", then:" if commands else ", then judge again."
        yield Step(f"{what} ({'; '.join(wanted[:MOST_NAMED])}{others}){end}", commands)


def too_small(cell: CellVerdict) -> bool:
    """Say whether a cell lacks rows for its gate."""
    return cell.rows_needed is not None and (cell.n is None or cell.n < cell.rows_needed)
