"""Waivers of a project or a gates file, and whole gates files: what stands under ``gates:``, and beside it waivers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fairdeploy.evidence.records import Reference
from fairdeploy.gates.parse import RESERVED, parse_gates
from fairdeploy.gates.records import Gates, Waiver
from fairdeploy.model import Task
from fairdeploy.records import Record
from fairdeploy.yamlfile import Document, KeyPath, nearest, read, validate


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


def read_gates(file: Path, *, task: Task | None, lone: Reference | None = None) -> GatesFile:
    """Read a gates file: metrics at the top or under ``gates``, and beside them ``waivers`` and ``across_targets``.

    A bundle's gates.json is one, too; its rules keep the places where they were set, so that its digest stays.

    Parameters
    ----------
    file : Path
    task : str
        With many classes, metrics of two must name one; None where they are not known yet.
    lone : str, optional
        The only reference that there is: meant where `against` is left out.

    Raises
    ------
    ConfigError
        With file, line and column; see `parse_gates`.
    """
    document = read(file)
    if "rules" in document.data:
        gates = validate(Gates, document)
        if not gates.rules:
            raise document.error("no gate is set: an empty list would pass everything", ("rules",))
        return GatesFile(gates, (), None)
    under: KeyPath = ("gates",) if "gates" in document.data else ()
    if under:
        for key in document.data.keys() - {"gates", *RESERVED}:
            raise document.error(f"unknown key '{key}'{nearest(key, ('gates', *RESERVED))}", (key,))
    gates = Gates(rules=parse_gates(document, under, task=task, lone=lone))
    return GatesFile(gates, parse_waivers(document), parse_across(document, task=task))


def parse_across(document: Document, *, task: Task | None) -> Gates | None:
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
