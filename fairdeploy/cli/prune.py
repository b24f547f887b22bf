"""``fairdeploy prune``: a project's candidates, before any target is looked at."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fairdeploy.bundle import CompactionRecord, LogEntry
from fairdeploy.cli.common import Common, Progress, print_json, stdout
from fairdeploy.errors import ConfigError, ExitCode, MissingExtra

if TYPE_CHECKING:
    from fairdeploy.pruning.front import Measured

NEEDED = ("train", "prune", "tune")  # example rows come from tune


def prune(*, common: Common | None = None) -> int:
    """Make a network's candidates: fair teacher, pruning, compaction and fine-tuning; no export and no target.

    Accuracy and constraints are those of the prune split, on which channels and multipliers were found: they say how
    the search went. A build chooses on tune and judges on evaluate, and takes these stations from the store.
    """
    common = common or Common()
    for package in ("torch", "safetensors"):
        if find_spec(package) is None:
            raise MissingExtra("pruning a PyTorch model", "torch")
    from fairdeploy.line import Line, Listener
    from fairdeploy.pruning.front import Measured, Option, costs_of, decide

    progress = Progress(common)
    line = Line(common.folder, common.config, listener=Listener(progress.start, progress.done, progress.count))
    keep = line.project.prune.keep
    if keep is None:
        raise ConfigError("prune: method: none leaves the network whole; give a method, and what to keep")
    networks = line.networks(line.splits(NEEDED))
    dense = Measured.load(networks.measure(None).folder / "measured.json")
    records = [CompactionRecord.load(networks.compact(level).folder / "compaction.json") for level in keep.levels]
    measured = [Measured.load(networks.measure(level).folder / "measured.json") for level in keep.levels]
    names = [level.name for level in keep.levels]
    options = [
        Option(level.name, costs_of(record, level), right)
        for level, record, right in zip(keep.levels, records, measured, strict=True)
    ]
    verdicts = tuple(decide(options))
    decisions = tuple(entry for level in keep.levels for entry in networks.decisions(level))
    log = (*dict.fromkeys(decisions), *verdicts)  # what all levels share is said once
    if common.json:
        print_json(
            "prune",
            dense=dense.model_dump(mode="json"),
            candidates=[
                {
                    "name": name,
                    "kept": verdict.decision == "kept",
                    "compaction": record.model_dump(mode="json"),
                    "measured": right.model_dump(mode="json"),
                }
                for name, record, right, verdict in zip(names, records, measured, verdicts, strict=True)
            ],
            decisions=[entry.model_dump(mode="json") for entry in log],
        )
        return ExitCode.DONE
    first = records[0]
    table = Table(*COLUMNS, box=None, padding=(0, 1))
    table.add_row(*_row("dense", first.macs_before, first.parameters_before, first.bytes_before, dense, ""))
    for name, record, right, verdict in zip(names, records, measured, verdicts, strict=True):
        costs = record.macs_after, record.parameters_after, record.bytes_after
        table.add_row(*_row(name, *costs, right, verdict.decision))
    console = stdout()
    console.print(table)
    _print_log(log, console)
    return ExitCode.DONE


COLUMNS = ("candidate", "MACs", "parameters", "bytes", "accuracy", "worst group", "limits missed", "")


def _row(name: str, macs: int, parameters: int, size_bytes: int, right: Measured, decision: str) -> tuple[Text, ...]:
    worst = right.worst_group
    shown = "" if worst is None else f"{worst.accuracy:.1%} {worst.attribute} {worst.group}"
    cells = (f"{macs:,}", f"{parameters:,}", f"{size_bytes:,}", f"{right.accuracy:.1%}", shown)
    return tuple(map(Text, (name, *cells, str(len(right.missed)), decision)))


def _print_log(log: tuple[LogEntry, ...], console: Console) -> None:
    console.print(Text("\ndecisions, on the prune split", style="bold"))
    for entry in log:
        console.print(Text(f"  {entry.station}: {entry.decision}: {entry.reason}"), soft_wrap=True)
