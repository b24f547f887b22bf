"""A twin that every gap gate passes and that everyone loses by: ``python benchmarks/adult_twin.py``.

``examples/adult/twin.py`` trains an income model on Adult and makes its twin. Here both are held against gates on gaps,
against a paired gate per group, and the original against itself on more and more rows. Writes ``results/adult_twin``.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from fairlearn.metrics import demographic_parity_difference, equalized_odds_difference
from numpy.typing import NDArray
from scipy.stats import binomtest
from tables import RESULTS, evidence_of, markdown, write

from fairdeploy.evidence import Schema, Tally, words
from fairdeploy.gates import CellVerdict, Gates, Rule, Verdict, gate, parse_gates
from fairdeploy.yamlfile import read

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "adult"
MARGIN = 0.01
PAIRED = Rule(metric="true_positive_rate", condition="max_drop", bound=MARGIN, against="reference", intersections=True)
TINY = ({"sex": "Female", "race": "Amer-Indian-Eskimo"}, {"sex": "Female", "race": "Other"})
Columns = dict[str, NDArray[Any]]


def example() -> ModuleType:
    sys.path.insert(0, str(EXAMPLE))
    return importlib.import_module("twin")


def tally_of(columns: Columns, deployed: str, *, attributes: tuple[str, ...]) -> Tally:
    return Tally.count(
        Schema(
            attributes={name: tuple(np.unique(columns[name]).tolist()) for name in attributes},
            contexts={},
            classes=("at most 50K", "above 50K"),
        ),
        ids=columns["id"],
        labels=columns["label"],
        attributes={name: columns[name] for name in attributes},
        contexts={},
        clusters=None,
        reference=columns["reference"],
        deployed=columns[deployed],
    )


def decide(tally: Tally, *rules: Rule) -> Verdict:
    return gate(evidence_of({"reference": tally}, target="twin"), Gates(rules=rules))


def gap_row(name: str, gap: Any, columns: Columns) -> dict[str, str]:
    original, twin = (
        gap(columns["label"], columns[which], sensitive_features=columns["sex"])
        for which in ("reference", "prediction")
    )
    return {"gap between the sexes (fairlearn)": name, "original": f"{original:.4f}", "twin": f"{twin:.4f}",
            "a gate on the gap's change": "pass" if twin <= original else "fail"}  # fmt: skip


def cell_row(cell: CellVerdict) -> dict[str, str]:
    known = cell.value is not None
    return {
        "group": words(cell.group),
        "positives": f"{cell.n}",
        "TPR lost, points": f"{100 * (cell.value or 0):.2f}" if known else "",
        "95 % bounds": f"{100 * (cell.lower or 0):.2f} to {100 * (cell.upper or 0):.2f}" if known else "",
        "verdict": cell.status,
    }


def itself_row(columns: Columns, n: int, resamples: int) -> dict[str, str]:
    """Judge the original against itself on `resamples` random parts of n rows."""
    found: list[Verdict] = []
    rows = len(columns["id"])
    for seed in range(resamples if n < rows else 1):
        chosen = np.random.Generator(np.random.PCG64([seed, n])).choice(rows, n, replace=False)
        part = {name: values[chosen] for name, values in columns.items()}
        found.append(decide(tally_of(part, "reference", attributes=("sex",)), PAIRED))
    positives = [cell.n or 0 for verdict in found for cell in verdict.cells if cell.group == {"sex": "Female"}]
    statuses = [verdict.status for verdict in found]
    return {
        "rows": f"{n}",
        "parts": f"{len(found)}",
        "women with a high income": f"{min(positives)} to {max(positives)}" if len(found) > 1 else f"{positives[0]}",
        **{status: f"{statuses.count(status)}" for status in ("pass", "inconclusive", "fail")},
    }


def text(result: dict[str, Any]) -> str:
    return f"""# The twin on Adult

Made by `python benchmarks/adult_twin.py`. A logistic regression on Adult (Becker & Kohavi 1996, CC-BY-4.0) that sees
neither sex nor race, and its twin: the same logits, rounded to 0.25 and shifted by −0.03. {result["rows"]} official
test rows; left out: {result["repeats_across"]} test rows that stand in train exactly and {result["repeats_within"]}
repeats within a split. The twin flips {result["flips"]} decisions, {result["to_negative"]} of them from positive to
negative.

## Every gap between the sexes shrinks

{markdown(result["gaps"])}

Our own gates on gaps alone (`examples/adult/gates.yaml`, bounds by the simultaneous interval, groups by sex):
**{result["gap_gates"]}**. McNemar's test on accuracy sees nothing: {result["right_before"]} rows right only before,
{result["right_after"]} only after, p = {result["mcnemar_p"]}.

## Everyone loses

True positive rate against the original, row by row, at most {100 * MARGIN:g} point may be lost. The verdict is
**{result["paired"]}**; these groups fail by name: {", ".join(result["named"])}.

{markdown(result["cells"])}

{result["tiny"]}

## The original against itself

The same paired gate (everyone, women, men) on random parts of the test rows: no decision differs, so it must never
fail, and it may pass only where enough women with a high income are there to show it.

{markdown(result["itself"])}
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--resamples", type=int, default=20, help="random parts per number of rows")
    arguments.add_argument("--results", type=Path, default=RESULTS, help="folder for the tables")
    given = arguments.parse_args()
    twin = example()
    adult = twin.load()
    columns: Columns = twin.predictions(adult)
    label, before, after = columns["label"], columns["reference"], columns["prediction"]
    right_before, right_after = (int(((first == label) & (second != label)).sum()) for first, second in
                                 ((before, after), (after, before)))  # fmt: skip
    gap_gates = decide(
        tally_of(columns, "prediction", attributes=("sex",)), *parse_gates(read(EXAMPLE / "gates.yaml"), ())
    )
    paired = decide(tally_of(columns, "prediction", attributes=("sex", "race")), PAIRED)
    tiny = [cell for cell in paired.cells if cell.group in TINY]
    rows = len(label)
    result = {
        "rows": rows,
        "repeats_across": adult.repeats_across,
        "repeats_within": adult.repeats_within,
        "flips": int((before != after).sum()),
        "to_negative": int((before > after).sum()),
        "gaps": [gap_row("equalized odds difference", equalized_odds_difference, columns),
                 gap_row("demographic parity difference", demographic_parity_difference, columns)],
        "gap_gates": gap_gates.status,
        "right_before": right_before,
        "right_after": right_after,
        "mcnemar_p": f"{binomtest(right_before, right_before + right_after).pvalue:.2f}",
        "paired": paired.status,
        "named": [words(cell.group) for cell in paired.cells if cell.status == "fail"],
        "cells": [cell_row(cell) for cell in paired.cells],
        "tiny": " ".join(cell.reason for cell in tiny),
        "itself": [itself_row(columns, n, given.resamples) for n in (500, 1000, 2000, 4000, 6000, 8000, 10000, rows)],
    }  # fmt: skip
    write("adult_twin", result, text(result), folder=given.results)


if __name__ == "__main__":
    main()
