"""Do gates pass what is harmless, stop what is not, and blame the right ones? ``python benchmarks/known_truth.py``.

Simulated releases whose truth is known (``releases.py``), with as many rows as the planner asks for. Writes
``results/known_truth``; a run that was interrupted goes on from ``build/`` unless the code has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from peers import (
    FAIRLEARN_REPLICATES,
    fairlearn_intervals,
    point_gate_on_the_gap,
    tfma_change_threshold,
    tfma_interval,
)
from releases import (
    AT_THE_MARGIN,
    FLIP_RATE,
    ICC,
    KINDS,
    PER_PERSON,
    SENSITIVITY,
    STAGES,
    Kind,
    Release,
    Truth,
    draw_people,
    draw_release,
    draw_truth,
)
from tables import RESULTS, evidence_of, markdown, write

import fairdeploy
from fairdeploy.evidence import Tally
from fairdeploy.evidence.plans import Assumptions, plan_rule
from fairdeploy.gates import CellVerdict, Gates, Rule, gate

POWER = 0.9
TPR_MARGIN, ACCURACY_MARGIN, GAP_BOUND = 0.03, 0.02, 0.15
TRUE_GAP = max(SENSITIVITY.values()) - min(SENSITIVITY.values())
DROPS = (
    Rule(metric="true_positive_rate", condition="max_drop", bound=TPR_MARGIN, against="dense"),
    Rule(metric="accuracy", condition="max_drop", bound=ACCURACY_MARGIN, against="dense"),
)
GAP = Rule(metric="equalized_odds_difference", condition="max", bound=GAP_BOUND)
OURS = Gates(rules=(*DROPS, GAP))
OF_A_STEP = Gates(rules=tuple(rule.model_copy(update={"against": "reference"}) for rule in DROPS))
METHODS = {
    "ours": "fairdeploy: paired bounds per group, gap bound",
    "point": f"point gate on the gap: grows by at most {100 * TPR_MARGIN:g} points",
    "fairlearn": f"fairlearn MetricFrame, 90 % bootstrap interval of the gap ({FAIRLEARN_REPLICATES} replicates)",
    "tfma": "TFMA: measured change per slice at least −margin",
    "tfma interval": "TFMA, were it decided by its t-interval",
}
Row = dict[str, Any]


def rows_planned(*, clustered: bool) -> int:
    """Rows per intersection and label at which the planner expects all rules to pass with a power of .9."""
    given = Assumptions(
        flip_rate=FLIP_RATE,
        rate=max(SENSITIVITY.values()),
        gap=TRUE_GAP,
        icc=ICC,
        power=1 - (1 - POWER) / len(OURS.rules),
    )
    rows = 200
    for _ in range(100):
        schema, columns, _unused = draw_people(rows, np.random.Generator(np.random.PCG64(0)), clustered=clustered)
        tally = Tally.count(schema, **columns, reference=columns["labels"], deployed=columns["labels"])
        plan = [row for rule in OURS.rules for row in plan_rule(rule, tally, assumptions=given)]
        short = max((row.rows_needed or math.inf) / row.rows_available for row in plan)
        if short <= 1:
            return rows
        rows = math.ceil(rows * min(max(short, 1.01), 1.5))
    raise SystemExit("the planner finds no number of rows that is enough: loosen the margins of this benchmark")


def is_right(cell: CellVerdict, truth: Truth) -> bool:
    """Whether a cell that failed is truly beyond what is allowed."""
    if cell.metric == GAP.metric:
        return truth.equalized_odds_difference(next(iter(cell.group))) > cell.bound
    return truth.drop(cell.metric, cell.group) > cell.bound


def blamed_stages(release: Release) -> list[str]:
    """Stages whose own step, judged against the stage before, fails."""
    return [
        after
        for before, after in zip(STAGES, STAGES[1:], strict=False)
        if gate(evidence_of({"reference": release.tally(before, after)}), OF_A_STEP).status == "fail"
    ]


def judge_release(number: int, kind: Kind, rows: int, *, clustered: bool) -> Row:
    rng = np.random.Generator(np.random.PCG64([number, KINDS.index(kind)]))
    truth = draw_truth(kind, TPR_MARGIN, rng)
    release = draw_release(truth, rows, rng, clustered=clustered)
    tally = release.tally(STAGES[0], STAGES[-1])
    verdict = gate(evidence_of({"dense": tally}), OURS)
    failed = [cell for cell in verdict.cells if cell.status == "fail"]
    margins = (TPR_MARGIN, ACCURACY_MARGIN)
    return {
        "kind": kind,
        "number": number,
        "clustered": clustered,
        "rows": tally.rows,
        "margins": round(truth.margins, 3),
        "stage": truth.stage,
        "blamed": [
            {"rule": cell.rule, "group": cell.group, "right": is_right(cell, truth)} for cell in failed
        ],
        "harmed_cells": sum(
            truth.drop(cell.metric, cell.group) > cell.bound for cell in verdict.cells if cell.metric != GAP.metric
        ),
        "blamed_stages": blamed_stages(release) if kind == "harm from one stage" else [],
        "ours": verdict.status,
        "point": point_gate_on_the_gap(tally, TPR_MARGIN),
        "fairlearn": fairlearn_intervals(tally, GAP_BOUND, number),
        "tfma": tfma_change_threshold(tally, margins),
        "tfma interval": tfma_interval(tally, margins, number),
    }  # fmt: skip


def run(releases: int, planned: dict[bool, int], kept: Path) -> list[Row]:
    """Judge `releases` of each kind, half of them clustered; those that `kept` has are not judged again."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    done = {(row["kind"], row["number"]) for row in rows}
    with kept.open("a") as stream:
        for number in range(releases):
            for kind in KINDS:
                if (kind, number) not in done:
                    clustered = number % 2 == 1
                    rows.append(judge_release(number, kind, planned[clustered], clustered=clustered))
                    print(json.dumps(rows[-1]), file=stream, flush=True)
            print(f"{number + 1} of {releases} releases of each kind", file=sys.stderr)
    return [row for row in rows if row["number"] < releases]


