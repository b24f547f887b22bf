"""The report in the terminal: a verdict line per target, the cells that decide, what to do next; and the comparison.

User text goes through `rich.text.Text`, so that ``[/etc]`` is text and no markup. Colours follow the console: none
where NO_COLOR is set or nobody watches.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fairdeploy.bundle import Bundle
from fairdeploy.gates import Status, Verdict
from fairdeploy.report import view, words
from fairdeploy.report.comparison import Row, compare, comparison_json
from fairdeploy.report.source import Source

__all__ = ["comparison_json", "print_comparison", "print_verdict", "print_verdicts"]

MOST_CELLS = 10
STYLE: dict[Status, str] = {
    "pass": "bold blue",
    "fail": "bold dark_orange",
    "inconclusive": "bold",
    "undefined": "bold",
    "waived": "bold blue",
}


def print_verdicts(source: Source, console: Console, *, flags: str = "") -> None:
    """Print every target's verdict, what blocks a release first, with the cells that decide and what to do next.

    Parameters
    ----------
    source : Source
    console : Console
    flags : str
        What names the project to the commands of the next steps, as in ``-C kiosk``.
    """
    console.print(Text(source.title + (f", build {source.build.build_id}" if source.build else "")))
    if source.across:
        console.print()
        print_verdict(source.across, console)
    for bundle in source.worst_first:
        console.print()
        print_verdict(bundle.verdict, console)
        one = view.target_view(bundle, flags=flags)
        if one.fake:
            console.print(Text("  fake device: a rehearsal, nothing was measured on hardware", "bold reverse"))
        if one.failure:
            console.print(Text("  the runtime failed; its last words:", "bold"))
            for line in one.failure.strip().splitlines()[-5:]:
                console.print(_indented(line, 4))
        elif not one.measured and not one.fake:
            console.print(_indented(words.first_upper(f"{one.level}. {words.full_stop(one.level_reason)}"), 2))
        for step in one.steps:
            console.print(_indented(f"next: {step.text}", 2))
            for command in step.commands:
                console.print(Text(f"    {command}"), soft_wrap=True)


def print_verdict(verdict: Verdict, console: Console) -> None:
    """Print one verdict: its line, the cells that decide, worst first and at most ten, and how many pass."""
    line = Text(f"{words.STATUS_SHAPE[verdict.status]} {words.STATUS_WORD[verdict.status]}", STYLE[verdict.status])
    console.print(line.append(f"  {words.target_name(verdict.target)}", "bold"))
    if verdict.sentence:
        console.print(_indented(verdict.sentence, 2))
    ordered = view.deciding_first(verdict.cells)
    deciding = [cell for cell in ordered if cell.status != "pass" and cell.forecast != "pass"]
    forecast = sum(cell.forecast == "pass" for cell in ordered)
    if deciding:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
        for title in ("", "cell", "found (bounds)", "allowed", "n"):
            table.add_column(title, overflow="fold", justify="right" if title == "n" else "left")
        for cell in deciding[:MOST_CELLS]:
            needed = f"\nneeds {words.count(cell.rows_needed)}" if cell.rows_needed is not None else ""
            table.add_row(
                Text(words.STATUS_SHAPE[cell.status], STYLE[cell.status]),
                Text(words.cell_name(cell)),
                Text(words.found(cell)),
                Text(words.allowed(cell)),
                Text(words.count(cell.n) + needed),
            )
        console.print(table)
    rest = [
        (len(deciding) - MOST_CELLS, "more that do not pass"),
        (forecast, "that would pass on evidence of the level that the gates ask for"),
        (sum(cell.status == "pass" for cell in ordered), "that pass"),
    ]
    for count, what in rest:
        if count > 0:
            console.print(_indented(f"{'and ' if deciding else ''}{count} {what}", 2))


def print_comparison(bundles: Sequence[Bundle], console: Console) -> None:
    """Print bundles side by side, as many in a row as the console is wide."""
    if not bundles:
        console.print("nothing to compare")
        return
    first, each = 24, 17
    at_once = max(1, (console.width - first) // each)
    for start in range(0, len(bundles), at_once):
        some = bundles[start : start + at_once]
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
        table.add_column("", max_width=first, overflow="fold")
        for bundle in some:
            table.add_column(Text(bundle.verdict.target), overflow="fold", justify="right")
        section = ""
        for row in compare(some):
            if row.section and row.section != section:
                table.add_row(Text(row.section, "bold"))
            section = row.section
            table.add_row(
                Text(f"  {row.name}" if row.section else row.name), *(_cell(row, i) for i in range(len(some)))
            )
        console.print(table)


def _cell(row: Row, index: int) -> Text:
    value, detail = row.values[index]
    status = row.statuses[index] if row.statuses else None
    text = Text(value, STYLE[status] if status else "")
    return text.append(f"\n{detail}", "not bold") if detail else text


def _indented(text: str, by: int) -> Table:
    """Return text that keeps its left margin when it wraps."""
    grid = Table.grid(padding=0)
    grid.add_column(width=by)
    grid.add_column(overflow="fold")
    grid.add_row("", Text(text))
    return grid
