"""Which rows an epoch of fine-tuning sees, and in which order."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fairdeploy.data import Rows

Order = NDArray[np.int64]


def epoch_order(rows: Rows, sampling: Literal["natural", "balanced"], generator: np.random.Generator) -> Order:
    """Draw one epoch.

    Parameters
    ----------
    rows : Rows
    sampling : {"natural", "balanced"}
        Each row once; or each cell of all sensitive attributes x label equally often, about as many draws as
        there are rows, every row of a cell before any comes again.
    generator : numpy.random.Generator

    Returns
    -------
    array of int
        Positions in the split.
    """
    if sampling == "natural":
        return generator.permutation(len(rows))
    cells = rows.cells()
    quota = -(-len(rows) // len(cells))
    drawn = []
    for cell in cells:
        rounds = -(-quota // len(cell))
        drawn.append(np.concatenate([generator.permutation(cell) for _ in range(rounds)])[:quota])
    return generator.permutation(np.concatenate(drawn))
