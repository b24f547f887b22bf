"""From rows of runs to tables and paired comparisons; rows are kept as they finish.

A row is flat: ``task``, ``seed``, ``method``, ``keep``, ``epochs`` name the run, `COSTS` say what it cost, the rest is
the record of `fair_evaluate.records`. The method `DENSE` is what drops are counted from; seconds count what follows it
and are held against those of `COST_OF_ONE`. One task, level and schedule is a *setting*.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fair_data import task
from fair_evaluate import EQUAL, Comparison, compare
from tables import markdown

from fairdeploy.errors import DataError
from fairdeploy.records import write_atomic

KEY = ("task", "seed", "method", "keep", "epochs")
COSTS = ("macs", "parameters", "latency_ms", "seconds")
DENSE = "dense"
COST_OF_ONE = "strong control"
PERCENT = {
    "accuracy": "accuracy",
    "worst_group_accuracy": "worst group",
    "worst_true_positive_rate": "worst TPR",
    "equalized_odds_difference": "EO",
    "true_positive_rate_gap": "TPR gap",
    "demographic_parity_difference": "DP",
    "gap_at_common_fpr": "TPR gap at FPR 7",
    "worst_auc": "worst AUC",
    "worst_excess_drop": "worst excess drop",
}

Row = Mapping[str, Any]
Rows = Sequence[Row]
Setting = tuple[str, float, int]
Methods = Mapping[str, Rows]


class Store:
    """Rows in a file of JSON lines, which several processes may add to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> list[Row]:
        """Read all rows.

        Raises
        ------
        DataError
            If a line is not a row; names file and line.
        """
        found: list[Row] = []
        for number, line in enumerate(self.path.read_text().splitlines() if self.path.exists() else (), 1):
            try:
                found.append(_checked(json.loads(line)))
            except (ValueError, DataError) as error:
                raise DataError(f"{self.path}, line {number}: {error}; delete the line to run it again") from error
        return found

    def done(self, *key: Any) -> bool:
        """Say whether there is a row of this `KEY`."""
        return key in map(_key, self.rows())

    def append(self, rows: Iterable[Row]) -> None:
        """Add rows; the file holds all of them or none.

        Raises
        ------
        DataError
            If a row lacks a name of its run or is there already.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            kept = self.rows()
            for row in rows:
                if _key(_checked(row)) in map(_key, kept):
                    raise DataError(f"{self.path}: there is a row of {_key(row)} already")
                kept.append(row)
            write_atomic(self.path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in kept).encode())
        finally:
            os.close(folder)


def report(rows: Rows, pairs: Sequence[tuple[str, str]]) -> str:
    """Return Markdown: each setting's table, its rates by group, and the named pairs of methods compared.

    Raises
    ------
    DataError
        If rows are compared whose dense network is not among them.
    """
    parts = []
    for setting in settings(rows):
        own = rows_of(rows, setting)
        name, keep, epochs = setting
        parts.append(f"## {name}, keep {keep:g}, {epochs} epochs\n\n{markdown(_means(own))}\n")
        parts.append(f"{markdown(_by_group(own, name))}\n")
        compared = [line for first, second in pairs for line in _compared(own, name, first, second)]
        if compared:
            parts.append(f"{markdown(compared)}\n")
    return "\n".join(parts)


def _checked(row: Row) -> Row:
    missing = [name for name in KEY if not isinstance(row, dict) or name not in row]
    if missing:
        raise DataError(f"a row without {', '.join(missing)}")
    return row


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in KEY)


def settings(rows: Rows) -> list[Setting]:
    """Return task, level and schedule of all but the dense networks, in the order of the rows."""
    return list(dict.fromkeys((row["task"], row["keep"], row["epochs"]) for row in rows if row["method"] != DENSE))


def rows_of(rows: Rows, setting: Setting) -> dict[str, list[Row]]:
    """Return the rows of a setting by their method, after those of the task's dense networks, one for each seed."""
    dense = {row["seed"]: row for row in rows if row["task"] == setting[0] and row["method"] == DENSE}
    found: dict[str, list[Row]] = {DENSE: list(dense.values())}
    for row in rows:
        if row["method"] != DENSE and (row["task"], row["keep"], row["epochs"]) == setting:
            found.setdefault(row["method"], []).append(row)
    return {method: own for method, own in found.items() if own}


