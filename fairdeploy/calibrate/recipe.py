"""`Recipe`: which rows of the calibrate split set the ranges."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fairdeploy import yamlfile
from fairdeploy.data.splits import Rows
from fairdeploy.errors import ConfigError, DataError
from fairdeploy.records import Record
from fairdeploy.target import shipped


class Recipe(Record):
    """One file under ``calibration/``.

    Attributes
    ----------
    balance : tuple of {"groups", "label"}
        What makes the cells that give the same number of rows each: the intersection of all sensitive attributes,
        the label, both, or nothing (rows as they come).
    rows : int
        How many rows in all.
    """

    version: Literal[1] = 1
    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    description: str = ""
    balance: tuple[Literal["groups", "label"], ...] = ()
    rows: int = Field(default=300, ge=1)


def load_recipe(name: str, project_dir: Path | None = None) -> Recipe:
    """Read a recipe by id; a project's own ``calibration/`` comes before the shipped one.

    Raises
    ------
    ConfigError
        If no such recipe exists (the nearest is given) or its file is invalid.
    """
    folders = [shipped("calibration")] + ([project_dir / "calibration"] if project_dir else [])
    files = {file.stem: file for folder in folders for file in sorted(folder.glob("*.yaml"))}
    if name not in files:
        raise ConfigError(f"unknown calibration recipe '{name}'{yamlfile.nearest(name, files)}")
    return yamlfile.validate(Recipe, yamlfile.read(files[name]))


def choose_rows(rows: Rows, recipe: Recipe, seed: int) -> NDArray[np.int64]:
    """Choose calibration rows: the same number from every cell, as far as it has rows; others make up for it.

    Parameters
    ----------
    rows : Rows
        The calibrate split.
    recipe : Recipe
    seed : int

    Returns
    -------
    array of int64 [min(recipe.rows, n)]
        Row indices, ascending.

    Raises
    ------
    DataError
        If the split has no rows.
    """
    if not len(rows):
        raise DataError("the calibrate split has no rows")
    random = np.random.default_rng(seed)
    joint = rows.cells(groups="groups" in recipe.balance, labels="label" in recipe.balance)
    cells = sorted((random.permutation(cell) for cell in joint), key=len)
    chosen: list[NDArray[np.int64]] = []
    wanted = min(recipe.rows, len(rows))
    for position, cell in enumerate(cells):
        share = wanted // (len(cells) - position)
        chosen.append(cell[:share])
        wanted -= len(chosen[-1])
    return np.sort(np.concatenate(chosen))
