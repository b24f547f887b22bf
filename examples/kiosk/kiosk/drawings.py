"""The drawings: 535 pictograms of people, each in five skin tones, with their label and their family.

They are artwork, not photographs of people; ``data/LICENSES.md`` names their authors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FILE = Path(__file__).resolve().parent.parent / "data" / "people-icons-64.npz"
TONES = ("I-II", "III", "IV", "V", "VI")
CLASSES = ("passing", "service")

WHOLE_FIGURES = frozenset(
    {
        "biking",
        "bouncing-ball",
        "cartwheeling",
        "climbing",
        "golfing",
        "in-lotus-position",
        "in-manual-wheelchair",
        "in-motorized-wheelchair",
        "kneeling",
        "lifting-weights",
        "men-wrestling",
        "mermaid",
        "mountain-biking",
        "playing-handball",
        "rowing-boat",
        "running",
        "standing",
        "surfing",
        "walking",
        "with-white-cane",
    }
)
WHOLE_FIGURES_IN = {"superhero": {"noto"}, "supervillain": {"noto"}, "fairy": {"noto", "fluent"}}
SAME_PICTURES = {
    ("noto", "astronaut", "woman"): ("noto", "astronaut", "man"),
    ("twemoji", "blond-hair", "woman"): ("twemoji", "man", "woman"),
}
NEITHER = frozenset({"swimming", "playing-water-polo"})


@dataclass(frozen=True)
class Family:
    """Drawings that resemble each other: one style, activity and gender.

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
    """Return all pictures [2755, 64, 64, 4] as sRGB with straight alpha."""
    with np.load(FILE, allow_pickle=False) as file:
        return file["images"]


@cache
def families() -> tuple[Family, ...]:
    """Return every family in the order of its name.

    The older and the newer Noto are one style, a figure that faces right is the same drawing mirrored, and two pairs
    of families that share a picture are one.
    """
    with np.load(FILE, allow_pickle=False) as file:
        styles, activities, genders, tones = (file[key] for key in ("style", "activity", "gender", "skin_tone"))
    found: dict[tuple[str, str, str], dict[tuple[str, str, str], dict[int, int]]] = {}
    for position, (style, activity, gender, tone) in enumerate(
        zip(styles.tolist(), activities.tolist(), genders.tolist(), tones.tolist(), strict=True)
    ):
        base = activity.removesuffix("-facing-right")
        if base not in NEITHER:
            family = ("noto" if style == "notov1" else style, base, gender)
            drawing = (style, activity, gender)
            found.setdefault(SAME_PICTURES.get(family, family), {}).setdefault(drawing, {})[tone] = position
    return tuple(
        Family(
            "/".join(key),
            int(not _is_whole_figure(style=key[0], activity=key[1])),
            np.array([[by_tone[tone] for tone in range(1, 6)] for _, by_tone in sorted(found[key].items())]),
        )
        for key in sorted(found)
    )


def _is_whole_figure(*, style: str, activity: str) -> bool:
    return activity in WHOLE_FIGURES or style in WHOLE_FIGURES_IN.get(activity, ())
