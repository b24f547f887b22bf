"""The ``gates:`` of a YAML file into rules; every mistake with its line, column and the nearest known name."""

from __future__ import annotations

import math
from typing import Any, get_args

from fairdeploy.evidence.metrics import FLIPS, GAPS, RATES
from fairdeploy.evidence.records import LEVELS, Reference
from fairdeploy.gates.records import PLAIN_WORDS, Condition, Gates, Rule, conditions_of, needs_reference
from fairdeploy.model import Task
from fairdeploy.project import TargetUsed
from fairdeploy.yamlfile import Document, KeyPath, nearest

OPTIONS = ("against", "confidence", "level", "required")
MANY_CLASSES = ("accuracy", "accuracy_difference", "worst_group_accuracy", "flip_rate")
KNOWN = (*PLAIN_WORDS, "latency_p50_ms", "latency_p90_ms", "latency_p99_ms")


def parse_gates(
    document: Document, path: KeyPath = ("gates",), *, task: Task = "binary-classification"
) -> tuple[Rule, ...]:
    """Read the rules that stand under a key.

    Each metric has one mapping or a list of them: ``{max_drop: 0.01, against: compact}``. A mapping may hold several
    conditions; `against` then goes to those that need it.

    Parameters
    ----------
    document : Document
        A project's, target's or gates file.
    path : key path
        Where the gates stand; ``("targets", 2, "gates")`` for those of a target's use.
    task : str
        With many classes only metrics that have a meaning there are allowed.

    Raises
    ------
    ConfigError
        For no rule at all, unknown names, conditions that do not fit the metric, bounds that are not numbers or could
        never fail or pass, and doubled rules.
    """
    node: Any = document.data
    for part in path:
        node = node.get(part) if isinstance(node, dict) else node[int(part)] if isinstance(node, list) else None
    if not isinstance(node, dict) or not node:
        raise document.error("no gate is set: an empty list would pass everything", path)
    rules: list[Rule] = []
    for metric, entries in node.items():
        here = (*path, metric)
        conditions = _conditions(document, here, metric, task)
        listed = isinstance(entries, list)
        if not entries and entries != 0:
            raise document.error(f"'{metric}' has no condition; it takes {', '.join(conditions)}", here)
        for index, entry in enumerate(entries if listed else [entries]):
            rules += _mapping(document, (*here, index) if listed else here, metric, entry, conditions)
    names = [rule.name for rule in rules]
    for rule in rules:
        if names.count(rule.name) > 1:
            raise document.error(f"the rule {rule.name} stands twice; keep one", (*path, rule.metric))
    return tuple(rules)


def _conditions(document: Document, path: KeyPath, metric: str, task: Task) -> tuple[Condition, ...]:
    known = conditions_of(metric)
    if not known:
        raise document.error(f"unknown metric '{metric}'{nearest(metric, KNOWN)}", path)
    if task != "binary-classification" and metric in {*RATES, *GAPS, *FLIPS} and metric not in MANY_CLASSES:
        raise document.error(f"'{metric}' needs two classes; with many, use {', '.join(MANY_CLASSES)}", path)
    return known


def _mapping(document: Document, path: KeyPath, metric: str, entry: Any, allowed: tuple[Condition, ...]) -> list[Rule]:
    if not isinstance(entry, dict):
        raise document.error(f"'{metric}' takes a mapping such as {{{allowed[0]}: 0.9}}, not {entry!r}", path)
    for key in entry:
        if key in get_args(Condition) and key not in allowed:
            raise document.error(f"'{key}' does not fit {metric}; it takes {', '.join(allowed)}", (*path, key))
        if key not in (*allowed, *OPTIONS):
            raise document.error(f"unknown condition '{key}'{nearest(key, (*allowed, *OPTIONS))}", (*path, key))
    conditions = [key for key in allowed if key in entry]
    if not conditions:
        raise document.error(f"'{metric}' has no condition; it takes {', '.join(allowed)}", path)
    options = _options(document, path, entry)
    relative = [key for key in conditions if needs_reference(metric, key)]
    if relative and "against" not in entry:
        raise document.error(
            f"'{relative[0]}' is a change: say 'against: dense' or 'against: compact'", (*path, relative[0])
        )
    if "against" in entry and not relative:
        raise document.error(f"'against' does not fit '{conditions[0]}', which is no change", (*path, "against"))
    place = document.origin(path)
    return [
        Rule(
            metric=metric,
            condition=condition,
            bound=_bound(document, (*path, condition), metric, condition, entry[condition]),
            where=f"{place.file.name}:{document.origin((*path, condition)).line}",
            **{key: value for key, value in options.items() if key != "against" or condition in relative},
        )
        for condition in conditions
    ]


def _options(document: Document, path: KeyPath, entry: dict[str, Any]) -> dict[str, Any]:
    for key, known in (("against", get_args(Reference)), ("level", LEVELS)):
        if key in entry and entry[key] not in known:
            raise document.error(f"'{key}' is {entry[key]!r}{nearest(str(entry[key]), known)}", (*path, key))
    confidence = entry.get("confidence", 0.95)
    if not _is_number(confidence) or not 0.5 < confidence < 1:
        raise document.error(
            f"'confidence' is {confidence!r}: give a number above 0.5 and below 1", (*path, "confidence")
        )
    if not isinstance(entry.get("required", True), bool):
        raise document.error(f"'required' is {entry['required']!r}: give true or false", (*path, "required"))
    return {key: entry[key] for key in OPTIONS if key in entry}


def _bound(document: Document, path: KeyPath, metric: str, condition: Condition, value: Any) -> float:
    if not _is_number(value) or not math.isfinite(value):
        raise document.error(f"'{condition}' is {value!r}: give a finite number", path)
    if metric in {*RATES, *GAPS, *FLIPS, "worst_group_accuracy"}:
        if not 0 < value < 1:
            raise document.error(
                f"'{condition}' is {value}: give a fraction above 0 and below 1, as 0.01 for one point; "
                "others can never pass or never fail",
                path,
            )
    elif value <= 0:
        raise document.error(f"'{condition}' is {value}: give a number above 0", path)
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def gates_of(used: TargetUsed, task: Task) -> Gates:
    """Collect the rules of one target: project-wide ones, the target's, and this use's."""
    rules = [rule for document, path in used.gate_sources for rule in parse_gates(document, path, task=task)]
    return Gates(rules=tuple(rules))
