"""Waivers of a project or a gates file, and whole gates files: what stands under ``gates:``, and beside it waivers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fairdeploy.gates.parse import parse_gates
from fairdeploy.gates.records import Gates, Waiver
from fairdeploy.model import Task
from fairdeploy.records import Record
from fairdeploy.yamlfile import Document, read, validate


@dataclass(frozen=True)
class GatesFile:
    """What a gates file says.

    Attributes
    ----------
    gates : Gates
    waivers : tuple of Waiver
    across : Gates or None
        What must hold over all targets.
    """

    gates: Gates
    waivers: tuple[Waiver, ...]
    across: Gates | None


class _Waivers(Record):
    waivers: tuple[Waiver, ...]


def read_gates(file: Path, *, task: Task) -> GatesFile:
    """Read a gates file: metrics at the top, and beside them ``waivers`` and ``across_targets``.

    A bundle's gates.json is one, too; its rules keep the places where they were set, so that its digest stays.

    Raises
    ------
    ConfigError
        With file, line and column; see `parse_gates`.
    """
    document = read(file)
    if "gates" in document.data:
        raise document.error("a gates file holds what stands under 'gates:': write the metrics at the top", ("gates",))
    if "rules" in document.data:
        gates = validate(Gates, document)
        if not gates.rules:
            raise document.error("no gate is set: an empty list would pass everything", ("rules",))
        return GatesFile(gates, (), None)
    across = parse_across(document, task=task)
    return GatesFile(Gates(rules=parse_gates(document, (), task=task)), parse_waivers(document), across)


def parse_across(document: Document, *, task: Task) -> Gates | None:
    """Read what must hold over all targets, under ``across_targets``; None where nothing is said."""
    if "across_targets" not in document.data:
        return None
    return Gates(rules=parse_gates(document, ("across_targets",), task=task, across=True))


def parse_waivers(document: Document) -> tuple[Waiver, ...]:
    """Read the ``waivers`` at the top of a document.

    Raises
    ------
    ConfigError
        For a waiver without target, rule, bound, group, reason, approver or expiry, with its line.
    """
    node = document.data.get("waivers", [])
    return validate(_Waivers, Document(document.file, {"waivers": node}, document.origins)).waivers
