"""`judge`: evidence and gates for predictions that were made anywhere, without a model.

::

    tables ─ assign_roles, survey, coded ─▶ rows ─ count_rows ─▶ tallies ─ judge ─▶ evidence ─ gate ─▶ verdict
"""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from fairdeploy import __version__
from fairdeploy.bundle import PredictionsRecord, seal
from fairdeploy.counting import Apart, count_apart, count_rows, schema_of
from fairdeploy.data.join import join_reference, labels_not_compared, name_of, one_reference, roles_apart
from fairdeploy.data.predictions import Survey, coded, survey
from fairdeploy.data.roles import LONE, Named, Roles, assign_roles
from fairdeploy.data.tables import Table, open_table
from fairdeploy.errors import ConfigError, ExitCode
from fairdeploy.evidence import Evidence, Tally
from fairdeploy.evidence import judge as judge_tallies
from fairdeploy.evidence.records import Reference
from fairdeploy.gates import Gates, Verdict, gate, parse_gates, worst_exit
from fairdeploy.gates.files import GatesFile, read_gates
from fairdeploy.margins import Margin, provable_margins
from fairdeploy.model import Task
from fairdeploy.records import digest, file_digest
from fairdeploy.yamlfile import Document

NO_REFERENCE = "the labels"
SEED = 0  # of the bootstraps; fixed, so that nobody looks for one under which a borderline gate passes


