"""Simulation of honesty: do intervals cover, gates err, and plans suffice as often as they say?

``python benchmarks/coverage.py [--quick]``: minutes on one core, every setting with a seed of its own. A setting that
stands in ``results/coverage.json`` is not run again, so that a run can be resumed; delete the file to start anew.
Writes ``results/coverage.json`` and ``results/coverage.md``. ``--quick`` runs a tenth and writes nothing.
"""

from __future__ import annotations

import json
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairdeploy.evidence import Schema, Tally, metrics
from fairdeploy.evidence.clusters import effective_change
from fairdeploy.evidence.gaps import gap_estimate
from fairdeploy.evidence.intervals import loss_upper_bound
from fairdeploy.evidence.metrics import PairedCounts
from fairdeploy.evidence.planner import exact_rows_needed, gap_rows_needed, rate_rows_needed
from fairdeploy.evidence.plans import Assumptions, plan_rule
from fairdeploy.evidence.power import draw_cells, draw_levels, simulated_power
from fairdeploy.evidence.tally import BUCKETS
from fairdeploy.evidence.two_samples import difference_bounds
from fairdeploy.gates import Condition, Rule

RESULTS = Path(__file__).resolve().parent / "results"
GAP = metrics.equal_opportunity_difference
RATE = 0.9
GAP_RUNS, FAST_RUNS = 600, 4_000
TITLES = {
    "coverage": "Coverage of the simultaneous 95 % interval of a gap, rows independent (wanted: at least 95 %)",
    "edges": "The same where cells are tiny or nothing goes wrong (wanted: at least 95 %)",
    "clusters": "The same with clustered rows (wanted: at least 93 %)",
    "row-wise": "Counting rows as independent although they are clustered (wanted: below 93 %, it must fail)",
    "release": "False release with one group exactly at the margin (wanted: at most 5.5 %)",
    "power": "Power at the planned number of rows (planned at 80 % unless said; wanted: at least 78 %)",
    "lean": "Power at 80 % of the planned number of rows (wanted: below 80 %, so that 25 % fewer would not do)",
}
WANTED = {
    "coverage": 0.95,
    "edges": 0.95,
    "clusters": 0.93,
    "row-wise": 0.93,
    "release": 0.055,
    "power": 0.78,
    "lean": 0.8,
}
AT_MOST = ("row-wise", "release", "lean")


@dataclass(frozen=True)
class Setting:
    """One line of a table: `simulate(rng, runs)` returns the share, and the mean half-width where there is one."""

    table: str
    name: str
    runs: int
    simulate: Callable[[np.random.Generator, int], tuple[float, float | None]]


def cover(draw: Callable[[np.random.Generator], Tally], truth: float, *, row_wise: bool = False) -> Any:
    def simulate(rng: np.random.Generator, runs: int) -> tuple[float, float]:
        covered, half_widths = [], []
        for run in range(runs):
            tally = draw(rng)
            found = gap_estimate(unclustered(tally) if row_wise else tally, GAP, "level", seed=run)
            lower, upper = found.interval(0.95)
            covered.append(lower - 1e-12 <= truth <= upper + 1e-12)
            half_widths.append(min(1.0, float(np.quantile(found.deviations, 0.95, method="higher"))))
        return float(np.mean(covered)), float(np.mean(half_widths))

    return simulate


def unclustered(tally: Tally) -> Tally:
    schema = Schema(tally.schema.attributes, tally.schema.contexts, tally.schema.classes, clustered=False)
    return Tally(schema, tally.cells.copy(), tally.counts.copy())


def levels(groups: int, gap: float) -> list[float]:
    return [RATE - gap] + [RATE] * (groups - 1)


def nested(
    n: int, rates: list[float], *, size: float = 1.0, icc: float = 0.0
) -> Callable[[np.random.Generator], Tally]:
    return lambda rng: draw_levels(rng, GAP, n, rates, rows_per_cluster=size, icc=icc)


def crossed(clusters: int, size: int, rates: list[float], icc: float) -> Callable[[np.random.Generator], Tally]:
    """Every cluster has `size` rows of every group, all of them correlated."""

    def draw(rng: np.random.Generator) -> Tally:
        shape = (clusters, len(rates), size)
        together = rng.random(shape) < np.sqrt(icc)
        drawn = np.where(together, rng.random((clusters, 1, 1)), rng.random(shape))
        hits = (drawn < np.array(rates)[:, None]).sum(axis=2)
        return tally_of(rng.integers(0, BUCKETS, clusters), hits, np.full_like(hits, size))

    return draw


def sizes(rows: list[int], rates: list[float]) -> Callable[[np.random.Generator], Tally]:
    def draw(rng: np.random.Generator) -> Tally:
        n = np.array([rows])
        return tally_of(np.zeros(1, int), rng.binomial(n, rates), n, clustered=False)

    return draw


