"""What to do next about a target that did not pass: one sentence per reason, and the lines to type."""

from __future__ import annotations

from dataclasses import dataclass

from fairdeploy.bundle import Bundle
from fairdeploy.gates import CellVerdict
from fairdeploy.report import words

MOST_NAMED = 4


@dataclass(frozen=True)
class Step:
    """What is missing or wrong, and the commands that mend or show it."""

    text: str
    commands: tuple[str, ...] = ()


def next_steps(bundle: Bundle) -> tuple[Step, ...]:
    """Return the steps for one target, the gravest first; none when it passed."""
    target, cells = bundle.verdict.target, bundle.verdict.cells
    check, build = f"fairdeploy doctor -t {target}", f"fairdeploy build -t {target}"
    steps = []
    if any(cell.status == "fail" for cell in cells):
        steps.append(
            Step(
                "Find the stage where it happened. A fall at “quantised” or “runtime” is mended at the target: "
                "by another precision or calibration. One before that is mended by pruning less or recovering longer.",
                ("fairdeploy compare",),
            )
        )
    if bundle.evidence.failure:
        steps.append(Step("The runtime gave no predictions. Mend it, then measure again:", (check, build)))
    elif any(cell.forecast for cell in cells):
        mend = bundle.evidence.level_mend
        if mend:
            steps.append(Step(f"Get evidence from the target itself: {words.full_stop(mend)}", (check,)))
        else:
            steps.append(Step("Run these two lines on the target hardware itself:", (check, build)))
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
        text = f"Add rows to the evaluate split ({'; '.join(wanted[:MOST_NAMED])}{others}), then:"
        steps.append(Step(text, ("fairdeploy plan", build)))
    return tuple(steps)


def too_small(cell: CellVerdict) -> bool:
    """Say whether a cell lacks rows for its gate."""
    return cell.rows_needed is not None and (cell.n is None or cell.n < cell.rows_needed)
