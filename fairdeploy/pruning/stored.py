"""The problem of a project: its train and prune splits, as they lie on disk."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fairdeploy.errors import DataError
from fairdeploy.model import ModelSpec
from fairdeploy.project import Recover
from fairdeploy.pruning.base import StoredSplit
from fairdeploy.pruning.objectives import classification
from fairdeploy.pruning.problem import Problem
from fairdeploy.pruning.streams import Augment, Groups, StoredStream


def stored_problem(
    splits: Mapping[str, StoredSplit],
    spec: ModelSpec,
    groups: Groups,
    *,
    options: Recover,
    seed: int,
    augment: Augment | None = None,
) -> Problem:
    """Return what a method may learn from: *train* for weights, *prune* for channels and multipliers.

    Parameters
    ----------
    splits : mapping of str to StoredSplit
        Of which train and prune are used.
    spec : ModelSpec
    groups : mapping of str to tuple of str
        The levels of each sensitive attribute.
    options : Recover
        Batches, sampling, and from which splits the pruned network learns.
    seed : int
    augment : callable, optional
        See `StoredStream`.

    Raises
    ------
    DataError
        If a split is empty, lacks an input, or has labels beyond the classes.
    """
    used = {name: splits[name] for name in ("train", "prune")}
    for name, split in used.items():
        _check(name, split, spec)

    def learned(*names: str) -> StoredStream:
        return StoredStream(
            [used[name] for name in names],
            spec,
            groups,
            batch_size=options.batch_size,
            sampling=options.sampling,
            augment=augment,
            seed=seed,
        )

    return Problem(
        train=learned("train"),
        upper=learned("prune"),
        prune=StoredStream([used["prune"]], spec, groups, split="prune"),
        recover=learned(*options.splits),
        objective=classification(spec),
        groups=groups,
        classes=len(spec.classes),
    )


def _check(name: str, split: StoredSplit, spec: ModelSpec) -> None:
    rows = len(split.rows)
    if rows == 0:
        raise DataError(f"recover: the {name} split has no rows")
    for key in spec.inputs:
        if key not in split.inputs:
            raise DataError(f"recover: the {name} split has no input '{key}'; it has {', '.join(split.inputs)}")
        if len(split.inputs[key]) != rows:
            raise DataError(
                f"recover: input '{key}' of the {name} split has {len(split.inputs[key])} rows, the labels {rows}"
            )
    labels = np.asarray(split.rows.labels)
    if labels.min() < 0 or labels.max() >= len(spec.classes):
        raise DataError(
            f"recover: labels of the {name} split lie in [{labels.min()}, {labels.max()}], classes are 0 to "
            f"{len(spec.classes) - 1}"
        )