def tally_of(bucket: NDArray[Any], hits: NDArray[Any], n: NDArray[Any], *, clustered: bool = True) -> Tally:
    """Make a tally of positives from [clusters, groups] hits and rows."""
    names = tuple(f"level {at}" for at in range(n.shape[1]))
    schema = Schema(attributes={"level": names}, contexts={}, classes=("no", "yes"), clustered=clustered)
    counts = np.zeros(schema.shape, dtype=np.int64)
    for predicted, drawn in ((1, hits), (0, n - hits)):
        np.add.at(counts[:, : len(names), 1, predicted, predicted], bucket, drawn)
    cells = np.flatnonzero(counts)
    return Tally(schema, cells, counts.ravel()[cells])


def release_of_changes(groups: int, margin: float, flips: float, n: int, size: float = 1.0, icc: float = 0.0) -> Any:
    def simulate(rng: np.random.Generator, runs: int) -> tuple[float, None]:
        released = np.ones(runs, bool)
        for loss in [margin] + [0.0] * (groups - 1):
            chances = [(flips + loss) / 2, (flips - loss) / 2]
            (lost, gained), rows = draw_cells(rng, n, chances, runs, rows_per_cluster=size, icc=icc)
            counts = PairedCounts(rows, 0 * rows, 0 * rows, lost, gained)
            released &= effective_change(counts, clustered=size > 1).bounds(0.95)[1] < margin
        return float(released.mean()), None

    return simulate


def release_of_gap(metric: metrics.GapMetric, draw: Callable[[np.random.Generator], Tally], bound: float) -> Any:
    def simulate(rng: np.random.Generator, runs: int) -> tuple[float, None]:
        intervals = [gap_estimate(draw(rng), metric, "level", seed=run).interval(0.95) for run in range(runs)]
        return float(np.mean([lower > bound if metric.ratio else upper < bound for lower, upper in intervals])), None

    return simulate


def release_unpaired(n: int, reference_n: int, rate: float, margin: float) -> Any:
    def simulate(rng: np.random.Generator, runs: int) -> tuple[float, None]:
        hits, reference = rng.binomial(n, rate - margin, runs), rng.binomial(reference_n, rate, runs)
        return float((difference_bounds(hits, n, reference, reference_n, 0.95)[0] > -margin).mean()), None

    return simulate


def release_of_unequal_people(people: Sequence[int], margin: float, icc: float) -> Any:
    """People with unlike numbers of rows, each losing a share of them that is beta distributed about the margin."""
    rows, strength = np.array(people), 1 / icc - 1

    def simulate(rng: np.random.Generator, runs: int) -> tuple[float, None]:
        released = 0
        for _ in range(runs):
            lost = rng.binomial(rows, rng.beta(margin * strength, (1 - margin) * strength, len(rows)))
            bucket = rng.integers(0, BUCKETS, len(rows))
            n, losses = (np.bincount(bucket, one, BUCKETS).astype(np.int64)[:, None] for one in (rows, lost))
            nothing = np.zeros_like(n)
            change = effective_change(PairedCounts(n, nothing, nothing, losses, nothing), clustered=True)
            released += bool(change.bounds(0.95)[1][0] < margin)
        return released / runs, None

    return simulate


def power_of_change(margin: float, flips: float, n: int) -> Any:
    def simulate(rng: np.random.Generator, runs: int) -> tuple[float, None]:
        lost, gained, _ = rng.multinomial(n, [flips / 2, flips / 2, 1 - flips], runs).T
        return float((loss_upper_bound(lost, gained, n, 0.95) < margin).mean()), None

    return simulate


def power_of_rule(rule: Rule, n: int, given: Assumptions, **more: Any) -> Any:
    return lambda rng, runs: (
        simulated_power(rule, n, assumptions=given, runs=runs, seed=int(rng.integers(2**31)), **more),
        None,
    )


UNEQUAL = {
    "30 people of 100 rows and 3,000 of one": [100] * 30 + [1] * 3_000,
    "20 people of 30 rows and 300 of one": [30] * 20 + [1] * 300,
    "400 people of 1 to 9 rows": list(range(1, 10)) * 44 + [5] * 4,
}
RATE_GATES: tuple[tuple[str, Condition, float, float], ...] = (
    ("accuracy", "min", 0.95, 0.99),
    ("accuracy", "min", 0.85, 0.9),
    ("false_positive_rate", "max", 0.1, 0.02),
)


def settings() -> Iterator[Setting]:
    yield from coverage_settings()
    yield from release_settings()
    yield from power_settings()


