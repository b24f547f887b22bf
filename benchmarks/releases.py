"""Simulated releases with a known truth: what each step of the line truly does to each group's predictions.

Eight intersections (four tones by two sexes) of equal size; with clusters, five rows of one person. A row is right all
along, wrong all along, or flips at one of the five steps. A share of sqrt(ICC) of a person's rows takes the person's
own draw, so that any two of them agree with a correlation of `ICC` on whatever may happen to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fairdeploy.evidence import Schema, Tally

Kind = Literal[
    "harmless",
    "one group degraded",
    "all levelled down",
    "harm in one intersection",
    "harm from one stage",
    "one group exactly at the margin",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
AT_THE_MARGIN = KINDS[-1]
TONES, SEXES = ("I-II", "III-IV", "V", "VI"), ("female", "male")
INTERSECTIONS = tuple(f"{tone} {sex}" for tone, sex in product(TONES, SEXES))
STAGES = ("dense", "pruned", "compact", "exported", "quantised", "runtime")
ATTRIBUTES = {"tone": TONES, "sex": SEXES, "tone_and_sex": INTERSECTIONS}
SENSITIVITY = {"I-II": 0.91, "III-IV": 0.90, "V": 0.89, "VI": 0.88}
SPECIFICITY = 0.90
FLIP_RATE = 0.02
ICC, PER_PERSON = 0.3, 5
GAP_CLOSED = 0.15
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Truth:
    """What is so.

    Attributes
    ----------
    kind : str
    margins : float
        Loss of the harmed groups' true positive rate, in margins; 0 where nobody is harmed.
    losses : array [intersections]
        True loss of the true positive rate of each.
    stage : str
        Where the loss enters; empty where there is none.
    """

    kind: Kind
    margins: float
    losses: Floats
    stage: str

    def drop(self, metric: str, group: Mapping[str, str]) -> float:
        """Return the true drop of a cell: half the rows are positive, and only their predictions get worse."""
        return float(self.losses[_inside(group)].mean()) * {"true_positive_rate": 1.0, "accuracy": 0.5}[metric]

    def equalized_odds_difference(self, attribute: str) -> float:
        """Return the true gap of the deployed predictions; false positive rates are equal."""
        rates = [
            float((_sensitivity() - self.losses)[_inside({attribute: one})].mean()) for one in ATTRIBUTES[attribute]
        ]
        return max(rates) - min(rates)


@dataclass(frozen=True)
class Release:
    """Rows and what each stage predicts for them, under a truth."""

    truth: Truth
    schema: Schema
    columns: dict[str, Any]
    predictions: dict[str, NDArray[np.int64]]

    def tally(self, reference: str, deployed: str) -> Tally:
        """Count one stage's predictions paired with another's."""
        return Tally.count(
            self.schema, **self.columns, reference=self.predictions[reference], deployed=self.predictions[deployed]
        )


def draw_truth(kind: Kind, margin: float, rng: np.random.Generator) -> Truth:
    """Draw who loses how much (1.5 to 3 margins) and where; `margin` is that of the true positive rate."""
    margins = {"harmless": 0.0, AT_THE_MARGIN: 1.0}.get(kind, float(rng.uniform(1.5, 3)))
    harmed = rng.permutation(len(TONES))[0], rng.permutation(len(INTERSECTIONS))[0]
    stage = str(rng.choice(STAGES[1:]))
    losses = np.zeros(len(INTERSECTIONS))
    if kind == "all levelled down":  # the better off lose a little more, so that the gap shrinks
        losses[:] = margins * margin + GAP_CLOSED * (_sensitivity() - _sensitivity().min())
    elif kind == "harm in one intersection":
        losses[harmed[1]] = margins * margin
    elif kind != "harmless":
        losses[_inside({"tone": TONES[harmed[0]]})] = margins * margin
    return Truth(kind, margins, losses, stage if losses.any() else "")


def draw_release(truth: Truth, rows: int, rng: np.random.Generator, *, clustered: bool) -> Release:
    """Draw `rows` rows of each intersection and label (with clusters: on average) and their fate at every step."""
    schema, columns, intersection = draw_people(rows, rng, clustered=clustered)
    labels = columns["labels"]
    draw = _draws(len(labels), rng, clustered=clustered)
    right_until, wrong_until = (np.full(len(labels), len(STAGES)) for _ in range(2))
    starts_right = np.zeros(len(labels), dtype=bool)
    for at, label in product(range(len(INTERSECTIONS)), (0, 1)):
        here = (intersection == at) & (labels == label)
        fate = np.searchsorted(np.cumsum(_fates(truth, at, label)), draw[here], side="right")
        steps = len(STAGES) - 1
        starts_right[here] = fate <= steps
        right_until[here] = np.where(fate < steps, fate + 1, len(STAGES))
        wrong_until[here] = np.where((fate > steps) & (fate <= 2 * steps), fate - steps, len(STAGES))
    predictions = {}
    for number, stage in enumerate(STAGES):
        right = np.where(starts_right, number < right_until, number >= wrong_until)
        predictions[stage] = np.where(right, labels, 1 - labels)
    return Release(truth, schema, columns, predictions)


def draw_people(
    rows: int, rng: np.random.Generator, *, clustered: bool
) -> tuple[Schema, dict[str, Any], NDArray[np.intp]]:
    """Draw ids, labels, groups and clusters; also returns each row's intersection."""
    people = -(-2 * rows // PER_PERSON) if clustered else 2 * rows
    each = people * PER_PERSON if clustered else people
    intersection = np.repeat(np.arange(len(INTERSECTIONS)), each)
    n = len(intersection)
    labels = rng.integers(0, 2, n) if clustered else np.tile([0, 1], n // 2)
    ids = np.arange(n).astype(str)
    columns = {
        "ids": ids,
        "labels": labels,
        "attributes": {
            "tone": np.array(TONES)[intersection // len(SEXES)],
            "sex": np.array(SEXES)[intersection % len(SEXES)],
            "tone_and_sex": np.array(INTERSECTIONS)[intersection],
        },
        "contexts": {},
        "clusters": (np.arange(n) // PER_PERSON).astype(str) if clustered else None,
    }
    return Schema(attributes=ATTRIBUTES, contexts={}, classes=("no", "yes"), clustered=clustered), columns, intersection


def _fates(truth: Truth, at: int, label: int) -> Floats:
    """Probabilities that a row is lost at each step, right all along, gained at each step; the rest is wrong."""
    steps = len(STAGES) - 1
    lost = np.full(steps, FLIP_RATE / 2 / steps)
    gained = lost.copy()
    right = _sensitivity()[at] if label else SPECIFICITY
    if truth.stage and label:
        lost[STAGES.index(truth.stage) - 1] += truth.losses[at]
    return np.concatenate([lost, [right - lost.sum()], gained])


def _draws(n: int, rng: np.random.Generator, *, clustered: bool) -> Floats:
    own = rng.random(n)
    if not clustered:
        return own
    shared = np.repeat(rng.random(n // PER_PERSON), PER_PERSON)
    return np.where(rng.random(n) < np.sqrt(ICC), shared, own)


def _sensitivity() -> Floats:
    return np.array([SENSITIVITY[tone] for tone, _ in product(TONES, SEXES)])


def _inside(group: Mapping[str, str]) -> NDArray[np.bool_]:
    """Which intersections a group is made of; the empty group is everyone."""
    found = np.ones(len(INTERSECTIONS), dtype=bool)
    for at, (tone, sex) in enumerate(product(TONES, SEXES)):
        names = {"tone": tone, "sex": sex, "tone_and_sex": f"{tone} {sex}"}
        found[at] = all(names[attribute] == level for attribute, level in group.items())
    return found
