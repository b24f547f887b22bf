"""The ``gates:`` of a YAML file into rules; every mistake with its line, column and the nearest known name."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

from fairdeploy.evidence.metrics import GAPS
from fairdeploy.evidence.records import LEVELS, Reference
from fairdeploy.evidence.scores import SCORES
from fairdeploy.gates.records import (
    PLAIN_WORDS,
    SIZES,
    Condition,
    Gates,
    Rule,
    bounds_of,
    conditions_of,
    is_binary,
    needs_reference,
)
from fairdeploy.model import Task
from fairdeploy.project import TargetUsed
from fairdeploy.yamlfile import Document, KeyPath, nearest

OPTIONS = {
    "against": "against", "confidence": "confidence", "level": "level", "required": "required", "within": "within",
    "class": "of_class", "intersections": "intersections",
}  # fmt: skip
RESERVED = ("waivers", "across_targets")  # beside the metrics of a gates file
KNOWN = (*PLAIN_WORDS, "latency_p50_ms", "latency_p90_ms", "latency_p99_ms")
ALL_CLASSES = ("accuracy", "accuracy_difference", "balanced_accuracy", "flip_rate", "worst_group_accuracy")


def parse_gates(
    document: Document,
    path: KeyPath = ("gates",),
    *,
    task: Task | None = "binary-classification",
    across: bool = False,
    lone: Reference | None = None,
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
        With many classes, metrics of two must name one; None where they are not known yet.
    across : bool
        Whether the rules are over all targets, so that `max_spread` may be asked for.
    lone : str, optional
        The only reference that there is: meant where `against` is left out.

    Raises
    ------
    ConfigError
        For no rule at all, unknown names, conditions that do not fit the metric, bounds that are not numbers or could
        never fail or pass, and doubled rules.
    """
    node: Any = document.data
    for part in path:
        node = node.get(part) if isinstance(node, dict) else node[int(part)] if isinstance(node, list) else None
    if isinstance(node, dict):
        node = {key: value for key, value in node.items() if path or key not in RESERVED}
    if not isinstance(node, dict) or not node:
        raise document.error("no gate is set: an empty list would pass everything", path)
    rules: list[Rule] = []
    for metric, entries in node.items():
        here = (*path, metric)
        conditions = _conditions(document, here, metric, across)
        listed = isinstance(entries, list)
        if not entries and entries != 0:
            raise document.error(f"'{metric}' has no condition; it takes {', '.join(conditions)}", here)
        for index, entry in enumerate(entries if listed else [entries]):
            entry = _with_lone(metric, entry, lone)
            rules += _mapping(document, (*here, index) if listed else here, metric, entry, conditions, task)
    names = [rule.name for rule in rules]
    for rule in rules:
        if names.count(rule.name) > 1:
            raise document.error(f"the rule {rule.name} stands twice; keep one", (*path, rule.metric))
    return tuple(rules)


def _conditions(document: Document, path: KeyPath, metric: str, across: bool) -> tuple[Condition, ...]:
    known = conditions_of(metric, across=across)
    if not known:
        raise document.error(f"unknown metric '{metric}'{nearest(metric, KNOWN)}", path)
    return known


def _with_lone(metric: str, entry: Any, lone: Reference | None) -> Any:
    if lone is None or not isinstance(entry, dict) or "against" in entry:
        return entry
    return {**entry, "against": lone} if any(needs_reference(metric, str(key)) for key in entry) else entry


def _mapping(
    document: Document, path: KeyPath, metric: str, entry: Any, allowed: tuple[Condition, ...], task: Task | None
) -> list[Rule]:
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
    options = _options(document, path, metric, entry, task)
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


