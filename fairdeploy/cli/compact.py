"""``fairdeploy compact``: a network without the channels that carry nothing, and the proof."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.text import Text

from fairdeploy.cli.common import print_json, stderr, stdout
from fairdeploy.errors import ConfigError, ExitCode
from fairdeploy.records import write_atomic

if TYPE_CHECKING:
    from fairdeploy.compaction import CompactModel

FILES = ("graph.json", "weights.safetensors", "compaction.json", "widths.svg", "widths.html")


def compact(
    model: Annotated[
        str, Parameter(help="package.module:function that returns the network, or a folder written with --out.")
    ],
    *,
    weights: Annotated[Path | None, Parameter(help="Safetensors file with the network's state.")] = None,
    masks: Annotated[
        Path | None, Parameter(help="npz or JSON file, per group one 0 or 1 for each channel; 1 keeps it.")
    ] = None,
    input: Annotated[
        tuple[str, ...],
        Parameter(negative="", help="Shape of one row, 3,32,32 or NAME=3,32,32; once for each input."),
    ] = (),
    rows: Annotated[
        Path | None, Parameter(help="npz file of real rows [n, ...] per input, for the proof; in the place of --input.")
    ] = None,
    out: Annotated[
        Path | None, Parameter(name=["--out", "-o"], help="Folder for the graph, its weights, record and picture.")
    ] = None,
    wide_layer_norm: Annotated[
        bool, Parameter(negative="", help="Let channels under layer norms go too; the norms get slower.")
    ] = False,
    directory: Annotated[
        Path, Parameter(name=["--directory", "-C"], help="Folder that MODEL is imported from.")
    ] = Path(),
    json: Annotated[bool, Parameter(negative="", help="Print one JSON document.")] = False,
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative="", help="No progress.")] = False,
) -> int:
    """Remove the channels that are switched off, and prove in float64 that the outputs stayed.

    Zeros in the parameters switch channels off, whichever tool left them there; so do --masks. The folder of --out is
    loaded again without the network's code, here and by fairdeploy.load_graph.
    """
    if out is not None:
        _check_folder(out, model)
    with _timed(f"load {model}", quiet=quiet), redirect_stdout(sys.stderr):
        from fairdeploy.compaction import compact as remove
        from fairdeploy.compaction.given import given_rows, load_network, read_masks

        network = load_network(model, directory, weights)
        given = given_rows(network, input, rows)
        chosen = None if masks is None else read_masks(masks)
    with _timed("compact", quiet=quiet), redirect_stdout(sys.stderr):
        found = remove(network, given.inputs, chosen, check_inputs=given.inputs, wide_layer_norm=wide_layer_norm)
    real_rows = min(len(given.inputs[0]), max(found.proof.batch_sizes)) if given.real else None
    if out is not None:
        with _timed(f"write {out}", quiet=quiet), redirect_stdout(sys.stderr):
            _write(found, out, model, real_rows)
    if json:
        print_json(
            "compact",
            model=model,
            compaction=found.record().model_dump(mode="json"),
            real_rows=real_rows,
            folder=None if out is None else str(out),
        )
        return ExitCode.DONE
    from fairdeploy.report.widths import print_widths

    print_widths(found, stdout(), real_rows=real_rows)
    if out is not None:
        stdout().print(Text(f"written: {out}"), soft_wrap=True)
    return ExitCode.DONE


def _check_folder(folder: Path, model: str) -> None:
    """Refuse a folder that holds anything but what this command writes, or the network itself."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError("is no folder: give --out a new one", file=folder)
    if folder.exists() and Path(model).exists() and folder.samefile(model):
        raise ConfigError("holds the network itself: give --out another folder", file=folder)
    others = sorted(file.name for file in folder.iterdir() if file.name not in FILES) if folder.exists() else []
    if others:
        raise ConfigError(f"holds '{others[0]}', which is not overwritten: give --out a new folder", file=folder)


def _write(found: CompactModel, folder: Path, name: str, real_rows: int | None) -> None:
    """Write the folder whole, or leave what was there."""
    from fairdeploy.report.widths import widths_html, widths_svg

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as place:
            work = Path(place) / "new"
            found.save(work)
            write_atomic(work / "widths.svg", widths_svg(found).encode())
            write_atomic(work / "widths.html", widths_html(found, name, real_rows=real_rows).encode())
            old = folder.replace(Path(place) / "old") if folder.exists() else None
            try:
                work.replace(folder)
            except BaseException:
                if old is not None:
                    old.replace(folder)
                raise
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror or error}", file=folder) from error


@contextmanager
def _timed(label: str, *, quiet: bool) -> Iterator[None]:
    """Say on stderr what is done, and how long it took."""
    console, start = stderr(), time.perf_counter()
    if console.is_terminal and not quiet:
        console.print(Text(f"  {label} ..."), end="\r")
    yield
    if not quiet:
        console.print(Text(f"  {label}: {time.perf_counter() - start:.1f} s"), soft_wrap=True)