def kept_file(planned: dict[bool, int]) -> Path:
    """Where interim results lie: another file for other code or another plan."""
    package, here = Path(fairdeploy.__file__).parent, Path(__file__).resolve().parent
    files = [*sorted(package.glob("evidence/*.py")), *sorted(package.glob("gates/*.py"))]
    files += [here / name for name in ("known_truth.py", "peers.py", "releases.py", "tables.py")]
    code = hashlib.sha256(b"".join(file.read_bytes() for file in files) + repr(planned).encode()).hexdigest()
    return here.parent / "build" / f"known_truth-{code[:16]}.jsonl"


def share(part: int, whole: int) -> str:
    """Write a share with its 95 % Clopper-Pearson interval."""
    from scipy.stats import binomtest

    if not whole:
        return "none"
    interval = binomtest(part, whole).proportion_ci(0.95)
    return f"{part} of {whole}: {100 * part / whole:.1f} % ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def verdicts(rows: Iterable[Row], method: str, label: str) -> Row:
    found = Counter(row[method] for row in rows)
    return {"": label, **{word: found[word] for word in ("pass", "fail", "inconclusive")}}


def by_kind(rows: list[Row]) -> list[Row]:
    return [
        verdicts(
            [row for row in rows if row["kind"] == kind and row["clustered"] == clustered],
            "ours",
            f"{kind}, {f'{PER_PERSON} rows per person' if clustered else 'independent rows'}",
        )
        for kind in KINDS
        for clustered in (False, True)
    ]


