"""Plan: what a build would run and why, and whether the evaluate split can carry the gates. Nothing is made.

After a build, also which cells its data were too small for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fairdeploy.bundle import TargetBundle, load_build
from fairdeploy.data import SPLITS, Rows
from fairdeploy.deploy import Deployment
from fairdeploy.errors import ConfigError
from fairdeploy.evidence import Tally
from fairdeploy.evidence.metrics import ALL, present_levels
from fairdeploy.evidence.plans import Assumptions, PlanRow, plan_rule
from fairdeploy.evidence.power import simulated_power
from fairdeploy.evidence.records import Group
from fairdeploy.gates import Gates, Rule
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


@dataclass(frozen=True)
class TooSmall:
    """A cell of a finished build that stayed open for want of rows; None where more rows may not settle it."""

    target: str
    rule: str
    group: Group
    context: Group
    rows: int
    rows_needed: int | None
    rows_missing: int | None


def plan(
    folder: Path,
    only: tuple[str, ...] = (),
    *,
    config: str = CONFIG_NAME,
    flip_rates: Mapping[str, float] = FLIP_RATES,
    rate: float = 0.9,
    icc: float = 0.1,
    power: float = 0.8,
    gap: float = 0.0,
    loss: float = 0.0,
    simulate: bool = False,
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
    gap, loss : float
        Expected true gap between groups, and true loss of every cell against the dense network; against the compact
        one none is planned for.
    simulate : bool
        Check each planned number of rows by simulation with the gate's own bound.

    Raises
    ------
    ConfigError
        If the project, a target, the data or the gates are wrong, or a number is out of its range.
    """
    given = {
        name: Assumptions(
            flip_rate=flips, rate=rate, icc=icc, power=power, gap=gap, loss=loss if name == "dense" else 0.0
        )
        for name, flips in flip_rates.items()
    }
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
        assumed = given[rule.against or "dense"]
        rows = plan_rule(rule, labels, assumptions=assumed)
        planned += _simulated(rule, rows, labels, assumed) if simulate else rows
    return Plan(tuple(stations), tuple(planned))


def too_small(build_folder: Path, only: Sequence[str] = ()) -> tuple[TooSmall, ...]:
    """Return the cells of a finished build that are open for want of rows, those that lack most rows first.

    Parameters
    ----------
    build_folder : Path
    only : sequence of str
        Target ids; empty for all.

    Raises
    ------
    ConfigError
        If there is no build, or none of the named targets is in it.
    IntegrityError
        If a bundle is not what was sealed.
    """
    _, bundles = load_build(build_folder)
    chosen = [bundle for bundle in bundles if not only or bundle.verdict.target in only]
    if not chosen:
        has = ", ".join(bundle.verdict.target for bundle in bundles)
        raise ConfigError(f"this build has no target '{only[0]}'; it has {has}", file=build_folder)
    found = [cell for bundle in chosen for cell in _open_cells(bundle)]
    return tuple(sorted(found, key=lambda cell: cell.rows_missing or 0, reverse=True))


def _open_cells(bundle: TargetBundle) -> list[TooSmall]:
    fairness = {rule.name for rule in bundle.gates.rules if rule.is_fairness}
    return [
        TooSmall(
            target=bundle.verdict.target,
            rule=cell.rule,
            group=cell.group,
            context=cell.context,
            rows=cell.n,
            rows_needed=cell.rows_needed,
            rows_missing=None if cell.rows_needed is None else cell.rows_needed - cell.n,
        )
        for cell in bundle.verdict.cells
        if cell.rule in fairness
        and cell.n is not None
        and (cell.forecast or cell.status) in ("inconclusive", "undefined")
    ]


def _simulated(rule: Rule, rows: Sequence[PlanRow], labels: Tally, given: Assumptions) -> list[PlanRow]:
    """Add the simulated power to each row; rows that need and hold alike share one simulation."""
    known: dict[tuple[int, float, int], float] = {}
    checked = []
    for row in rows:
        power = None
        if row.rows_needed is not None:
            levels = len(present_levels(labels, next(iter(row.group)))) if ALL in row.group.values() else 1
            case = (row.rows_needed, row.rows_per_cluster, levels)
            if case not in known:
                known[case] = simulated_power(
                    rule, row.rows_needed, assumptions=given, rows_per_cluster=row.rows_per_cluster, levels=levels
                )
            power = known[case]
        checked.append(row.model_copy(update={"simulated_power": power}))
    return checked


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
    steps += [lambda level=level: networks.candidate(level) for level in (keep.levels if keep else ())]  # type: ignore[misc]
    if not all([go(step) for step in steps]):
        return [*missing, ("the choice and every target", "need what is missing above")]
    ready: list[Deployment] = []

    def share() -> None:
        chosen = line.choose(splits, networks).candidate
        networks.serves(chosen.level)
        ready.append(line.deployment(splits, networks, chosen))

    if not go(share):
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
