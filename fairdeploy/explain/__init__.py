"""Explain one cell of the latest build: which rows flipped, at which stage, where they pile up, and what to try.

Everything is read from the store, nothing is run. What comes out holds ids of rows: it stays on this machine, and no
part of it goes into a bundle.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fairdeploy.bundle import load_build
from fairdeploy.data import StoredSplit
from fairdeploy.devices import Device
from fairdeploy.errors import ConfigError
from fairdeploy.evidence import words
from fairdeploy.explain.advice import Facts, advice
from fairdeploy.explain.cell import counting, find_cell
from fairdeploy.explain.flips import Flips, Stages
from fairdeploy.explain.records import Asked, Explanation
from fairdeploy.explain.stored import command, read_stages
from fairdeploy.line import Line
from fairdeploy.project import CONFIG_NAME
from fairdeploy.workflow import latest

__all__ = ["Explained", "Explanation", "explain"]


@dataclass(frozen=True)
class Explained:
    """An explanation, and the evaluate split that the rows' inputs are in."""

    explanation: Explanation
    evaluate: StoredSplit


def explain(
    folder: Path,
    cell: Sequence[str] = (),
    *,
    target: str | None = None,
    sample: str | None = None,
    samples: int | None = None,
    config: str = CONFIG_NAME,
    devices: Mapping[str, Device] | None = None,
) -> Explained:
    """Explain a cell of a project's latest build from what the store has.

    Parameters
    ----------
    folder : Path
        The project's folder.
    cell : sequence of str
        A rule's name as in the verdict, then ``axis=level`` for each attribute and context, or ``everyone``; the worst
        cell of those that this leaves is explained.
    target : str, optional
        Id or alias; the one with the worst cell by default.
    sample : str, optional
        Id of a row to trace, whether it flipped or not.
    samples : int, optional
        How many flips to list at most; all by default.
    config : str
        Name of the configuration file.
    devices : mapping of str to Device, optional
        The devices that the build ran on, by target id; this host where none is given.

    Raises
    ------
    ConfigError
        If there is no build, target, cell or sample of that name; the nearest is named.
    StageError
        If the store no longer has what the build made.
    IntegrityError
        If a bundle is not what was sealed.
    """
    place = latest(folder)
    build, bundles = load_build(place)
    line = Line(folder, config, dry=True, devices=devices or {})
    if build.project != line.project.name:
        raise ConfigError(
            f"the latest build is of project '{build.project}', not '{line.project.name}': build this one again",
            file=place,
        )
    bundle, verdict = find_cell(bundles, cell, target=target)
    stored = read_stages(line, build, bundle)
    stages = Stages.of(
        {name: one.probabilities for name, one in stored.stages.items()}, stored.evaluate.rows, line.project.spec
    )
    counts = counting(verdict, line.project.spec.classes)
    failed = bundle.evidence.failure is not None
    flips = None if failed else Flips(stages, counts, verdict.group, verdict.context)
    facts = Facts(line, build, bundle, verdict, stored.simulated)
    explanation = Explanation(
        project=build.project,
        build_id=build.build_id,
        target=bundle.target.id,
        cell=verdict,
        failure=bundle.evidence.failure,
        simulated=stored.simulated,
        counts=counts.words,
        reference=counts.before,
        harm=counts.harm,
        **_counts(flips, verdict.condition in ("min", "max")),
        sentence=_sentence(flips, words(verdict.group), bundle.target.id),
        shares=tuple(flips.shares(verdict.group, verdict.context)) if flips else (),
        advice=advice(facts, flips),
        rebuild=command(line, "build", "-t", bundle.target.id),
        flips=tuple(flips.flip(row) for row in flips.ordered()[:samples]) if flips else (),
        asked=None if sample is None else _asked(stages, flips, sample),
    )
    return Explained(explanation, stored.evaluate)


def _counts(flips: Flips | None, absolute: bool) -> dict[str, Any]:
    if flips is None:
        none = {"rows": 0, "lost": 0, "gained": 0, "changed": 0, "stages": ()}
        return none | {"clusters": None, "flip_clusters": None, "wrong_before": None}
    clusters = flips.all_stages.rows.clusters
    return {
        "rows": int(flips.inside.sum()),
        "clusters": None if clusters is None else len(np.unique(clusters[flips.inside])),
        "lost": flips.count("lost"),
        "gained": flips.count("gained"),
        "changed": flips.count("changed"),
        "wrong_before": flips.wrong_before if absolute and flips.counting.harm != "any" else None,
        "flip_clusters": None if clusters is None else len(np.unique(clusters[flips.harmful])),
        "stages": flips.by_stage(),
    }


def _sentence(flips: Flips | None, who: str, target: str) -> str:
    """Say in one sentence where it happened."""
    if flips is None:
        return f"{target} gave no predictions, so no row can have flipped."
    rows, harmful, at = int(flips.inside.sum()), int(flips.harmful.sum()), flips.harmful_at()
    word = {"lost": "were lost", "gained": "were gained", "any": "flipped"}[flips.counting.harm]
    if not rows:
        return f"No row of {who} counts here."
    if not harmful:
        return f"Of {rows:,} rows of {who}, none {word.replace('were', 'was')} after '{flips.counting.before}'."
    (worst, most), *others = at.items()
    rest = f" ({', '.join(f'{n:,} at {name!r}' for name, n in others)})" if others else ""
    back = {"lost": f" and {flips.count('gained'):,} gained", "gained": f" and {flips.count('lost'):,} lost"}
    return (
        f"Of {rows:,} rows of {who}, {harmful:,} {word}{back.get(flips.counting.harm, '')}; "
        f"{most:,} of the {harmful:,} {word} at '{worst}'{rest}."
    )


def _asked(stages: Stages, flips: Flips | None, sample: str) -> Asked:
    found = np.flatnonzero(stages.rows.ids == sample)
    if not len(found):
        close = difflib.get_close_matches(sample, stages.rows.ids.tolist(), n=1)
        guess = f"; did you mean '{close[0]}'?" if close else ""
        raise ConfigError(f"no row '{sample}' in the evaluate split of {len(stages.rows):,} rows{guess}")
    row = int(found[0])
    flip = flips.flip(row) if flips and flips.flipped[row] else None
    return Asked(
        trace=stages.trace(row),
        in_cell=bool(flips and flips.inside[row]),
        flip=flip.direction if flip else None,
        stage=flip.stage if flip else None,
    )
