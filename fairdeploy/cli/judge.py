"""``fairdeploy judge``: evidence and gates for predictions that were made elsewhere."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fairdeploy.attempts import Looks, note_look
from fairdeploy.cli.common import Common, print_result
from fairdeploy.errors import ConfigError
from fairdeploy.evidence.records import Change, Shift
from fairdeploy.judgement import NO_REFERENCE, Judgement
from fairdeploy.judgement import judge as judge_predictions
from fairdeploy.report import words

SHOWN = ("accuracy", "true_positive_rate", "false_positive_rate", "selection_rate")
Columns = Annotated[
    tuple[str, ...],
    Parameter(negative="", help="Columns, as sex,race; with levels where they are declared, as sex=female|male."),
]
Name = Annotated[str | None, Parameter(help="The column, where it is called otherwise.")]


def judge(
    *files: Annotated[Path, Parameter(help="CSV, Parquet or npz; several are shards of one data set.")],
    groups: Columns = (),
    label: Name = None,
    prediction: Name = None,
    score: Annotated[str | None, Parameter(help="The column with the probability of the positive class.")] = None,
    threshold: Annotated[float | None, Parameter(help="Decide by the score: positive at or above it.")] = None,
    reference: Annotated[
        tuple[str, ...],
        Parameter(negative="", help="Column that changes are measured against; or dense=COLUMN, compact=COLUMN."),
    ] = (),
    reference_file: Annotated[
        Path | None, Parameter(help="File with the reference's predictions; rows are joined by id.")
    ] = None,
    unpaired: Annotated[
        bool, Parameter(negative="", help="The reference's file holds other rows, with labels and groups of their own.")
    ] = False,
    contexts: Columns = (),
    cluster: Name = None,
    id: Name = None,
    classes: Annotated[str | None, Parameter(help="All classes in their order, as cat,dog,other.")] = None,
    positive: Annotated[str | None, Parameter(help="The positive one of two classes.")] = None,
    gates: Annotated[Path | None, Parameter(help="YAML file with what stands under gates: in a project.")] = None,
    name: Annotated[str, Parameter(help="What is judged, as the verdict calls it.")] = "predictions",
    out: Annotated[Path | None, Parameter(help="New folder for a sealed bundle: counts, evidence, verdict.")] = None,
    json: Annotated[bool, Parameter(negative="", help="Print one JSON document.")] = False,
) -> int:
    """Judge predictions that were made anywhere, per group of people; no model is needed.

    The columns are id, label, prediction (or score), reference and cluster where they are called so.
    """
    if not files:
        raise ConfigError("give at least one file: fairdeploy judge predictions.csv --groups sex,race")
    if out is not None and out.exists():
        raise ConfigError("is there already: a bundle is never changed, so give a new folder", file=out)
    found = judge_predictions(
        list(files), groups=_columns(groups), label=label, prediction=prediction, score=score, threshold=threshold,
        reference=_references(reference), reference_file=reference_file, unpaired=unpaired,
        contexts=_columns(contexts), cluster=cluster, id=id, classes=classes.split(",") if classes else (),
        positive=positive, gates=gates, name=name,
    )  # fmt: skip
    if out is not None:
        found.save(out)
    looks = _looks(found) if gates else None
    more = {
        "evidence": found.evidence.record.model_dump(mode="json"),
        "predictions": found.predictions.model_dump(mode="json"),
        "margins": [margin.__dict__ for margin in found.margins],
        "looks": looks and {"attempts": looks.builds, "gate_sets": looks.gate_sets},
    }

    def details(console: Console) -> None:
        print_groups(found, console)
        if looks and len(looks.entries) > 1:
            console.print(Text(words.judged_before(len(looks.entries), looks.gate_sets)), soft_wrap=True)

    return print_result("judge", [found.verdict], Common(json=json), details=details, **more)


def _looks(found: Judgement) -> Looks:
    """Note this look at the rows in the folder where the command runs; see `fairdeploy.attempts`."""
    evidence, verdict = found.evidence.record, found.verdict
    gates, status = {verdict.target: found.gates.digest}, {verdict.target: verdict.status}
    return note_look(Path(), f"judge {evidence.digest[:12]}", evidence.data_fingerprint, gates, status)


def _columns(given: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Read ``sex=female|male,race``."""
    columns: dict[str, tuple[str, ...]] = {}
    for part in (part.strip() for text in given for part in text.split(",")):
        column, declared, levels = part.partition("=")
        if not column or column in columns or (declared and not levels):
            raise ConfigError(f"'{','.join(given)}': name each column once, as in sex=female|male,race")
        columns[column] = tuple(level.strip() for level in levels.split("|")) if levels else ()
    return columns


def _references(given: tuple[str, ...]) -> str | dict[str, str] | None:
    if len(given) == 1 and "=" not in given[0]:
        return given[0]
    named = dict(text.partition("=")[::2] for text in given)
    if len(named) < len(given) or not all(named.values()):
        raise ConfigError(
            "several references need different names: --reference dense=COLUMN --reference compact=COLUMN"
        )
    return named or None


def print_groups(found: Judgement, console: Console) -> None:
    """Print every group's rates and changes with their intervals, what was read from the data, and provable margins."""
    evidence = found.evidence.record
    given = set(found.predictions.references.values()) != {NO_REFERENCE}
    references = tuple(found.predictions.references) if given else ()
    stated: list[Change | Shift] = [*evidence.changes, *(one for one in evidence.shifts if not one.paired)]
    changes = {(one.metric, one.against, str(one.group)): one for one in stated if not one.context}
    for metric in (name for name in SHOWN if any(rate.metric == name for rate in evidence.rates)):
        table = Table(
            box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), title=words.first_upper(words.metric_name(metric))
        )
        table.title_justify, table.title_style = "left", "bold"
        for title in ("group", "%", "95 % interval", *(f"change against {one}" for one in references), "n"):
            table.add_column(title, justify="left" if title == "group" else "right")
        for rate in evidence.rates:
            if rate.metric == metric and not rate.context and len(rate.group) < 2:
                table.add_row(
                    Text(words.group_name(rate.group)),
                    words.rate(rate.value),
                    words.span(rate.interval),
                    *(_change(changes[metric, one, str(rate.group)]) for one in references),
                    words.count(rate.n),
                )
        console.print(table)
    for note in found.predictions.notes:
        console.print(Text(note), soft_wrap=True)
    if not found.gates.rules:
        _print_margins(found, console)


def _change(one: Change | Shift) -> str:
    return words.change(one.change) + (f" ({words.span(one.interval, signed=True)})" if one.interval else "")


def _print_margins(found: Judgement, console: Console) -> None:
    """Print gates to start from."""
    if not found.margins:
        console.print(Text("No gate was set. Changes need a reference: --reference COLUMN"), soft_wrap=True)
        return
    console.print(
        Text("\nNo gate was set. The smallest margins that these rows can prove, for --gates FILE:", style="bold")
    )
    console.print(Text("gates:"))
    lone = len(found.predictions.references) == 1 and "reference" in found.predictions.references
    for metric, margins in groupby(found.margins, key=lambda one: one.metric):
        console.print(Text(f"  {metric}:"))
        for one in margins:
            against = "" if lone else f", against: {one.against}"
            weakest = f"{words.group_name(one.group)} has {words.count(one.rows)} rows"
            entry = f"    # none can be proven: {weakest}"
            if one.margin is not None:
                entry = f"    - {{{one.condition}: {one.margin:g}{against}}}  # {weakest}"
            console.print(Text(entry), soft_wrap=True)