@dataclass(frozen=True)
class Judgement:
    """What `judge` found; print it, look at its parts, or `save` it.

    Attributes
    ----------
    verdict : Verdict
    evidence : Evidence
        Every rate, change and gap with its interval, and the tallies.
    gates : Gates
    predictions : PredictionsRecord
        How the predictions were decided, and notes on what was read from the data because it was not declared.
    files : dict of str to str
        SHA-256 of each file that was read, by its name.
    """

    verdict: Verdict
    evidence: Evidence
    gates: Gates
    predictions: PredictionsRecord
    files: Mapping[str, str]

    @property
    def exit_code(self) -> ExitCode:
        """0 when every gate passed or is waived, 1 when one failed, 4 when evidence is lacking."""
        return worst_exit([self.verdict.status])

    @property
    def margins(self) -> tuple[Margin, ...]:
        """Gates to start from; none without a reference."""
        given = set(self.predictions.references.values()) != {NO_REFERENCE}
        return provable_margins(self.evidence.tallies, self.evidence.unpaired) if given else ()

    def __str__(self) -> str:
        blocking = [cell.reason for cell in self.verdict.cells if cell.status != "pass"]
        return "\n".join([f"{self.verdict.status}: {self.verdict.sentence}", *(f"  - {reason}" for reason in blocking)])

    def save(self, folder: Path | str) -> None:
        """Write a sealed bundle into a new folder: counts, evidence, gates and verdict, and no row or id.

        Raises
        ------
        ConfigError
            If the folder exists already.
        """
        place = Path(folder)
        if place.exists():
            raise ConfigError("is there already: a bundle is never changed, so give a new folder", file=place)
        place.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=place.parent, prefix=".sealing-"))
        try:
            seal(
                work / "bundle",
                {
                    "evidence.json": self.evidence.record,
                    "verdict.json": self.verdict,
                    "gates.json": self.gates,
                    "predictions.json": self.predictions,
                },
                {
                    **{f"tally-{name}.json": one.to_json() for name, one in self.evidence.tallies.items()},
                    **{f"tally-{name}-unpaired.json": one.to_json() for name, one in self.evidence.unpaired.items()},
                    **{f"scores-{name}.json": one.to_json() for name, one in self.evidence.scores.items()},
                },
                None,
                target=self.predictions.name,
                build_id=digest([self.evidence.record.digest, self.gates.digest])[:12],
                fake_device=False,
                parents=dict(self.files),
                versions={"fairdeploy": __version__, "numpy": np.__version__},
                machine={"python": platform.python_version()},
                seed=self.evidence.record.seed,
            )
            (work / "bundle").replace(place)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def judge(
    data: Any,
    *,
    groups: Named,
    label: str | None = None,
    prediction: str | None = None,
    score: str | None = None,
    threshold: float | None = None,
    reference: str | Mapping[str, str] | None = None,
    reference_file: Any = None,
    unpaired: bool = False,
    contexts: Named = (),
    cluster: str | None = None,
    id: str | None = None,
    classes: Sequence[str] = (),
    positive: str | None = None,
    gates: Mapping[str, Any] | Path | str | None = None,
    name: str = "predictions",
    today: date | None = None,
) -> Judgement:
    """Judge predictions that were made anywhere.

    Parameters
    ----------
    data : path, data frame, mapping of columns, or list of them
        CSV, Parquet and npz files by their suffix; pandas, polars and pyarrow tables; a dict of arrays. Several are
        shards of one data set. A column called id, label, prediction, score, reference or cluster is that.
    groups, contexts : list of str, or dict of str to list of str
        Columns; with their levels where these are declared, so that a group without rows is missed.
    label, prediction, score, cluster, id : str, optional
        Columns that are called otherwise.
    threshold : float, optional
        Decide by the score: class 1 at or above it.
    reference : str or dict of {"dense", "compact"} to str, optional
        Column of predictions (or scores) that changes are measured against.
    reference_file : path, data frame, mapping of columns, or list of them, optional
        Where that column is (``prediction``, else ``score``, if it is not named), when it is not in `data`: rows are
        joined by their ids, which must be the same, as must be the labels where it has them.
    unpaired : bool
        Whether that file holds other rows, with id, label, groups, contexts and cluster of their own in columns of the
        same names: changes are then those between two samples, and need several times as many rows.
    classes : sequence of str
        All classes in their order; read from the labels when left out.
    positive : str, optional
        The positive one of two classes.
    gates : mapping or path, optional
        What stands under ``gates:`` in a project, or a YAML file with it (and `waivers`). Without gates nothing is
        shown to hold: the verdict is inconclusive.
    name : str
        What is judged, as the verdict calls it.
    today : date, optional
        What waivers are held against, where it is not the day it is.

    Returns
    -------
    Judgement

    Raises
    ------
    DataError
        If a file or a value cannot be used; with file, line and column.
    ConfigError
        If the gates are wrong, a column is not named, or `against` names a reference that was not given.

    Examples
    --------
    >>> import fairdeploy
    >>> rows = {"id": range(400), "label": [0, 1] * 200, "prediction": [0, 1] * 200, "sex": ["f", "f", "m", "m"] * 100}
    >>> found = fairdeploy.judge(rows, groups=["sex"], gates={"true_positive_rate": {"min": 0.9}})
    >>> found.verdict.status
    'pass'
    """
    tables = _open(data)
    roles = assign_roles(
        tables, id=id, label=label, prediction=prediction, score=score, threshold=threshold,
        reference=reference if reference_file is None else {}, groups=groups, contexts=contexts, cluster=cluster,
    )  # fmt: skip
    others = [] if reference_file is None else _open(reference_file)
    if unpaired and not others:
        raise ConfigError("'unpaired' says that the reference saw other rows: give them with --reference-file")
    given = [one_reference(others, reference)[0]] if others else [*roles.references]
    _read_gates(gates, given, None)  # a mistake there need not wait for the data
    theirs = roles_apart(roles, others, reference) if unpaired else None
    if others and not unpaired:
        tables, roles = join_reference(tables, roles, others, reference)
    found = survey(tables, roles, classes=classes, positive=positive)
    held = _read_gates(gates, given, found)
    counted = count_rows(coded(tables, roles, found), schema_of(roles, found))
    apart = None if theirs is None else count_apart(others, theirs, found, counted.fingerprint)
    references, notes = _references(roles, found), [*found.notes, *_odd(counted.tallies, roles)]
    if theirs is None:
        notes += labels_not_compared(others, roles.label)
    tallies = counted.tallies
    if theirs is not None and apart is not None:
        references = {
            name: f"{text} of {name_of(others, 'other rows')}, unpaired"
            for name, text in _references(theirs, apart.found).items()
        }
        tallies = {name: counted.tallies[LONE] for name in references}
        notes.append(_unlike(apart))
    predictions = PredictionsRecord(
        name=name, classes=found.classes, decision=roles.decision, references=references, notes=tuple(notes)
    )
    evidence = judge_tallies(
        target=name,
        level=None,
        level_reason="The predictions were made elsewhere",
        spec_digest=predictions.digest,
        data_fingerprint=counted.fingerprint,
        reference_digests={},
        requested_precision="not known",
        seed=SEED,
        tallies=tallies,
        unpaired={} if apart is None else {name: apart.tally for name in references},
        scores=counted.scores,
    )
    verdict = gate(evidence, held.gates, waivers=held.waivers, today=today or date.today())
    return Judgement(verdict, evidence, held.gates, predictions, _files([*tables, *others]))


