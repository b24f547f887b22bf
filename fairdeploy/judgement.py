"""`judge`: evidence and gates for predictions that were made anywhere, without a model.

::

    tables ─ roles, survey, coded ─▶ rows ─ count ─▶ tallies ─ judge ─▶ evidence ─ gate ─▶ verdict ─ save ─▶ bundle
"""

from __future__ import annotations

import hashlib
import math
import platform
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairdeploy import __version__
from fairdeploy.bundle import PredictionsRecord, seal
from fairdeploy.data.predictions import CodedRows, Survey, coded, survey
from fairdeploy.data.roles import Named, Roles, assign_roles
from fairdeploy.data.tables import Table, open_table
from fairdeploy.errors import ConfigError, ExitCode
from fairdeploy.evidence import Evidence, Schema, Tally
from fairdeploy.evidence import judge as judge_tallies
from fairdeploy.evidence.planner import Assumptions, plan_rule
from fairdeploy.evidence.records import Group, Reference
from fairdeploy.gates import Condition, Gates, Rule, Verdict, gate, parse_gates, worst_exit
from fairdeploy.gates.records import needs_reference
from fairdeploy.records import digest, file_digest
from fairdeploy.yamlfile import Document, nearest, read

STARTING_POINTS: dict[int, tuple[tuple[str, Condition], ...]] = {
    2: (("true_positive_rate", "max_drop"), ("false_positive_rate", "max_increase"))
}
ANY_CLASSES: tuple[tuple[str, Condition], ...] = (("accuracy", "max_drop"),)
NAMED_REFERENCES: tuple[Reference, ...] = ("dense", "compact")
LONE: Reference = "reference"
NO_REFERENCE = "the labels"