def coverage_settings() -> Iterator[Setting]:
    for groups in (2, 5, 10, 40):
        for n in (30, 100, 1_000, 10_000):
            for gap in (0.0, 0.05):
                runs = GAP_RUNS if groups < 40 else GAP_RUNS // 2
                draw = nested(n, levels(groups, gap))
                yield Setting("coverage", f"{groups} groups of {n:,} rows, gap {gap:g}", runs, cover(draw, gap))
    perfect = nested(200, [1.0] * 5)
    yield Setting("edges", "5 groups of 200 rows, nothing goes wrong", GAP_RUNS, cover(perfect, 0.0))
    for few in (1, 3, 29):
        draw = sizes([few, 1_000, 1_000], levels(3, 0.05))
        yield Setting("edges", f"{few} rows beside two groups of 1,000, gap 0.05", GAP_RUNS, cover(draw, 0.05))
    for gap in (0.0, 0.05):
        rates = levels(5, gap)
        draws = {
            "nested, 20 clusters of 5": nested(100, rates, size=5, icc=0.3),
            "nested, 100 clusters of 5": nested(500, rates, size=5, icc=0.3),
            "nested, 400 clusters of 5": nested(2_000, rates, size=5, icc=0.3),
            "crossed, 20 clusters of 5 of each group": crossed(20, 5, rates, 0.3),
            "crossed, 100 clusters of 5 of each group": crossed(100, 5, rates, 0.3),
            "crossed, 400 clusters of 5 of each group": crossed(400, 5, rates, 0.3),
            "crossed, the kiosk's 38 clusters of 21 of each group": crossed(38, 21, rates, 0.3),
        }
        for name, draw in draws.items():
            label = f"5 groups, {name}, ICC .3, gap {gap:g}"
            yield Setting("clusters", label, GAP_RUNS // 2, cover(draw, gap))
            if name.startswith("nested") and not gap:
                yield Setting("row-wise", label, GAP_RUNS // 2, cover(draw, gap, row_wise=True))


def release_settings() -> Iterator[Setting]:
    for groups in (2, 8, 40):
        for flips in (0.005, 0.02, 0.1):
            margin = min(0.01, flips)
            runs = FAST_RUNS if groups < 40 else FAST_RUNS // 4
            name = f"change, {groups} groups of 2,000 rows, margin {margin:g}, flips {flips:g}"
            yield Setting("release", name, runs, release_of_changes(groups, margin, flips, 2_000))
    for groups in (2, 8):
        name = f"change, {groups} groups of 400 clusters of 5, ICC .3, margin 0.02, flips 0.04"
        yield Setting("release", name, FAST_RUNS // 4, release_of_changes(groups, 0.02, 0.04, 2_000, 5, 0.3))
        for n in (200, 2_000):
            draw = nested(n, levels(groups, 0.05))
            yield Setting(
                "release", f"gap of 0.05, {groups} groups of {n:,} rows", GAP_RUNS, release_of_gap(GAP, draw, 0.05)
            )
            draw = nested(n, [0.4] + [0.5] * (groups - 1))
            name = f"ratio of 0.8, {groups} groups of {n:,} rows"
            yield Setting("release", name, GAP_RUNS, release_of_gap(metrics.equal_opportunity_ratio, draw, 0.8))
    for name, people in UNEQUAL.items():
        for icc in (0.3, 0.8):
            runs = FAST_RUNS // 2
            label = f"change, {name}, ICC {icc:g}, margin 0.02"
            yield Setting("release", label, runs, release_of_unequal_people(people, 0.02, icc))
    for clusters in (38, 100, 400):
        name = f"gap of 0.01, 5 groups, crossed, {clusters} clusters of 5 of each group, ICC .3, no other errors"
        draw = crossed(clusters, 5, [0.99] + [1.0] * 4, 0.3)
        yield Setting("release", name, GAP_RUNS // 2, release_of_gap(GAP, draw, 0.01))
    for n, reference_n in ((1_000, 1_000), (2_000, 200), (200, 2_000)):
        for rate in (0.99, 0.9):
            name = f"unpaired change, {n:,} rows against {reference_n:,}, rate {rate:g}, margin 0.02"
            yield Setting("release", name, FAST_RUNS, release_unpaired(n, reference_n, rate, 0.02))


def power_settings() -> Iterator[Setting]:
    for margin in (0.005, 0.01, 0.02, 0.05):
        for flips in (0.005, 0.02, 0.1):
            n = exact_rows_needed(margin, flips)
            for table, rows in (("power", n), ("lean", round(0.8 * n))):
                name = f"change, margin {margin:g}, flips {flips:g}, {rows:,} rows"
                yield Setting(table, name, FAST_RUNS, power_of_change(margin, flips, rows))
    for metric, condition, bound, rate in RATE_GATES:
        n = rate_rows_needed(bound, rate) or 0
        gate = Rule(metric=metric, condition=condition, bound=bound)
        name = f"{metric} {condition} {bound:g} where it is {rate:g}, {n:,} rows"
        yield Setting("power", name, FAST_RUNS, power_of_rule(gate, n, Assumptions(rate=rate)))
    rule = Rule(metric="equal_opportunity_difference", condition="max", bound=0.05)
    for groups in (2, 5, 10):
        for gap in (0.0, 0.02):
            n = gap_rows_needed(0.05, RATE, levels=groups, gap=gap) or 0
            for table, rows in (("power", n), ("lean", round(0.8 * n))):
                name = f"gap below 0.05, {groups} groups of {rows:,} rows, true gap {gap:g}"
                given = Assumptions(rate=RATE, gap=gap)
                yield Setting(table, name, GAP_RUNS, power_of_rule(rule, rows, given, levels=groups))
    yield from clustered_power_settings()


def clustered_power_settings() -> Iterator[Setting]:
    """Plan for clusters of 5 rows and of 43 (the kiosk's), from data in which they are there."""
    for size, icc in ((5, 0.3), (43, 0.1)):
        sample = draw_levels(
            np.random.Generator(np.random.PCG64(0)), GAP, 4_000, [RATE] * 5, rows_per_cluster=size, icc=icc
        )
        given = Assumptions(icc=icc)
        drop = Rule(metric="true_positive_rate", condition="max_drop", bound=0.02, against="dense")
        gap = Rule(metric="equal_opportunity_difference", condition="max", bound=0.1)
        (rates,) = plan_rule(gap, sample, assumptions=given)
        change = plan_rule(drop, sample, assumptions=given)[1]
        rows = change.rows_needed or 0
        name = f"change, margin 0.02, flips 0.02, {rows:,} rows in clusters of {size}, ICC {icc:g}, planned at .97"
        yield Setting("power", name, FAST_RUNS // 2, power_of_rule(drop, rows, given, rows_per_cluster=size))
        for table, factor in (("power", 1.0), ("lean", 0.8)):
            rows = round(factor * (rates.rows_needed or 0))
            name = f"gap below 0.1, 5 groups of {rows:,} rows in clusters of {size}, ICC {icc:g}"
            yield Setting(table, name, GAP_RUNS // 2, power_of_rule(gap, rows, given, levels=5, rows_per_cluster=size))


def measure(setting: Setting, runs: int) -> dict[str, Any]:
    seed = zlib.crc32(f"{setting.table}/{setting.name}".encode())
    share, half_width = setting.simulate(np.random.Generator(np.random.PCG64(seed)), runs)
    wanted = WANTED[setting.table]
    error = float(np.sqrt(wanted * (1 - wanted) / runs))
    held = share <= wanted + 2 * error if setting.table in AT_MOST else share >= wanted - 2 * error
    return {
        "table": setting.table,
        "name": setting.name,
        "runs": runs,
        "share": round(share, 6),
        "half_width": None if half_width is None else round(half_width, 6),
        "standard_error": round(error, 6),
        "held": bool(held),
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    missed = [row for row in rows if not row["held"]]
    parts = [
        "# Simulation of honesty\n",
        "`python benchmarks/coverage.py`; a share holds if it is as wanted within two standard errors.\n",
        f"{len(rows) - len(missed)} of {len(rows)} settings hold.\n",
    ]
    for table, title in TITLES.items():
        parts += [f"## {title}\n", "| setting | share | runs | half-width | holds |", "|---|---|---|---|---|"]
        for row in rows:
            if row["table"] == table:
                width = "" if row["half_width"] is None else f"{row['half_width']:.3f}"
                error = f"± {200 * row['standard_error']:.1f}"
                held = "yes" if row["held"] else "**no**"
                parts.append(f"| {row['name']} | {row['share']:.1%} {error} | {row['runs']:,} | {width} | {held} |")
        parts.append("")
    return "\n".join(parts)


def main(quick: bool) -> None:
    kept = RESULTS / "coverage.json"
    known = (
        {}
        if quick or not kept.is_file()
        else {(row["table"], row["name"]): row for row in json.loads(kept.read_text())}
    )
    rows = []
    for setting in settings():
        runs, started = (max(20, setting.runs // 10) if quick else setting.runs), time.monotonic()
        row = known.get((setting.table, setting.name))
        if row is None or row["runs"] != runs:
            row = measure(setting, runs)
            print(f"{row['share']:.3f} {'' if row['held'] else 'MISSED '}{setting.table}: {setting.name}", end="  ")
            print(f"({time.monotonic() - started:.1f} s)", flush=True)
        known[setting.table, setting.name] = row
        rows.append(row)
        if not quick:
            kept.write_text(json.dumps(list(known.values()), indent=1) + "\n")
    if not quick:
        kept.write_text(json.dumps(rows, indent=1) + "\n")
        (RESULTS / "coverage.md").write_text(markdown(rows))


if __name__ == "__main__":
    main("--quick" in sys.argv[1:])
