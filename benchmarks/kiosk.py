"""What the demo measured, as a table: ``python benchmarks/kiosk.py``; builds the kiosk first, from the store if it can.

Writes ``results/kiosk.json`` (rows) and ``results/kiosk.md``. Latencies and times hold for the machine that is named.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fairdeploy.bundle import Bundle
from fairdeploy.evidence.records import Interval, Rate
from fairdeploy.workflow import Build, build

ROOT = Path(__file__).resolve().parent
TARGETS = ("this-host", "this-host-int8", "x86-openvino-int8")


def percent(value: float, interval: Interval) -> str:
    return f"{value * 100:.1f} ({interval.lower * 100:.1f} to {interval.upper * 100:.1f})"


def rate(rates: Iterable[Rate], metric: str, level: str | None) -> str:
    group = {"skin_tone": level} if level else {}
    (one,) = [one for one in rates if (one.metric, one.group, one.context) == (metric, group, {})]
    assert one.value is not None
    assert one.interval is not None
    return percent(one.value, one.interval)


def worst(rates: Iterable[Rate]) -> str:
    tones = [one for one in rates if one.metric == "accuracy" and one.group and not one.context and one.value]
    level = min(tones, key=lambda one: one.value or 0).group["skin_tone"]
    return f"{level}: {rate(tones, 'accuracy', level)}"


def rates_of(rates: tuple[Rate, ...], levels: tuple[str, ...]) -> dict[str, str]:
    return {
        "accuracy": rate(rates, "accuracy", None),
        "worst tone": worst(rates),
        **{f"TPR {level}": rate(rates, "true_positive_rate", level) for level in levels},
        **{f"FPR {level}": rate(rates, "false_positive_rate", level) for level in levels},
    }


def flips(bundle: Bundle) -> str:
    (one,) = [
        one
        for one in bundle.evidence.changes
        if (one.metric, one.group, one.context, one.against) == ("accuracy", {}, {}, "compact")
    ]
    return f"{(one.lost + one.gained) / one.n * 100:.2f}"


def row(bundle: Bundle, levels: tuple[str, ...]) -> dict[str, Any]:
    evidence = bundle.evidence
    assert evidence.latency is not None
    (gap,) = [one for one in evidence.gaps if one.metric == "equalized_odds_difference"]
    assert gap.value is not None
    assert gap.interval is not None
    return {
        "target": bundle.target.id,
        "precision": evidence.requested_precision,
        "verdict": bundle.verdict.status,
        **rates_of(evidence.rates, levels),
        "equalized odds difference": percent(gap.value, gap.interval),
        "flips against compact, %": flips(bundle),
        "p50 ms": f"{evidence.latency.percentiles['p50']:.4f}",
        "p90 ms": f"{evidence.latency.percentiles['p90']:.4f}",
        "size kB": f"{(evidence.size_bytes or 0) / 1e3:.1f}",
    }


def dense_row(bundle: Bundle, levels: tuple[str, ...], size_bytes: int) -> dict[str, Any]:
    """The network that it all started from, in ONNX Runtime."""
    latency = bundle.evidence.reference_latency["dense"].percentiles
    (stage,) = [one for one in bundle.evidence.stages if one.stage == "dense"]
    return {
        "target": "dense, for comparison",
        "precision": "fp32",
        **rates_of(stage.rates, levels),
        "p50 ms": f"{latency['p50']:.4f}",
        "p90 ms": f"{latency['p90']:.4f}",
        "size kB": f"{size_bytes / 1e3:.1f}",
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Turn rows into a Markdown table with one column each."""
    lines = ["| | " + " | ".join(str(one["target"]) for one in rows) + " |", "|---" * (len(rows) + 1) + "|"]
    lines += [
        f"| {key} | " + " | ".join(str(one.get(key, "")) for one in rows) + " |" for key in rows[-1] if key != "target"
    ]
    return "\n".join(lines)


def text(result: Build, rows: list[dict[str, Any]]) -> str:
    record = result.record
    done, (host, *_) = record.compaction, result.bundles
    assert done is not None
    latency = {name: one.percentiles["p50"] for name, one in host.evidence.reference_latency.items()}
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    times = "\n".join(f"| {one.station} | {one.seconds:.1f} |" for one in record.times)
    candidates = "\n".join(
        f"| {one.name}{' (chosen)' if one.chosen else ''} | {one.macs:,} | {one.parameters:,} | {one.accuracy:.4f} "
        f"| {one.worst_group}: {one.worst_group_accuracy:.4f} | {one.latency_p50_ms:.4f} |"
        for one in record.candidates
    )
    where = f"{record.machine['model']} ({record.machine['arch']})"
    return f"""# The kiosk, measured

Made by `python benchmarks/kiosk.py`. Drawings of people, not photographs. Rates in percent with 95 % intervals over
drawing families (clusters); every target ran on the machine named at the end, so its evidence is at level *device*.

{table(rows)}

## Before and after compaction

| | dense | compact |
|---|---|---|
| MACs | {done.macs_before:,} | {done.macs_after:,} |
| parameters | {done.parameters_before:,} | {done.parameters_after:,} |
| fp32 ONNX, bytes | {record.dense_size_bytes:,} | {record.compact_size_bytes:,} |
| ONNX Runtime p50, ms, one thread | {latency["dense"]:.4f} | {latency["compact"]:.4f} |

Largest difference of the outputs, masked against compacted, float64: {done.max_difference:.1e} (outputs move by
{done.output_sensitivity:.2g} with the input).

## Candidates, on *tune*

| candidate | MACs | parameters | accuracy | worst tone | p50 ms |
|---|---|---|---|---|---|
{candidates}

## Time of each station when it last ran, seconds

| station | s |
|---|---|
{times}

Sum: {sum(one.seconds for one in record.times):.0f} s on {where}, one thread. Versions: {versions}.
"""


def main() -> None:
    result = build(ROOT.parent / "examples" / "kiosk", TARGETS)
    levels = result.record.attributes["skin_tone"]
    rows = [dense_row(result.bundles[0], levels, result.record.dense_size_bytes)]
    rows += [row(bundle, levels) for bundle in result.bundles]
    (ROOT / "results").mkdir(exist_ok=True)
    (ROOT / "results" / "kiosk.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    (ROOT / "results" / "kiosk.md").write_text(text(result, rows))
    print(text(result, rows))


if __name__ == "__main__":
    main()
