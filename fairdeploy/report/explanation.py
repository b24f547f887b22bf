"""An explanation for people: in the terminal, and as a page with pictures that stays on the machine of the data."""

from __future__ import annotations

import base64
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fairdeploy.data import StoredSplit
from fairdeploy.errors import ConfigError
from fairdeploy.evidence.metrics import ALL
from fairdeploy.evidence.records import Group
from fairdeploy.explain import Explained, Explanation
from fairdeploy.explain.records import Asked, Flip, Share, Trace
from fairdeploy.line import STATE
from fairdeploy.records import write_atomic
from fairdeploy.report import words
from fairdeploy.report.environment import environment
from fairdeploy.workflow import BUILDS

LEAST_SIDE = 8  # smaller inputs are no pictures
ABOUT = {
    "dense": "the network as it was trained",
    "pruned": "its channels switched off",
    "compact": "those channels removed",
    "exported": "recovered where pruned, and exported",
    "quantised": "calibrated and quantised",
    "runtime": "the artifact in its runtime",
}


def print_explanation(one: Explanation, console: Console) -> None:
    """Print an explanation; of a row that was asked for its trace, else the rows that flipped."""
    head = Text(f"{words.STATUS_SHAPE[one.cell.status]} {words.STATUS_WORD[one.cell.status]}  ", "bold")
    console.print(head.append(f"{one.target}  ").append(f"{cell_title(one)} ({one.cell.rule})", ""), soft_wrap=True)
    _paragraph(console, one.cell.reason)
    if one.failure is not None:
        _paragraph(console, f"the runtime failed; its last words: {one.failure.strip()}")
    _paragraph(console, one.sentence, "bold")
    if one.asked is not None:
        _print_asked(one.asked, console)
    else:
        _print_flips(one, console)
    for step in one.advice:
        _paragraph(console, f"try: {step.text}")
        if step.command:
            console.print(Text(f"    {step.command}"), soft_wrap=True)
    if one.advice:
        console.print(Text(f"  Then: {one.rebuild}"), soft_wrap=True)


def _print_flips(one: Explanation, console: Console) -> None:
    if one.rows:
        _paragraph(console, f"counted: {one.counts}")
        _print_table(
            console,
            ("stage", "lost", "gained", "fell", "rose", ""),
            [(s.stage, str(s.lost), str(s.gained), str(s.fell), str(s.rose), ABOUT[s.stage]) for s in one.stages],
            right=(1, 2, 3, 4),
        )
        _paragraph(console, "lost, gained: for good; fell, rose: against the stage before, also what came back later")
    if one.flips:
        total = one.lost + one.gained + one.changed
        more = f", {len(one.flips)} of {total} shown" if len(one.flips) < total else ""
        _paragraph(console, f"rows that flipped, harmful ones first, then the surest{more}:")
        lines = [flip_words(one, flip) for flip in one.flips]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            padded = "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True))
            console.print(Text(f"    {padded.rstrip()}"), soft_wrap=True)
    if one.shares:
        _paragraph(console, f"where the {sum_flips(one)} harmful ones pile up (a description, not a test):")
        _print_table(console, ("", "", "flips", "of all", "rows", "of all"), share_rows(one.shares), right=(2, 3, 4, 5))
    if one.flip_clusters:
        _paragraph(console, spread(one))


def flip_words(one: Explanation, flip: Flip) -> tuple[str, ...]:
    """Say of a flip: where it happened, which row, its label, both predictions, and where the row comes from."""
    trace = flip.trace
    points = {point.stage: point for point in trace.points}
    before, after = points[one.reference], trace.points[-1]
    return (
        f"{flip.direction} at {flip.stage}",
        trace.id,
        f"labelled {trace.label}",
        f"{before.predicted} {before.confidence:.2f} \N{RIGHTWARDS ARROW} {after.predicted} {after.confidence:.2f}",
        place(trace, one.cell.group, one.cell.context),
    )


def _print_asked(asked: Asked, console: Console) -> None:
    trace = asked.trace
    _paragraph(console, f"row {trace.id}, labelled {trace.label}; {place(trace)}")
    _print_table(
        console,
        ("stage", "score", "predicted", "confidence", ""),
        [
            (p.stage, f"{p.score:.4f}", p.predicted, f"{p.confidence:.4f}", "changed" * (p.stage in trace.changed_at))
            for p in trace.points
        ],
        right=(1, 3),
    )
    _paragraph(console, said_of(asked))


def said_of(asked: Asked) -> str:
    """Say what the cell made of the row that was asked for."""
    if asked.flip:
        return f"In this cell it is {asked.flip}, at '{asked.stage}'."
    return "The cell counts it as before: it did not flip." if asked.in_cell else "This cell does not count it."


def cell_title(one: Explanation) -> str:
    """Name a cell, as in "true positive rate, skin tone VI, light dim"."""
    groups = [words.group_name(part) for part in (one.cell.group, one.cell.context) if part]
    return ", ".join([words.metric_name(one.cell.metric), *(groups or ["everyone"])])


