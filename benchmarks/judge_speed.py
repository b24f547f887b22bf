"""A whole judgement in seconds and megabytes: ``python benchmarks/judge_speed.py``.

A fresh process counts, judges and gates one network on several backends, each against the dense and the compact
network. Writes ``results/judge_speed``. The times hold for the machine that is named.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from tables import RESULTS, evidence_of, machine, markdown, write

from fairdeploy.evidence import Schema, Tally
from fairdeploy.gates import Gates, Rule, gate

WANTED_SECONDS, WANTED_MB = 3.0, 300.0
PER_PERSON = 5
GATES = Gates(
    rules=(
        Rule(metric="true_positive_rate", condition="max_drop", bound=0.04, against="dense"),
        Rule(metric="true_positive_rate", condition="max_drop", bound=0.02, against="compact"),
        Rule(metric="false_positive_rate", condition="max_increase", bound=0.02, against="compact"),
        Rule(metric="equalized_odds_difference", condition="max", bound=0.3),
        Rule(metric="worst_group_accuracy", condition="min", bound=0.8),
    )
)


def predictions(rows: int, groups: int, backends: int) -> dict[str, Any]:
    rng = np.random.Generator(np.random.PCG64(0))

    def flipped(classes: Any, share: float) -> Any:
        return np.where(rng.random(rows) < share, 1 - classes, classes)

    label = rng.integers(0, 2, rows)
    dense = flipped(label, 0.08)
    compact = flipped(dense, 0.02)
    return {
        "ids": np.char.add("row-", np.arange(rows).astype(str)),
        "people": np.char.add("person-", (np.arange(rows) // PER_PERSON).astype(str)),
        "group": np.char.add("group ", rng.integers(0, groups, rows).astype(str)),
        "label": label,
        "dense": dense,
        "compact": compact,
        "deployed": [flipped(compact, 0.005) for _ in range(backends)],
    }


def judge_once(rows: int, groups: int, backends: int, *, clustered: bool) -> dict[str, Any]:
    """Judge in this process; the seconds of each part and the peak memory, everything included."""
    data = predictions(rows, groups, backends)
    levels = tuple(f"group {number}" for number in range(groups))
    schema = Schema(attributes={"group": levels}, contexts={}, classes=("no", "yes"), clustered=clustered)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = dict.fromkeys(("tally", "judge", "gate"), 0.0)
    words = []
    for number, deployed in enumerate(data["deployed"]):
        start = time.process_time()
        tallies = Tally.count_all(
            schema,
            ids=data["ids"],
            labels=data["label"],
            attributes={"group": data["group"]},
            contexts={},
            clusters=data["people"] if clustered else None,
            references={"dense": data["dense"], "compact": data["compact"]},
            deployed=deployed,
        )
        counted = time.process_time()
        evidence = evidence_of(tallies, target=f"backend-{number}")  # type: ignore[arg-type]
        judged = time.process_time()
        words.append(gate(evidence, GATES).status)
        for part, took in zip(seconds, (counted - start, judged - counted, time.process_time() - judged), strict=True):
            seconds[part] += took
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "peak_mb": peak / 1024, "before_mb": before / 1024, "verdicts": words}


def in_a_child(rows: int, groups: int, backends: int, *, clustered: bool) -> dict[str, Any]:
    sizes = [f"--rows={rows}", f"--groups={groups}", f"--backends={backends}"]
    command = [sys.executable, __file__, "--child", "clusters" if clustered else "rows", *sizes]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def table_row(what: str, found: dict[str, Any]) -> dict[str, str]:
    total, peak = sum(found["seconds"].values()), found["peak_mb"]
    missed = [f"{total:.1f} s"] * (total >= WANTED_SECONDS) + [f"{peak:.0f} MB"] * (peak >= WANTED_MB)
    return {
        "": what,
        **{f"{part}, s": f"{took:.2f}" for part, took in found["seconds"].items()},
        "together, s": f"{total:.2f}",
        "peak MB": f"{peak:.0f}",
        f"< {WANTED_SECONDS:g} s, < {WANTED_MB:g} MB": "no: " + ", ".join(missed) if missed else "yes",
    }


def text(result: dict[str, Any]) -> str:
    return f"""# A whole judgement

Made by `python benchmarks/judge_speed.py`: {result["rows"]:,} rows, {result["groups"]} groups,
{result["backends"]} backends, each counted against the dense and the compact network, judged (every rate, change, gap
and interval) and held against {len(GATES.rules)} rules. One fresh process, from string columns in memory; the peak
holds interpreter and libraries. CPU seconds of one thread, which other work on the machine does not stretch.

{markdown(result["table"])}

{result["machine"]}
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rows", type=int, default=16_000)
    arguments.add_argument("--groups", type=int, default=40)
    arguments.add_argument("--backends", type=int, default=6)
    arguments.add_argument("--child", choices=("rows", "clusters"), help="judge in this process, print JSON")
    arguments.add_argument("--results", type=Path, default=RESULTS, help="folder for the tables")
    given = arguments.parse_args()
    sizes = (given.rows, given.groups, given.backends)
    if given.child:
        print(json.dumps(judge_once(*sizes, clustered=given.child == "clusters")))
        return
    runs = {"independent rows": False, f"{PER_PERSON} rows per person": True}
    found = {what: in_a_child(*sizes, clustered=clustered) for what, clustered in runs.items()}
    result = {
        "rows": given.rows,
        "groups": given.groups,
        "backends": given.backends,
        "machine": machine(),
        "table": [table_row(what, one) for what, one in found.items()],
        "runs": found,
    }
    write("judge_speed", result, text(result), folder=given.results)


if __name__ == "__main__":
    main()