def _options(
    document: Document, path: KeyPath, metric: str, entry: dict[str, Any], task: Task | None
) -> dict[str, Any]:
    for key, known in (("against", get_args(Reference)), ("level", LEVELS)):
        if key in entry and entry[key] not in known:
            raise document.error(f"'{key}' is {entry[key]!r}{nearest(str(entry[key]), known)}", (*path, key))
    confidence = entry.get("confidence", 0.95)
    if not _is_number(confidence) or not 0.5 < confidence < 1:
        raise document.error(
            f"'confidence' is {confidence!r}: give a number above 0.5 and below 1", (*path, "confidence")
        )
    for key in ("required", "intersections"):
        if not isinstance(entry.get(key, True), bool):
            raise document.error(f"'{key}' is {entry[key]!r}: give true or false", (*path, key))
    _check_groups(document, path, metric, entry, task)
    return {OPTIONS[key]: value for key, value in entry.items() if key in OPTIONS}


def _check_groups(document: Document, path: KeyPath, metric: str, entry: dict[str, Any], task: Task | None) -> None:
    """Refuse ``within``, ``class`` and ``intersections`` where they have no meaning, and many classes without one."""
    without_groups = not conditions_of(metric) or metric in SIZES or metric.startswith("latency_")
    for key in ("within", "class", "intersections"):
        if key in entry and without_groups:
            raise document.error(f"'{key}' does not fit {metric}, which has no groups", (*path, key))
    for key in ("within", "class"):
        if key in entry and (not isinstance(entry[key], str) or not entry[key]):
            raise document.error(f"'{key}' is {entry[key]!r}: give a name as text", (*path, key))
    if metric in GAPS and "intersections" in entry:
        place = (*path, "intersections")
        raise document.error(f"'intersections' does not fit {metric}, which is over one attribute", place)
    for key in ("within", "class"):
        if key in entry and metric in SCORES:
            raise document.error(f"'{key}' does not fit {metric}: scores are counted per group only", (*path, key))
    two, many = task == "binary-classification", task == "multiclass-classification"
    if "class" in entry and (two or not is_binary(metric)):
        why = "with two classes, the second is the positive one" if two else f"{metric} is about all classes"
        raise document.error(f"'class' does not fit: {why}", (*path, "class"))
    if many and is_binary(metric) and "class" not in entry:
        raise document.error(
            f"'{metric}' needs two classes; with many, name one as in 'class: cat', or use {', '.join(ALL_CLASSES)}",
            path,
        )


def _bound(document: Document, path: KeyPath, metric: str, condition: Condition, value: Any) -> float:
    bound = _as_float(value)
    if bound is None or not math.isfinite(bound):
        raise document.error(f"'{condition}' is {repr(value) if bound is None else bound}: give a finite number", path)
    least, most = bounds_of(metric, condition)
    if most < 1 and not 0 < bound < 1:
        raise document.error(
            f"'{condition}' is {value}: give a fraction above 0 and below 1, as 0.01 for one point; "
            "others can never pass or never fail",
            path,
        )
    if bound <= 0:
        raise document.error(f"'{condition}' is {value}: give a number above 0", path)
    if not least <= bound <= most:
        why = f"give one from {least} to {most}; others can never pass or never fail"
        raise document.error(f"'{condition}' is {value}: {why}", path)
    return bound


def _as_float(value: Any) -> float | None:
    """Return a number as float, a whole one that is too large for that as infinity; None for what is no number."""
    try:
        return float(value) if _is_number(value) else None
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def gates_of(used: TargetUsed, task: Task) -> Gates:
    """Collect the rules of one target: project-wide ones, the target's, and this use's."""
    root = used.gate_sources[0][0].file.parent
    return Gates(
        rules=tuple(
            _from_project(rule, document.file, root)
            for document, path in used.gate_sources
            for rule in parse_gates(document, path, task=task)
        )
    )


def _from_project(rule: Rule, file: Path, root: Path) -> Rule:
    """Say where a rule of a project's own target file stands as seen from the project's folder."""
    name, _, line = rule.where.rpartition(":")
    if name != file.name or not file.is_relative_to(root):
        return rule
    return rule.model_copy(update={"where": f"{file.relative_to(root).as_posix()}:{line}"})