def place(trace: Trace, *known: Group) -> str:
    """Say where a row comes from: its groups, contexts and cluster, without those that are known already."""
    named = {**trace.group, **trace.context} | ({"cluster": trace.cluster} if trace.cluster else {})
    told = {axis for levels in known for axis, level in levels.items() if level != ALL}
    return ", ".join(f"{axis.replace('_', ' ')} {level}" for axis, level in named.items() if axis not in told)


def sum_flips(one: Explanation) -> int:
    """Count the harmful flips."""
    return {"lost": one.lost, "gained": one.gained, "any": one.lost + one.gained + one.changed}[one.harm]


def share_rows(shares: tuple[Share, ...]) -> list[tuple[str, ...]]:
    """Shape the shares into the rows of a table."""
    return [
        (
            one.axis.replace("_", " "),
            one.level,
            words.count(one.flips),
            words.percent(one.share_of_flips),
            words.count(one.rows),
            words.percent(one.share_of_rows),
        )
        for one in shares
    ]


def spread(one: Explanation) -> str:
    """Say over how many clusters the harmful flips are spread."""
    return (
        f"They come from {words.count(one.flip_clusters)} of the {words.count(one.clusters)} clusters of these "
        f"{words.count(one.rows)} rows."
    )


def _print_table(
    console: Console, titles: tuple[str, ...], rows: list[tuple[str, ...]], *, right: tuple[int, ...] = ()
) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for at, title in enumerate(titles):
        table.add_column(title, overflow="fold", justify="right" if at in right else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(Padding(table, (0, 0, 0, 2), expand=False))


def _paragraph(console: Console, text: str, style: str = "") -> None:
    console.print(Padding(Text(words.first_upper(text), style), (0, 0, 0, 2), expand=False))


def write_page(found: Explained, out: Path, *, project: Path) -> None:
    """Write an explanation with the pictures of its rows as one offline HTML file, for its owner alone to read.

    Parameters
    ----------
    found : Explained
    out : Path
        Not below the project's builds or store: the page shows people, and those folders are handed on.
    project : Path
        The project's folder.

    Raises
    ------
    ConfigError
        If `out` is in such a folder, or the page cannot be written there.
    """
    inside = [kept for kept in (BUILDS, STATE) if out.resolve().is_relative_to((project / kept).resolve())]
    if inside or any((folder / "manifest.json").exists() for folder in out.resolve().parents):
        place = f"{inside[0]}/" if inside else "a bundle"
        raise ConfigError(f"the page shows people's rows: it is not written into {place}; choose --out", file=out)
    if not out.parent.is_dir() or out.is_dir():
        raise ConfigError("no such folder to write the page into", file=out)
    write_atomic(out, render_page(found).encode())
    out.chmod(0o600)


def render_page(found: Explained) -> str:
    """Return the page as one HTML document."""
    one = found.explanation
    at = {str(name): row for row, name in enumerate(found.evaluate.rows.ids.tolist())}
    traces = [*(flip.trace for flip in one.flips), *([one.asked.trace] if one.asked else [])]
    template = environment().get_template("explanation.html.j2")
    return template.render(
        one=one,
        title=cell_title(one),
        about=ABOUT,
        pictures={trace.id: pictures(found.evaluate, at[trace.id]) for trace in traces},
        shares=share_rows(one.shares),
        harmful=sum_flips(one),
        spread=spread(one) if one.flip_clusters else "",
        said=said_of(one.asked) if one.asked else "",
        place=place,
        flip_words=flip_words,
    )


def pictures(split: StoredSplit, row: int) -> list[tuple[str, str]]:
    """Return (input's name, PNG as a data URI) for each input of a row that is a picture."""
    found = []
    for name, values in split.inputs.items():
        picture = _pixels(np.asarray(values[row]))
        if picture is not None:
            found.append((name, f"data:image/png;base64,{base64.b64encode(png(picture)).decode()}"))
    return found


def _pixels(values: NDArray[Any]) -> NDArray[np.uint8] | None:
    """Return one row's values as pixels [height, width, 1 or 3]; None where they are no picture."""
    if values.ndim != 3:
        return None
    if values.shape[0] in (1, 3) and min(values.shape[1:]) >= LEAST_SIDE:
        values = values.transpose(1, 2, 0)
    elif values.shape[2] not in (1, 3) or min(values.shape[:2]) < LEAST_SIDE:
        return None
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    low, high = (0.0, 1.0) if values.min() >= 0 and values.max() <= 1 else (float(values.min()), float(values.max()))
    if low >= 0 and 1 < high <= 255:
        low, high = 0.0, 255.0
    return np.asarray(np.rint((values - low) / max(high - low, 1e-12) * 255), np.uint8)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode pixels [height, width, 1 or 3] as PNG (ISO/IEC 15948), grey or RGB of 8 bits, unfiltered."""
    height, width, channels = pixels.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines, 9)) + chunk(b"IEND", b"")