def mean(rows: Rows, name: str) -> float:
    """Return a quantity's mean over seeds; NaN if one does not have it."""
    return float(np.mean([row.get(name, math.nan) for row in rows]))


def _shown(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)


def _means(methods: Methods) -> list[Row]:
    lines = []
    for method, own in methods.items():
        line: dict[str, Any] = {"method": method, "seeds": len(own)}
        for name, title in PERCENT.items():
            value = _shown(100 * mean(own, name), ".1f")
            equal = _shown(100 * mean(own, name + EQUAL), ".1f")
            line[title] = f"{value} ({equal})" if equal else value
        line |= {
            "MACs": _shown(mean(own, "macs"), ",.0f"),
            "parameters": _shown(mean(own, "parameters"), ",.0f"),
            "latency, ms": _shown(mean(own, "latency_ms"), ".3f"),
            "cost": _shown(_cost(methods, method), ".2f"),
        }
        lines.append(line)
    empty = {title for title in lines[0] if not any(line[title] for line in lines)}
    return [{title: value for title, value in line.items() if title not in empty} for line in lines]


def _cost(methods: Methods, method: str) -> float:
    """Return seconds relative to `COST_OF_ONE` of the same seeds."""
    against = {row["seed"]: row["seconds"] for row in methods.get(COST_OF_ONE, ())}
    own = methods[method]
    if method == DENSE or not all(row["seed"] in against for row in own):
        return math.nan
    return mean(own, "seconds") / float(np.mean([against[row["seed"]] for row in own]))


def _by_group(methods: Methods, name: str) -> list[Row]:
    names = {f"{rate.upper()} {group}": f"{rate}:{group}" for rate in ("tpr", "fpr") for group in task(name).groups}
    there = {title: one for title, one in names.items() if any(one in row for own in methods.values() for row in own)}
    return [
        {"method": method, **{title: _shown(100 * mean(own, one), ".1f") for title, one in there.items()}}
        for method, own in methods.items()
    ]


def _compared(methods: Methods, name: str, first: str, second: str) -> list[Row]:
    """Compare two methods of a setting on the seeds that both have; nothing if there are none."""
    one, other, dense = ({row["seed"]: row for row in methods.get(arm, ())} for arm in (first, second, DENSE))
    seeds = [seed for seed in one if seed in other]
    if not seeds:
        return []
    missing = [seed for seed in seeds if seed not in dense]
    if missing:
        raise DataError(f"{name}: no row of the dense network for seed {missing[0]}, which drops are counted from")
    found = compare(*([arm[seed] for seed in seeds] for arm in (one, other, dense)), task=task(name))
    titles = PERCENT | {f"accuracy:{group}": f"accuracy {group}" for group in task(name).groups}
    return [_line(found[one], f"{first} − {second}: {title}") for one, title in titles.items() if one in found]


def _line(one: Comparison, title: str) -> Row:
    return {
        "difference": title,
        "seeds": one.seeds,
        "from, to": f"{100 * one.second:.1f} → {100 * one.first:.1f}",
        "mean": f"{100 * one.difference:+.2f}",
        "over clusters": _interval(one.clusters),
        "over seeds": _interval(one.over_seeds),
        "clear of 0": "yes" if one.clear else "no",
    }


def _interval(bounds: tuple[float, float] | None) -> str:
    return "" if bounds is None else f"[{100 * bounds[0]:+.2f}, {100 * bounds[1]:+.2f}]"
