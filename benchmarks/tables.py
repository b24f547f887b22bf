"""What the benchmarks of evidence and gates share: judging a tally, Markdown tables, and where results go."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fairdeploy.evidence import Evidence, Tally, judge
from fairdeploy.evidence.records import Reference, StageName

RESULTS = Path(__file__).resolve().parent / "results"
Row = Mapping[str, Any]


def evidence_of(
    tallies: Mapping[Reference, Tally],
    *,
    stages: Mapping[StageName, Tally] | None = None,
    target: str = "simulated",
    identical_to: tuple[Reference, ...] = (),
) -> Evidence:
    """Judge predictions that no device made: at no level, with nothing but tallies known."""
    return judge(
        target=target,
        level=None,
        level_reason="made by a benchmark",
        spec_digest="0" * 64,
        data_fingerprint="0" * 64,
        reference_digests={},
        requested_precision="unknown",
        seed=0,
        tallies=tallies,
        stages=stages or {},
        identical_to=identical_to,
    )


def markdown(rows: Sequence[Row]) -> str:
    """Turn rows of the same keys into a Markdown table with one line each."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|---" * len(rows[0]) + "|"]
    return "\n".join(lines + ["| " + " | ".join(str(value) for value in row.values()) + " |" for row in rows])


def machine() -> str:
    """Name the processor, for numbers that depend on it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown CPU")
    return f"{model} ({platform.machine()}, {os.cpu_count()} cores), Python {platform.python_version()}"


def write(name: str, result: Any, text: str, *, folder: Path = RESULTS) -> None:
    """Print the text and write ``NAME.json`` and ``NAME.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    (folder / f"{name}.md").write_text(text)
    print(text)
