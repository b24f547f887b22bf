"""Plan: what a build would run and why, and whether the evaluate split can carry the gates. Nothing is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fairdeploy.data import SPLITS, Rows
from fairdeploy.deploy import Deployment
from fairdeploy.evidence import Tally
from fairdeploy.evidence.plans import Assumptions, PlanRow, plan_rule
from fairdeploy.gates import Gates
from fairdeploy.line import Line, Listener
from fairdeploy.project import CONFIG_NAME, TargetUsed
from fairdeploy.store import NotKept

FLIP_RATES: Mapping[str, float] = {"compact": 0.01, "dense": 0.05}


@dataclass(frozen=True)
class Station:
    """One station: kept, or to be run and why."""

    label: str
    kept: bool
    why: str


@dataclass(frozen=True)
class Plan:
    """The stations of a build, and what every fairness gate needs of the evaluate split."""

    stations: tuple[Station, ...]
    rows: tuple[PlanRow, ...]


def plan(
    folder: Path,
    only: tuple[str, ...] = (),
    *,
    config: str = CONFIG_NAME,
    flip_rates: Mapping[str, float] = FLIP_RATES,
    rate: float = 0.9,
    icc: float = 0.1,
    power: float = 0.8,
) -> Plan:
    """Plan a build.

    Parameters
    ----------
    folder : Path
        The project's folder.
    only : tuple of str
        Target ids or aliases; empty for all that the project lists.
    flip_rates : mapping of reference to float
        Expected share of predictions that differ from the reference's.
    rate : float
        Expected accuracy, TPR … where a rate or a gap is gated.
    icc : float
        Expected intra-cluster correlation; with the rows per cluster it gives each cell's design effect (Kish 1965).
    power : float
        Wanted probability that all cells of a gate pass.

    Raises
    ------
    ConfigError
        If the project, a target, the data or the gates are wrong.
    """
    kept: list[str] = []
    line = Line(folder, config, dry=True, listener=Listener(on_done=lambda one: kept.append(one.label)))
    targets = line.targets(only)
    missing = _walk(line, targets)
    stations = [Station(label, True, "") for label in dict.fromkeys(kept)]
    stations += [Station(label, False, why) for label, why in missing]
    rules = {(rule.name, rule.bound): rule for _, gates in targets for rule in gates.rules}
    evaluate = line.raw_splits["evaluate"].rows
    labels = _label_tally(line, evaluate)
    planned: list[PlanRow] = []
    for rule in rules.values():
        flips = flip_rates[rule.against or "dense"]
        given = Assumptions(flip_rate=flips, rate=rate, icc=icc, power=power)
        planned += plan_rule(rule, labels, assumptions=given)
    return Plan(tuple(stations), tuple(planned))


def _walk(line: Line, targets: list[tuple[TargetUsed, Gates]]) -> list[tuple[str, str]]:
    """Go down the path over a dry store; what follows a missing station would run because of it."""
    missing: list[tuple[str, str]] = []

    def go(step: Callable[[], object]) -> bool:
        try:
            step()
        except NotKept as error:
            missing.append((error.label, error.why))
            return False
        return True

    if not all([go(lambda name=name: line.splits((name,))) for name in SPLITS]):  # type: ignore[misc]
        return [*missing, ("everything after the data", "needs what is missing above")]
    splits = line.splits()
    networks = line.networks(splits)
    keep = line.project.prune.keep
    steps: list[Callable[[], object]] = [networks.export_dense]
    steps += [lambda level=level: networks.candidate(level) for level in (keep.macs if keep else ())]  # type: ignore[misc]
    if not all([go(step) for step in steps]):
        return [*missing, ("the choice and every target", "need what is missing above")]
    ready: list[Deployment] = []
    if not go(lambda: ready.append(line.deployment(splits, networks, line.choose(splits, networks).candidate))):
        return [*missing, ("every target", "needs what is missing above")]
    for used, gates in targets:
        go(lambda used=used, gates=gates: ready[0].run(used.target, gates, None))  # type: ignore[misc]
    return missing


def _label_tally(line: Line, rows: Rows) -> Tally:
    return Tally.count(
        line.meter.schema(rows),
        ids=rows.ids,
        labels=rows.labels,
        attributes=rows.attributes,
        contexts=rows.contexts,
        clusters=rows.clusters,
        reference=rows.labels,
        deployed=rows.labels,
    )