@dataclass(frozen=True)
class Margin:
    """The smallest margin that the rows at hand can prove in every group, and the group that needs it to be so large.

    `margin` is None where no margin can be proven for `group`.
    """

    metric: str
    condition: Condition
    against: Reference
    margin: float | None
    group: Group
    rows: int


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
        How the predictions were decided.
    notes : tuple of str
        What was read from the data because it was not declared.
    files : dict of str to str
        SHA-256 of each file that was read, by its name.
    """

    verdict: Verdict
    evidence: Evidence
    gates: Gates
    predictions: PredictionsRecord
    notes: tuple[str, ...]
    files: Mapping[str, str]

    @property
    def exit_code(self) -> ExitCode:
        """0 when every gate passed or is waived, 1 when one failed, 4 when evidence is lacking."""
        return worst_exit([self.verdict.status])

    @property
    def margins(self) -> tuple[Margin, ...]:
        """A starting point for gates on changes: what can be proven at a power of .8, if the truth is no change.

        It takes for granted that predictions flip as often as they did here.
        """
        if not any(column != NO_REFERENCE for column in self.predictions.references.values()):
            return ()
        starts = STARTING_POINTS.get(len(self.predictions.classes), ANY_CLASSES)
        return tuple(_margin(tally, name, *one) for name, tally in self.evidence.tallies.items() for one in starts)

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
                {f"tally-{name}.json": tally.to_json() for name, tally in self.evidence.tallies.items()},
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
    contexts: Named = (),
    cluster: str | None = None,
    id: str | None = None,
    classes: Sequence[str] = (),
    positive: str | None = None,
    gates: Mapping[str, Any] | Path | str | None = None,
    name: str = "predictions",
    seed: int = 0,
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
    classes : sequence of str
        All classes in their order; read from the labels when left out.
    positive : str, optional
        The positive one of two classes.
    gates : mapping or path, optional
        What stands under ``gates:`` in a project, or a YAML file that holds it. Without gates nothing is shown to hold:
        the verdict is inconclusive.
    name : str
        What is judged, as the verdict calls it.
    seed : int
        Of the bootstraps.

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
    document = _gates_document(gates)
    sources = data if isinstance(data, list | tuple) else [data]
    if not sources:
        raise ConfigError("give at least one table")
    tables = [open_table(source) for source in sources]
    roles = assign_roles(
        tables, id=id, label=label, prediction=prediction, score=score, threshold=threshold, reference=reference,
        groups=groups, contexts=contexts, cluster=cluster,
    )  # fmt: skip
    _refuse_other_references(roles)
    found = survey(tables, roles, classes=classes, positive=positive)
    rules = _rules(document, found, roles)
    tallies, fingerprint = _count(coded(tables, roles, found), _schema(roles, found))
    predictions = PredictionsRecord(
        name=name, classes=found.classes, decision=roles.decision, references=_references(roles, found)
    )
    evidence = judge_tallies(
        target=name,
        level=None,
        level_reason="The predictions were made elsewhere",
        spec_digest=predictions.digest,
        data_fingerprint=fingerprint,
        reference_digests={},
        requested_precision="not known",
        seed=seed,
        tallies=tallies,
    )
    return Judgement(gate(evidence, rules), evidence, rules, predictions, found.notes, _files(tables))


def _margin(tally: Tally, against: Reference, metric: str, condition: Condition) -> Margin:
    flipped = int(tally.counts[tally.coordinates["reference"] != tally.coordinates["deployed"]].sum())
    assumed = Assumptions(flip_rate=(flipped + 1) / (tally.rows + 2))
    rule = Rule(metric=metric, condition=condition, bound=0.01, against=against)  # the margin does not depend on it
    weakest = max(
        plan_rule(rule, tally, assumptions=assumed),
        key=lambda row: 1.0 if row.smallest_margin is None else row.smallest_margin,
    )
    margin = weakest.smallest_margin
    upwards = None if margin is None else math.ceil(margin * 1000) / 1000
    return Margin(metric, condition, against, upwards, weakest.group, weakest.rows_available)


def _gates_document(gates: Mapping[str, Any] | Path | str | None) -> Document | None:
    if gates is None:
        return None
    if isinstance(gates, Mapping):
        return Document(Path("gates"), {"gates": dict(gates)}, {})
    return read(Path(gates))


def _rules(document: Document | None, found: Survey, roles: Roles) -> Gates:
    """Read the gates; ``against`` may be left out where there is one reference, and is the one that was given."""
    if document is None:
        return Gates(rules=())
    given = tuple(roles.references)
    gates = document.data.get("gates")
    if given == (LONE,) and isinstance(gates, Mapping):
        filled = {metric: _with_lone_reference(metric, entries) for metric, entries in gates.items()}
        document = Document(document.file, {**document.data, "gates": filled}, document.origins)
    task = "binary-classification" if len(found.classes) == 2 else "multiclass-classification"
    rules = parse_gates(document, task=task)  # type: ignore[arg-type]
    for rule in rules:
        if rule.against is not None and rule.against not in given:
            how = f"--reference {rule.against}=COLUMN" if rule.against in NAMED_REFERENCES else "--reference COLUMN"
            have = f"the references are {', '.join(given)}" if given else "no reference was given"
            if given == (LONE,):
                have = "the one reference has no name"
            raise ConfigError(f"{rule.where}: the gate is against '{rule.against}', but {have}: name it with {how}")
    return Gates(rules=rules)


def _with_lone_reference(metric: str, entries: Any) -> Any:
    if isinstance(entries, list):
        return [_with_lone_reference(metric, entry) for entry in entries]
    if not isinstance(entries, Mapping) or "against" in entries:
        return entries
    return {**entries, "against": LONE} if any(needs_reference(metric, str(key)) for key in entries) else entries


def _refuse_other_references(roles: Roles) -> None:
    for name in roles.references:
        if name not in (LONE, *NAMED_REFERENCES):
            raise ConfigError(f"reference '{name}'{nearest(name, NAMED_REFERENCES)}: or give one column without a name")
    if LONE in roles.references and len(roles.references) > 1:
        raise ConfigError("several references need names: --reference dense=COLUMN --reference compact=COLUMN")


def _schema(roles: Roles, found: Survey) -> Schema:
    return Schema(
        attributes=found.groups, contexts=found.contexts, classes=found.classes, clustered=roles.cluster is not None
    )


def _references(roles: Roles, found: Survey) -> dict[Reference, str]:
    scored = {name: f" >= {roles.threshold:g}" for name in found.scored}
    columns = {name: f"column '{column}'{scored.get(name, '')}" for name, column in roles.references.items()}
    return columns or {LONE: NO_REFERENCE}  # type: ignore[return-value]


def _count(chunks: Iterable[CodedRows], schema: Schema) -> tuple[dict[Reference, Tally], str]:
    """Count all rows, in memory that does not grow but for 8 bytes a row; also return the data's fingerprint.

    Without a reference the labels stand for one, so that no change can pass for want of anything to compare with.
    """
    tallies: dict[Any, Tally] = {}
    hashes: list[NDArray[np.uint64]] = []
    for rows in chunks:
        hashes.append(_row_hashes(rows))
        for name, reference in (rows.references or {LONE: rows.labels}).items():
            tally = Tally.count(
                schema,
                ids=np.array(rows.ids),
                labels=rows.labels,
                attributes={column: np.array(values) for column, values in rows.attributes.items()},
                contexts={column: np.array(values) for column, values in rows.contexts.items()},
                clusters=None if rows.clusters is None else np.array(rows.clusters),
                reference=reference,
                deployed=rows.deployed,
            )
            tallies[name] = tallies[name] + tally if name in tallies else tally
    ordered = np.concatenate(hashes)
    ordered.sort()
    return tallies, hashlib.sha256(ordered.astype("<u8").tobytes()).hexdigest()


def _row_hashes(rows: CodedRows) -> NDArray[np.uint64]:
    """Hash what is known of each row besides its predictions, so that the order of rows and shards is no matter."""
    columns = [rows.ids, map(str, rows.labels.tolist())]
    columns += [part[name] for part in (rows.attributes, rows.contexts) for name in sorted(part)]
    columns += [] if rows.clusters is None else [rows.clusters]
    joined = map("\x1f".join, zip(*columns, strict=True))
    hashes = b"".join(hashlib.blake2b(row.encode(), digest_size=8).digest() for row in joined)
    return np.frombuffer(hashes, "<u8")


def _files(tables: Sequence[Table]) -> dict[str, str]:
    """Return the SHA-256 of each file by its name; files of one name are numbered, since their folders are private."""
    digests: dict[str, str] = {}
    for file in (table.file for table in tables if table.file is not None):
        again = sum(name.partition(" (")[0] == file.name for name in digests)
        digests[f"{file.name} ({again + 1})" if again else file.name] = file_digest(file)
    return digests