def _read_gates(gates: Mapping[str, Any] | Path | str | None, given: Sequence[str], found: Survey | None) -> GatesFile:
    """Read the gates; ``against`` may be left out where there is one reference, and is the one that was given.

    Before the rows are read, `found` is None; then it is not known yet whether a metric needs a class.
    """
    task: Task | None = None
    if found is not None:
        task = "binary-classification" if len(found.classes) == 2 else "multiclass-classification"
    lone: Reference | None = LONE if given == [LONE] else None
    if gates is None:
        return GatesFile(Gates(rules=()), (), None)
    if isinstance(gates, Mapping):
        document = Document(Path("gates"), {"gates": dict(gates)}, {})
        held = GatesFile(Gates(rules=parse_gates(document, task=task, lone=lone)), (), None)
    else:
        held = read_gates(Path(gates), task=task, lone=lone)
    if held.across is not None:
        raise ConfigError("across_targets: there is one set of predictions here, and nothing to compare across")
    for rule in held.gates.rules:
        if rule.against is not None and rule.against not in given:
            how = "--reference COLUMN" if rule.against == LONE else f"--reference {rule.against}=COLUMN"
            have = f"the references are {', '.join(given)}" if given else "no reference was given"
            have = "the one reference has no name" if given == [LONE] else have
            raise ConfigError(f"{rule.where}: the gate is against '{rule.against}', but {have}: say {how}")
    return held


def _open(data: Any) -> list[Table]:
    sources = data if isinstance(data, list | tuple) else [data]
    if not sources:
        raise ConfigError("give at least one table")
    return [open_table(source) for source in sources]


def _references(roles: Roles, found: Survey) -> dict[Reference, str]:
    scored = {name: f" >= {roles.threshold:g}" for name in found.scored}
    columns = {name: f"column '{column}'{scored.get(name, '')}" for name, column in roles.references.items()}
    return columns or {LONE: NO_REFERENCE}  # type: ignore[return-value]


def _unlike(apart: Apart) -> str:
    return (
        f"the reference saw {apart.tally.rows} other rows: changes are those between two samples, and need several "
        "times as many rows as pairs"
    )


def _odd(tallies: Mapping[Reference, Tally], roles: Roles) -> list[str]:
    """Say which references never differ from what is judged: perhaps they are the same predictions."""
    at = {name: tally.coordinates for name, tally in tallies.items() if name in roles.references}
    same = [name for name, one in at.items() if (one["reference"] == one["deployed"]).all()]
    return [
        f"'{roles.references[name]}' equals the judged predictions in every row: is it the reference?" for name in same
    ]


def _files(tables: Sequence[Table]) -> dict[str, str]:
    """Return the SHA-256 of each file by its name; files of one name are numbered, since their folders are private."""
    digests: dict[str, str] = {}
    for file in (table.file for table in tables if table.file is not None):
        again = sum(name.partition(" (")[0] == file.name for name in digests)
        digests[f"{file.name} ({again + 1})" if again else file.name] = file_digest(file)
    return digests
