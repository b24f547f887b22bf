"""`load_splits`: the user's data callable, called and checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fairdeploy.data.checks import checked_rows
from fairdeploy.data.splits import SPLITS, Rows, Split
from fairdeploy.errors import DataError
from fairdeploy.project import Project
from fairdeploy.usercode import call, load_object


def load_splits(project: Project, folder: Path) -> dict[str, Split]:
    """Call the project's data callable and check the rows of all five splits; no input is read yet.

    Parameters
    ----------
    project : Project
        Its ``data`` names the callable and the arguments.
    folder : Path
        The project's folder, put first on ``sys.path``.

    Returns
    -------
    dict of str to Split
        By name, in the order of `SPLITS`, rows as `checked_rows` returns them.

    Raises
    ------
    ConfigError
        If the callable cannot be imported, does not take the arguments, or raises.
    DataError
        If a split is missing or its rows are wrong.
    """
    name = project.data.import_
    made = call(load_object(name, folder), project.data.arguments, name=name)
    if not isinstance(made, dict):
        raise DataError(f"{name} returned {type(made).__name__}, not a dict of Split by name")
    missing = [split for split in SPLITS if split not in made]
    unknown = [str(split) for split in made if split not in SPLITS]
    if missing or unknown:
        lacks = f"lacks {', '.join(missing)}" if missing else f"has unknown {', '.join(unknown)}"
        raise DataError(f"{name}: the dict {lacks}; it holds exactly {', '.join(SPLITS)}")
    for split in SPLITS:
        if not isinstance(made[split], Split) or not isinstance(made[split].rows, Rows):
            raise DataError(f"{name}: '{split}' is {type(made[split]).__name__}, not a fairdeploy.data.Split of Rows")
        if not callable(made[split].batches):
            kind = type(made[split].batches).__name__
            raise DataError(f"{name}: '{split}' has {kind} for batches, not a function of a size that yields batches")
    classes = len(project.model.classes)
    return {
        split: replace(
            made[split], rows=checked_rows(made[split].rows, split=split, classes=classes, groups=project.groups)
        )
        for split in SPLITS
    }
