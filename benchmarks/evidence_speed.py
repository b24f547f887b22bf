"""Point estimates and bootstrap replicates beside fairlearn's MetricFrame: ``python benchmarks/evidence_speed.py``.

Both start from the same string columns in one process; encoding is part of both times. Writes
``results/evidence_speed``. The times hold for the machine that is named.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fairlearn
import numpy as np
from fairlearn.metrics import MetricFrame, false_positive_rate, selection_rate, true_positive_rate
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score
from tables import RESULTS, machine, markdown, write

from fairdeploy.evidence import Schema, Tally, metrics
from fairdeploy.evidence.gaps import REPLICATES, gap_estimate

THEIRS = {
    "accuracy": accuracy_score,
    "true_positive_rate": true_positive_rate,
    "false_positive_rate": false_positive_rate,
    "selection_rate": selection_rate,
}
GAPS = (
    metrics.accuracy_difference,
    metrics.equal_opportunity_difference,
    metrics.equalized_odds_difference,
    metrics.demographic_parity_difference,
)
QUANTILES = [0.025, 0.975]
TOLERANCE = 1e-12
WANTED_POINT, WANTED_REPLICATE = 50, 1000
Columns = dict[str, NDArray[Any]]
Rates = dict[str, NDArray[np.float64]]


def columns_of(rows: int, groups: int) -> Columns:
    rng = np.random.Generator(np.random.PCG64(0))
    label = rng.random(rows) < 0.4
    prediction = label ^ (rng.random(rows) < 0.12)
    return {
        "id": np.char.add("row-", np.arange(rows).astype(str)),
        "group": np.array([f"group {number:02d}" for number in range(groups)])[rng.integers(0, groups, rows)],
        "label": np.where(label, "yes", "no"),
        "prediction": np.where(prediction, "yes", "no"),
    }


def fastest(work: Callable[[], Any], times: int) -> tuple[float, Any]:
    """Return the least CPU seconds of several runs, and what the last one returned."""
    seconds, found = [], None
    for _ in range(times):
        start = time.process_time()
        found = work()
        seconds.append(time.process_time() - start)
    return min(seconds), found


def positive(column: NDArray[Any]) -> NDArray[np.int64]:
    return np.asarray(column == "yes", np.int64)


def count(columns: Columns, *, clustered: bool) -> Tally:
    label, prediction = positive(columns["label"]), positive(columns["prediction"])
    levels = tuple(f"group {number:02d}" for number in range(len(set(columns["group"][:100_000].tolist()))))
    return Tally.count(
        Schema(attributes={"group": levels}, contexts={}, classes=("no", "yes"), clustered=clustered),
        ids=columns["id"],
        labels=label,
        attributes={"group": columns["group"]},
        contexts={},
        clusters=columns["id"] if clustered else None,
        reference=label,
        deployed=prediction,
    )


def our_rates(tally: Tally) -> Rates:
    found = {}
    for name in THEIRS:
        counts = metrics.RATES[name].counts(tally, ("group",))
        n = counts.n.sum(0)[:-1]
        found[name] = counts.deployed.sum(0)[:-1] / n
    return found


def frame(columns: Columns, replicates: int | None) -> MetricFrame:
    boot = {} if replicates is None else {"n_boot": replicates, "ci_quantiles": QUANTILES, "random_state": 0}
    return MetricFrame(
        metrics=THEIRS,
        y_true=positive(columns["label"]),
        y_pred=positive(columns["prediction"]),
        sensitive_features=columns["group"],
        **boot,
    )


def row(what: str, ours: float, theirs: float, wanted: int | None) -> dict[str, str]:
    ratio = theirs / ours
    met = "" if wanted is None else "yes" if ratio >= wanted else f"no, {wanted / ratio:.1f} times too slow"
    return {
        "": what,
        "fairdeploy, ms": f"{1e3 * ours:.3g}",
        "fairlearn, ms": f"{1e3 * theirs:,.0f}",
        "ratio": f"{ratio:,.0f}",
        "wanted": "" if wanted is None else f"≥ {wanted:,}",
        "met": met,
    }


def measure(rows: int, groups: int, boots: int) -> dict[str, Any]:
    columns = columns_of(rows, groups)
    point, rates = fastest(lambda: our_rates(count(columns, clustered=False)), 5)
    tallies = {clustered: count(columns, clustered=clustered) for clustered in (False, True)}
    boot, boot_clusters = (
        fastest(lambda tally=tally: [gap_estimate(tally, gap, "group", seed=0).interval(0.95) for gap in GAPS], 3)[0]  # type: ignore[misc]
        for tally in tallies.values()
    )
    print("fairlearn: point estimates", file=sys.stderr)
    their_point, their_frame = fastest(lambda: frame(columns, None).by_group, 2)
    print(f"fairlearn: {boots} replicates", file=sys.stderr)
    their_total, _ = fastest(lambda: frame(columns, boots).difference_ci(), 1)
    each = (their_total - their_point) / boots
    apart = max(float(np.abs(rates[name] - their_frame[name].to_numpy(float)).max()) for name in THEIRS)
    whole = point + boot
    return {
        "rows": rows,
        "groups": groups,
        "replicates": REPLICATES,
        "fairlearn_replicates": boots,
        "fairlearn": fairlearn.__version__,
        "machine": machine(),
        "largest_difference": apart,
        "equal": apart <= TOLERANCE,
        "table": [
            row("point estimates, encoding included", point, their_point, WANTED_POINT),
            row("one replicate, rows", boot / REPLICATES, each, WANTED_REPLICATE),
            row("one replicate, clusters (fairlearn: rows)", boot_clusters / REPLICATES, each, WANTED_REPLICATE),
            row(f"one replicate, with its share of everything over {REPLICATES}", whole / REPLICATES,
                (their_point + REPLICATES * each) / REPLICATES, WANTED_REPLICATE),
        ],
    }  # fmt: skip


def text(result: dict[str, Any]) -> str:
    equal = "yes" if result["equal"] else "no"
    return f"""# Evidence beside fairlearn

Made by `python benchmarks/evidence_speed.py`: {result["rows"]:,} rows, {result["groups"]} groups, 4 metrics (accuracy,
TPR, FPR, selection rate) and the gap of each with its interval. Both start from the same string columns in one process,
encoding included (ids only ours reads, to see that none is doubled). fairlearn {result["fairlearn"]} ran
{result["fairlearn_replicates"]} replicates, ours {result["replicates"]:,}; a replicate is the time beyond the point
estimates, divided by their number. CPU time, one thread, the fastest of a few runs.

{markdown(result["table"])}

Rates by group equal to {TOLERANCE:g}: {equal} (largest difference {result["largest_difference"]:.1e}).

{result["machine"]}
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rows", type=int, default=1_000_000)
    arguments.add_argument("--groups", type=int, default=40)
    arguments.add_argument("--boots", type=int, default=3, help="replicates that fairlearn runs")
    arguments.add_argument("--results", type=Path, default=RESULTS, help="folder for the tables")
    given = arguments.parse_args()
    result = measure(given.rows, given.groups, given.boots)
    write("evidence_speed", result, text(result), folder=given.results)


if __name__ == "__main__":
    main()