def divided(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Return the harmless and the harmful; what is exactly at the margin is neither."""
    harmless = [row for row in rows if row["kind"] == "harmless"]
    return harmless, [row for row in rows if row["kind"] not in ("harmless", AT_THE_MARGIN)]


def against_others(rows: list[Row]) -> list[Row]:
    harmless, harmful = divided(rows)
    levelled = [row for row in harmful if row["kind"] == "all levelled down"]
    at_margin = [row for row in rows if row["kind"] == AT_THE_MARGIN]

    def passed(part: list[Row], method: str) -> str:
        return f"{sum(row[method] == 'pass' for row in part)} of {len(part)}"

    return [
        {
            "": words,
            "harmless that pass": passed(harmless, method),
            "harmful that pass": passed(harmful, method),
            "of those, all levelled down": passed(levelled, method),
            "exactly at the margin that pass": passed(at_margin, method),
            "harmless that fail": f"{sum(row[method] == 'fail' for row in harmless)} of {len(harmless)}",
        }
        for method, words in METHODS.items()
    ]


def goals(rows: list[Row]) -> list[Row]:
    harmless, harmful = divided(rows)
    staged = [row for row in harmful if row["kind"] == "harm from one stage"]
    cells = [cell["right"] for row in harmless + harmful for cell in row["blamed"]]
    stages = [stage == row["stage"] for row in staged for stage in row["blamed_stages"]]
    counted: list[tuple[str, int, int, str, Callable[[float], bool]]] = [
        ("harmful releases that pass", sum(row["ours"] == "pass" for row in harmful), len(harmful), "≤ 5 %",
         lambda p: p <= 0.05),
        ("harmless releases that pass", sum(row["ours"] == "pass" for row in harmless), len(harmless), "≥ 80 %",
         lambda p: p >= 0.8),
        ("blamed groups that are the right ones", sum(cells), len(cells), "≥ 95 %", lambda p: p >= 0.95),
        ("blamed stages that are the right ones", sum(stages), len(stages), "≥ 95 %", lambda p: p >= 0.95),
    ]  # fmt: skip
    table = [
        {"": words, "wanted": wanted, "found": share(part, whole),
         "met": "yes" if whole and met(part / whole) else "no"}
        for words, part, whole, wanted, met in counted
    ]  # fmt: skip
    named = sum(any(cell["right"] for cell in row["blamed"]) for row in harmful)
    of_cells = sum(
        cell["right"] and not cell["rule"].startswith(GAP.metric) for row in harmful for cell in row["blamed"]
    )
    found = sum(row["stage"] in row["blamed_stages"] for row in staged)
    also = (
        ("harmful releases in which a harmed group is named", named, len(harmful)),
        ("harmed cells that are named", of_cells, sum(row["harmed_cells"] for row in harmful)),
        ("releases with harm from one stage in which that stage is named", found, len(staged)),
    )
    return table + [{"": words, "wanted": "", "found": share(part, whole), "met": ""} for words, part, whole in also]


def text(result: Row) -> str:
    planned = result["rows per intersection and label"]
    return f"""# Releases of which the truth is known

Made by `python benchmarks/known_truth.py`: {result["releases"]} simulated releases of each of {len(KINDS)} kinds,
half of them with {PER_PERSON} rows per person and an intra-class correlation of {ICC}. Four tones by two sexes, each
intersection an attribute's level of its own. The dense network has a true positive rate of .88 to .91 by tone; the line
flips {100 * FLIP_RATE:g} % of all predictions on the way, half of them for the better, over five steps. The harmed lose
1.5 to 3 margins of their true positive rate beyond that, at one step; all levelled down lose it in every group, the
better off a little more, so that every gap shrinks.

Gates: true positive rate and accuracy may drop by {100 * TPR_MARGIN:g} and {100 * ACCURACY_MARGIN:g} points against
dense, in everyone, every tone, sex and intersection (15 cells each); equalized odds difference at most
{100 * GAP_BOUND:g} points over each attribute ({100 * TRUE_GAP:g} are there). Rows by the planner for a release
power of {POWER:g}: {planned["independent"]} per intersection and label, {planned["clustered"]} with clusters
(×16 in all).

## What was wanted

{markdown(result["goals"])}

A cell that fails is blamed rightly if its true drop (or gap) is beyond its bound. A stage is blamed if its own step,
against the stage before, fails. In brackets 95 % Clopper-Pearson intervals; for cells, as if they were independent.
Releases exactly at the margin count in none of these: they must not pass; they fail where the loss that was seen is
beyond the margin and surely no chance.

## Verdicts by truth

{markdown(result["by kind"])}

## Others, on the same data

{markdown(result["others"])}

What was emulated: the point gate passes if no attribute's equalized odds difference grew by more than
{100 * TPR_MARGIN:g} points as measured. fairlearn has no gate: MetricFrame's percentile interval (a bootstrap of rows,
drawn as counts) of the difference of TPR and FPR over each attribute is held against the same {100 * GAP_BOUND:g}
points, pass if its upper end is below. TFMA's
GenericChangeThreshold compares the measured change in every slice with −margin (its t-interval is shown, not used); the
last line is what its 95 % t-interval of 20 Poisson bootstrap samples would decide. None of the three knows clusters.
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--releases", type=int, default=20, help="of each kind")
    arguments.add_argument("--rows", type=int, help="per intersection and label, instead of what the planner asks for")
    arguments.add_argument("--results", type=Path, default=RESULTS, help="folder for the tables")
    given = arguments.parse_args()
    planned = {clustered: given.rows or rows_planned(clustered=clustered) for clustered in (False, True)}
    print(f"rows per intersection and label: {planned}", file=sys.stderr)
    rows = run(given.releases, planned, kept_file(planned))
    result = {
        "releases": given.releases,
        "rows per intersection and label": {"independent": planned[False], "clustered": planned[True]},
        "goals": goals(rows),
        "by kind": by_kind(rows),
        "others": against_others(rows),
        "rows": sorted(rows, key=lambda row: (KINDS.index(row["kind"]), row["number"])),
    }
    write("known_truth", result, text(result), folder=given.results)


if __name__ == "__main__":
    main()
