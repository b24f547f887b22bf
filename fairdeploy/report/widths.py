"""What compaction removed: in the terminal, as a picture of the layers' widths, and as a page with both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from fairdeploy import __version__
from fairdeploy.report import words
from fairdeploy.report.build_view import Widths, layer_widths
from fairdeploy.report.environment import environment
from fairdeploy.report.tables import Table

if TYPE_CHECKING:
    from fairdeploy.compaction import CompactModel

BAR = 10
NAMED = 4
TOTALS = ("MACs for one row", "Parameters", "Size")


def print_widths(found: CompactModel, console: Console, *, real_rows: int | None) -> None:
    """Print the channels of every group, the totals, and the proof.

    Parameters
    ----------
    found : CompactModel
    console : Console
    real_rows : int, optional
        How many rows the user gave for the check; None if they were random.
    """
    layers = Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for title in ("group", "channels", "before", "after", "why the rest stayed"):
        layers.add_column(
            title, justify="right" if title in ("before", "after") else "left", overflow="fold",
            no_wrap=title in ("channels", "before", "after"),
        )  # fmt: skip
    for name, (before, after) in found.removed.items():
        layers.add_row(
            Text(name), _bar(before, after), words.count(before), words.count(after), Text(_reason(found, name))
        )
    console.print(layers)
    whole = Grid(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for title in ("", "before", "after", "left"):
        whole.add_column(title, justify="right" if title else "left")
    for row in totals(found):
        whole.add_row(*row)
    console.print(whole)
    for sentence in sentences(found, real_rows=real_rows):
        console.print(Text(sentence))


def totals(found: CompactModel) -> list[tuple[str, str, str, str]]:
    """Return what, before, after and the share that is left, of the whole network."""
    pairs = (
        (found.macs_before, found.macs_after, words.count),
        (found.parameters_before, found.parameters_after, words.count),
        (found.bytes_before, found.bytes_after, words.size),
    )
    return [
        (what, show(before), show(after), words.percent(after / before if before else None))
        for what, (before, after, show) in zip(TOTALS, pairs, strict=True)
    ]


def sentences(found: CompactModel, *, real_rows: int | None) -> list[str]:
    """Return the proof, what was not understood, and whether the user's own class holds the result."""
    from fairdeploy.compaction.graph_labels import INPUT, OUTPUT

    proof = found.proof
    rows = "random rows" if real_rows is None else f"{words.count(real_rows)} real rows"
    if real_rows == 1:
        rows = "1 real row"
    difference = f"at most {proof.max_difference:.1e} of the largest output"
    said = [
        f"Proof: in {proof.dtype} the outputs differ by {difference if proof.max_difference else 'nothing at all'}, at "
        f"batch sizes {' and '.join(map(str, proof.batch_sizes))}, on {rows}. Another row changes them by "
        f"{words.percent(proof.sensitivity)}, so that equality says something."
    ]
    if proof.still_outputs:
        places = ", ".join(str(place) for place in proof.still_outputs)
        said.append(f"Outputs that did not change with the rows, counted from 0: {places}; of these it says nothing.")
    if all(before == after for before, after in found.removed.values()):
        said.append(
            "Nothing was removed: no channel is switched off. Zeros in the parameters switch channels off, or masks."
        )
    inside = {name: why for name, why in found.whole.items() if why not in (INPUT, OUTPUT)}
    if inside:
        named = [f"{name} ({why})" for name, why in list(inside.items())[:NAMED]]
        rest = [f"{words.count(len(inside) - NAMED)} more"] if len(inside) > NAMED else []
        said.append(f"Whole whatever the masks say: {', '.join([*named, *rest])}.")
    if found.unknown_ops:
        said.append(f"No rule follows {', '.join(found.unknown_ops)}: what they touch stayed whole.")
    if found.not_own_class is not None:
        said.append(f"Only the graph is smaller: {words.full_stop(found.not_own_class)}")
    return said


def widths_svg(found: CompactModel) -> str:
    """Return the picture of the widths as an SVG file of its own."""
    return environment().get_template("widths.svg.j2").render(widths=_widths(found))


def widths_html(found: CompactModel, name: str, *, real_rows: int | None) -> str:
    """Return the picture with its numbers as one page without a request or a script."""
    rows = tuple(
        (group, words.count(before), words.count(after), _reason(found, group))
        for group, (before, after) in found.removed.items()
    )
    table = Table("", "", ("Coupled layers", "Before", "After", "Why the rest stayed"), rows)
    return environment().get_template("widths.html.j2").render(
        name=name,
        sentences=sentences(found, real_rows=real_rows),
        totals=totals(found),
        widths=_widths(found),
        table=table,
        version=__version__,
    )  # fmt: skip


def _widths(found: CompactModel) -> Widths:
    return layer_widths(found.record().layers)


def _reason(found: CompactModel, group: str) -> str:
    """Say why channels stayed: those that carry nothing have reasons, the others are used."""
    return found.kept_because.get(group, "in use")


def _bar(before: int, after: int) -> str:
    full = max(1, round(BAR * after / before))
    if after < before:
        full = min(full, BAR - 1)
    return "█" * full + "░" * (BAR - full)
