"""The kiosk's verdicts on its strictly unseen families alone: ``python benchmarks/kiosk_unseen.py``.

Some families of *evaluate* (``data/measured-before.json``) had stood in *tune* or *evaluate* of a deal that was tried
and thrown away. This holds the rest against the same fairness gates, from the predictions that the latest build left in
its store. Writes ``results/kiosk_unseen.json`` and ``results/kiosk_unseen.md``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tables import evidence_of, markdown, write

from fairdeploy.bundle import TargetBundle, load_build
from fairdeploy.evidence import Tally
from fairdeploy.evidence.records import Reference, StageName
from fairdeploy.explain.stored import read_stages
from fairdeploy.gates import CellVerdict, Gates, Verdict, gate, nearness
from fairdeploy.line import Line

KIOSK = Path(__file__).resolve().parent.parent / "examples" / "kiosk"
REFERENCES: dict[Reference, StageName] = {"dense": "dense", "compact": "exported"}


def verdict_without(line: Line, build: Any, bundle: TargetBundle, seen: list[str]) -> tuple[Verdict, int]:
    """Gate one target on the families that are not in `seen`; the verdict, and how many families are left."""
    found = read_stages(line, build, bundle)
    kept = np.flatnonzero(~np.isin(found.evaluate.rows.clusters, seen))
    rows = found.evaluate.rows.take(kept)
    decided = {name: line.project.spec.decide(one.probabilities)[kept] for name, one in found.stages.items()}
    tallies = {
        name: Tally.count(
            line.meter.schema(found.evaluate.rows),
            ids=rows.ids,
            labels=rows.labels,
            attributes=rows.attributes,
            contexts=rows.contexts,
            clusters=rows.clusters,
            reference=decided[stage],
            deployed=decided["runtime"],
        )
        for name, stage in REFERENCES.items()
    }
    rules = Gates(rules=tuple(rule for rule in bundle.gates.rules if rule.is_fairness))
    assert rows.clusters is not None
    evidence = evidence_of(tallies, target=bundle.target.id, identical_to=bundle.evidence.identical_to)
    return gate(evidence, rules), len(set(rows.clusters.tolist()))


def closest(cells: tuple[CellVerdict, ...]) -> str:
    return max(cells, key=nearness).reason


def main() -> None:
    seen = json.loads((KIOSK / "data" / "measured-before.json").read_text())
    line = Line(KIOSK, dry=True)
    build, bundles = load_build(KIOSK / "build" / "latest")
    rows: list[dict[str, Any]] = []
    for bundle in bundles:
        verdict, families = verdict_without(line, build, bundle, seen)
        held = sum(cell.status == "pass" for cell in verdict.cells)
        rows.append(
            {
                "target": bundle.target.id,
                "verdict": verdict.status,
                "cells that pass": f"{held} of {len(verdict.cells)}",
                "families": families,
                "closest": closest(verdict.cells),
            }
        )
    text = f"""# The kiosk on its strictly unseen families

Made by `python benchmarks/kiosk_unseen.py` after `python benchmarks/kiosk.py`: the same predictions and the same
fairness gates, without the {len(seen)} families of *evaluate* that had stood in *tune* or *evaluate* of a deal that was
tried before.

{markdown(rows)}
"""
    write("kiosk_unseen", rows, text)


if __name__ == "__main__":
    main()
