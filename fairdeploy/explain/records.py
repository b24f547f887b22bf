"""What an explanation says. It holds ids of people's rows: it is for the machine that holds the rows, nowhere else."""

from __future__ import annotations

from typing import Literal

from fairdeploy.evidence.records import Group, StageName
from fairdeploy.gates import CellVerdict
from fairdeploy.records import Record

Direction = Literal["lost", "gained", "changed"]


class Point(Record):
    """One row's prediction at one stage.

    `score` is the probability of the positive class, with more than two classes that of the row's label; `confidence`
    that of the predicted class.
    """

    stage: StageName
    score: float
    predicted: str
    confidence: float


class Trace(Record):
    """One row through all stages; `changed_at` are the stages whose prediction differs from that of the one before."""

    id: str
    label: str
    group: Group
    context: Group
    cluster: str | None
    points: tuple[Point, ...]
    changed_at: tuple[StageName, ...]


class Flip(Record):
    """A row that the cell counts differently after the line than before it.

    `lost`: what the metric counts was there with the reference and is not there deployed; `gained` the reverse;
    `changed`: from one wrong class to another. `stage` is where it flipped for good.
    """

    direction: Direction
    stage: StageName
    trace: Trace


class StageFlips(Record):
    """What one stage did to the cell.

    `lost` and `gained` count the rows that flipped here for good and add up to the cell's; `fell` and `rose` all rows
    that differ from the stage before, those included that later came back.
    """

    stage: StageName
    lost: int
    gained: int
    changed: int
    fell: int
    rose: int


class Share(Record):
    """What one level of an attribute or context, or one cluster, holds of a cell's rows and of its harmful flips."""

    axis: str
    level: str
    rows: int
    flips: int
    share_of_rows: float
    share_of_flips: float


class Advice(Record):
    """What to try, with the fact that speaks for it, and the command that shows more, if there is one."""

    text: str
    command: str | None = None


class Asked(Record):
    """The row that was asked for by id; `flip` is None where the cell counts it as before, or not at all."""

    trace: Trace
    in_cell: bool
    flip: Direction | None
    stage: StageName | None


class Explanation(Record):
    """Why one cell of one target says what it says: a description of the rows that flipped, not a test.

    Attributes
    ----------
    counts : str
        What is counted, as in "predicted service, of rows labelled service".
    reference : str
        The stage before: ``dense``, or ``exported`` for changes against the compact network.
    harm : {"lost", "gained", "any"}
        Which flips do harm in this cell.
    wrong_before : int or None
        Of a rate or a gap: rows that were wrong with the reference and still are.
    flip_clusters : int or None
        Clusters that hold the harmful flips.
    rebuild : str
        The command to run after something was changed.
    flips : tuple of Flip
        Harmful ones first, the surest first; all of them or as many as were asked for.
    """

    schema_version: Literal[1] = 1
    project: str
    build_id: str
    target: str
    cell: CellVerdict
    failure: str | None
    simulated: bool
    counts: str
    reference: StageName
    harm: Literal["lost", "gained", "any"]
    rows: int
    clusters: int | None
    lost: int
    gained: int
    changed: int
    wrong_before: int | None
    flip_clusters: int | None
    sentence: str
    stages: tuple[StageFlips, ...]
    shares: tuple[Share, ...]
    advice: tuple[Advice, ...]
    rebuild: str
    flips: tuple[Flip, ...]
    asked: Asked | None
