"""What a project asks beside each target's own gates: waivers, and rules over all targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from fairdeploy.data.splits import UNKNOWN
from fairdeploy.evidence import Evidence
from fairdeploy.evidence.metrics import ALL
from fairdeploy.gates import Gates, Verdict, Waiver, gate, gate_across, parse_across, parse_waivers
from fairdeploy.gates.across import ALL_TARGETS
from fairdeploy.project import Project, resolve_targets
from fairdeploy.yamlfile import Document, nearest


@dataclass(frozen=True)
class Policy:
    """Waivers and rules over all targets, with the date that waivers are held against.

    Attributes
    ----------
    targets : tuple of str
        Every target that the project lists.
    across : Gates or None
        None where the project asks nothing over all targets.
    """

    targets: tuple[str, ...]
    waivers: tuple[Waiver, ...]
    across: Gates | None
    today: date

    @classmethod
    def read(cls, project: Project, document: Document, folder: Path, *, today: date) -> Policy:
        """Read a project's policy, before anything is evaluated.

        Raises
        ------
        ConfigError
            With file and line, for a rule or a waiver that is wrong, or a waiver for a target that there is not.
        """
        targets = tuple(one.target.id for one in resolve_targets(project, document, folder))
        across = parse_across(document, task=project.task)
        waivers = parse_waivers(document)
        known = (*targets, ALL_TARGETS) if across else targets
        for at, waiver in enumerate(waivers):
            if waiver.target not in known:
                place = ("waivers", at, "target")
                raise document.error(f"no target '{waiver.target}' to waive for{nearest(waiver.target, known)}", place)
            for name, level in waiver.group.items():
                levels = project.groups.attributes.get(name)
                if levels is None:
                    said = f"no attribute '{name}' to waive for{nearest(name, project.groups.attributes)}"
                elif level not in (*levels, UNKNOWN, ALL):
                    said = f"no level '{level}' of {name} to waive for{nearest(level, levels)}"
                else:
                    continue
                raise document.error(said, ("waivers", at, "group"))
        return cls(targets, waivers, across, today)

    def gate(self, evidence: Evidence, gates: Gates) -> Verdict:
        """Decide one target, with the waivers that are for it."""
        return gate(evidence, gates, waivers=self._waivers(evidence.record.target), today=self.today)

    def gate_across(self, evidence: Sequence[Evidence]) -> Verdict | None:
        """Decide what must hold over all targets; None where nothing must."""
        if self.across is None:
            return None
        there = {one.record.target for one in evidence}
        absent = [target for target in self.targets if target not in there]
        waivers = self._waivers(ALL_TARGETS)
        return gate_across(evidence, self.across, absent=absent, waivers=waivers, today=self.today)

    def _waivers(self, target: str) -> list[Waiver]:
        return [waiver for waiver in self.waivers if waiver.target == target]
