"""Near-twins: drawings that are nearly the same picture belong to one family, whatever they are called."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Chosen by looking at the pairs in steps of .01: below .07 nearly all are one drawing with other hair, another mouth or
# another shirt; up to .10 such pairs mix with figures that only share their place on the canvas; above, those are most.
# Too high a threshold costs families, too low a one lets an evaluated drawing be one that the network knows.
ALIKE_BELOW = 0.10

_BLOCK = 4


def near_twins(pictures: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Return the pairs of drawings whose pictures in some tone, or one and the other mirrored, are nearly the same.

    Nearly: a root mean square difference of sRGB in 0 to 1, before mid-grey, below `ALIKE_BELOW`.

    Parameters
    ----------
    pictures : array of uint8 [n, tones, 64, 64, 4]
        sRGB with straight alpha.
    """
    found: set[tuple[int, int]] = set()
    for tone in range(pictures.shape[1]):
        rgba = pictures[:, tone].astype(np.float32) / 255
        over_grey = (rgba[..., :3] - 0.5) * rgba[..., 3:]
        coarse = _shrink(over_grey)
        for step in (1, -1):
            close = _distances(coarse, coarse[:, :, ::step]) < ALIKE_BELOW  # means of blocks never differ more
            found |= {
                (one, two)
                for one, two in np.argwhere(np.triu(close, 1)).tolist()
                if (one, two) not in found
                and np.square(over_grey[one] - over_grey[two, :, ::step]).mean() < ALIKE_BELOW**2
            }
    return sorted(found)


def merge(names: list[str], pairs: list[tuple[int, int]]) -> list[str]:
    """Return the family of each drawing: drawings of one name, and those of each pair, are of one family.

    A family bears the first of its names.
    """
    family = {name: name for name in names}

    def find(name: str) -> str:
        while family[name] != name:
            name = family[name]
        return name

    for one, other in pairs:
        first, second = sorted((find(names[one]), find(names[other])))
        family[second] = first
    return [find(name) for name in names]


def _shrink(images: NDArray[Any]) -> NDArray[np.float64]:
    n, height, width, channels = images.shape
    blocks = images.reshape(n, height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK, channels)
    return np.asarray(blocks.mean((2, 4)), float)


def _distances(images: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    flat, other = (array.reshape(len(array), -1) for array in (images, others))
    squared = np.square(flat).sum(1)[:, None] + np.square(other).sum(1) - 2 * flat @ other.T
    return np.asarray(np.sqrt(np.maximum(squared, 0) / flat.shape[1]))
