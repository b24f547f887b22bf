"""How long and how much memory it takes to count many rows, in one piece and streamed in chunks.

``python benchmarks/tally_stream.py`` prints a table and writes results/tally_stream.{json,md}. Each line is measured
in a process of its own; peak memory is that of the whole process, Python and numpy included.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from pathlib import Path

import numpy as np

from fairdeploy.evidence import Schema, Tally

RESULTS = Path(__file__).parent / "results"
LEVELS = tuple(f"group-{at:02d}" for at in range(40))
SCHEMA = Schema(attributes={"group": LEVELS}, contexts={}, classes=("no", "yes"))


def chunk(start: int, rows: int) -> dict[str, object]:
    """Make rows with text ids and a text column of 40 levels; the same for the same start."""
    rng = np.random.default_rng(start)
    label, reference, deployed = rng.integers(0, 2, (3, rows))
    return {
        "ids": np.char.add("row-", np.arange(start, start + rows).astype("U9")),
        "labels": label,
        "attributes": {"group": np.array(LEVELS)[rng.integers(0, 40, rows)]},
        "contexts": {},
        "clusters": None,
        "reference": reference,
        "deployed": deployed,
    }


def measure(rows: int, chunk_rows: int) -> dict[str, float]:
    """Count `rows` in chunks; CPU seconds are those of counting and adding, without making the rows."""
    total, seconds = Tally.zero(SCHEMA), 0.0
    for start in range(0, rows, chunk_rows):
        columns = chunk(start, min(chunk_rows, rows - start))
        begin = time.process_time()
        total = total + Tally.count(SCHEMA, **columns)  # type: ignore[arg-type]
        seconds += time.process_time() - begin
    assert total.rows == rows
    peak_mb = _peak_kb() / 1024
    return {"rows": rows, "chunk_rows": chunk_rows, "seconds": round(seconds, 3), "peak_memory_mb": round(peak_mb, 1)}


def _peak_kb() -> int:
    """Return this process's own peak; getrusage would carry over that of the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000, help="rows to stream")
    rows = parser.parse_args().rows
    context = multiprocessing.get_context("spawn")
    lines = []
    for many, size in ((1_000_000, 1_000_000), (rows, 250_000)):
        with context.Pool(1) as pool:
            lines.append(pool.apply(measure, (many, size)))
    table = ["| rows | rows per chunk | CPU seconds | peak memory, MB |", "|---|---|---|---|"]
    table += [
        f"| {x['rows']:,} | {x['chunk_rows']:,} | {x['seconds']:.2f} | {x['peak_memory_mb']:.0f} |" for x in lines
    ]
    text = "\n".join(table) + "\n"
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "tally_stream.json").write_text(json.dumps(lines, indent=1) + "\n")
    (RESULTS / "tally_stream.md").write_text(text)


if __name__ == "__main__":
    main()
