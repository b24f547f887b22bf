"""The drawings: 838 pictograms of people, each in five skin tones, with their label and their family.

They are artwork, not photographs of people; ``data/LICENSES.md`` names their authors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kiosk import twins

DATA = Path(__file__).resolve().parent.parent / "data"
FILES = (DATA / "people-icons-64.npz", DATA / "people-icons-64-more.npz")
TONES = ("I-II", "III", "IV", "V", "VI")
CLASSES = ("passing", "service")

WHOLE_FIGURES = frozenset(
    {
        "ballet",
        "biking",
        "bouncing-ball",
        "cartwheeling",
        "climbing",
        "dancing",
        "golfing",
        "holding-hands",
        "horse-racing",
        "in-lotus-position",
        "in-manual-wheelchair",
        "in-motorized-wheelchair",
        "in-suit-levitating",
        "kneeling",
        "lifting-weights",
        "men-wrestling",
        "mermaid",
        "mountain-biking",
        "playing-handball",
        "rowing-boat",
        "running",
        "snowboarding",
        "standing",
        "surfing",
        "walking",
        "with-bunny-ears",
        "with-white-cane",
    }
)
WHOLE_FIGURES_IN = {
    "fairy": {"noto", "fluent"},
    "juggling": {"openmoji"},
    "superhero": {"noto"},
    "supervillain": {"noto"},
}
NEITHER = frozenset({"swimming", "playing-water-polo", "in-bed", "taking-bath"})
NEITHER_IN = {"selfie": {"openmoji"}, "men-wrestling": {"emojione"}}  # a hand only; two half figures in profile


@dataclass(frozen=True)
class Family:
    """Drawings that resemble each other: one style, activity and gender, and whatever is nearly the same picture.

    Attributes
    ----------
    name : str
        As in ``noto/running/woman``.
    label : int
        1 for a close-up that faces the camera (service), 0 for a whole figure (passing).
    drawings : array of int [k, 5]
        Positions in `images` of each drawing in every tone.
    """

    name: str
    label: int
    drawings: NDArray[np.int64]


@cache
def images() -> NDArray[np.uint8]:
    """Return all pictures [4335, 64, 64, 4] as sRGB with straight alpha."""
    return _column("images")


@cache
def families() -> tuple[Family, ...]:
    """Return every family in the order of its name.

    The older and the newer Noto are one style, and a figure that faces right is the same drawing mirrored; then
    families that hold near-twins are one.
    """
    columns = (_column(key).tolist() for key in ("style", "activity", "gender", "skin_tone"))
    found: dict[tuple[str, str, str], dict[int, int]] = {}
    for position, (style, activity, gender, tone) in enumerate(zip(*columns, strict=True)):
        base = activity.removesuffix("-facing-right")
        if base not in NEITHER and style not in NEITHER_IN.get(base, ()):
            found.setdefault((style, activity, gender), {})[tone] = position
    keys = sorted(found)
    positions = np.array([[found[key][tone] for tone in range(1, 6)] for key in keys])
    styles = ["noto" if style == "notov1" else style for style, _, _ in keys]
    bases = [activity.removesuffix("-facing-right") for _, activity, _ in keys]
    labels = [int(not _is_whole_figure(style=style, activity=base)) for style, base in zip(styles, bases, strict=True)]
    own = [f"{style}/{base}/{key[2]}" for style, base, key in zip(styles, bases, keys, strict=True)]
    merged = np.array(twins.merge(own, twins.near_twins(images()[positions])))
    members = {name: np.flatnonzero(merged == name) for name in sorted(set(merged.tolist()))}
    return tuple(Family(name, labels[mine[0]], positions[mine]) for name, mine in members.items())


def _column(key: str) -> NDArray[Any]:
    parts = []
    for path in FILES:
        with np.load(path, allow_pickle=False) as file:
            parts.append(file[key])
    return np.concatenate(parts)


def _is_whole_figure(*, style: str, activity: str) -> bool:
    return activity in WHOLE_FIGURES or style in WHOLE_FIGURES_IN.get(activity, ())
