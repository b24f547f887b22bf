"""The five splits: photographs of drawings, apart by family, so that no figure is ever met twice.

The families are dealt to the splits once and for all, because the shipped weights have seen those of *train*;
`seed` changes the photographs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fairdeploy.data import SPLITS, Rows, Split
from fairdeploy.errors import DataError
from kiosk import capture, drawings
from kiosk.drawings import TONES, Family

# Which family is in which split; README.md tells how it was dealt.
DEAL = Path(__file__).resolve().parent.parent / "data" / "deal.json"
TRAIN_TONE_SHARES = (0.38, 0.32, 0.20, 0.07, 0.03)
LIGHTS = ("dim", "medium", "bright")


def splits(
    *,
    seed: int = 0,
    train: int = 12_000,
    prune: int = 4_000,
    calibrate: int = 1_000,
    tune: int = 4_000,
    evaluate: int = 40_000,
) -> dict[str, Split]:
    """Return the five splits with so many photographs each.

    Labels are balanced everywhere. Tones are balanced over the labels except in *train*, where tone VI is rare as it
    is in many real data sets. Balanced splits show each drawing, in the same light, in all five tones.
    """
    sizes = dict(zip(SPLITS, (train, prune, calibrate, tune, evaluate), strict=True))
    for name, size in sizes.items():
        if size < 2 * len(TONES):
            raise DataError(f"data.arguments.{name} is {size}: at least {2 * len(TONES)}, one per tone and label")
    dealt = _deal_families()
    return {name: _split(name, size, dealt[name], seed) for name, size in sizes.items()}


def augment(batch: Mapping[str, NDArray[np.uint8]], random: np.random.Generator) -> dict[str, NDArray[np.uint8]]:
    """Flip half of the photographs and roll all by up to 2 px, as the dense network's training did."""
    images = batch["image"].copy()
    flipped = random.random(len(images)) < 0.5
    images[flipped] = images[flipped, ..., ::-1]
    return {"image": np.roll(images, random.integers(-2, 3, 2), (2, 3))}


def _deal_families() -> dict[str, list[Family]]:
    """Return the families of each split."""
    known = {one.name: one for one in drawings.families()}
    return {name: [known[family] for family in json.loads(DEAL.read_text())[name]] for name in SPLITS}


def _generator(*key: object) -> np.random.Generator:
    return capture.stream(0, "/".join(map(str, key)), 0)


def _deal(options: int, count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Return `count` numbers below `options`, in random order, each equally often (give or take one)."""
    return np.concatenate([random.permutation(options) for _ in range(-(-count // options))])[:count]


def _split(name: str, size: int, families: list[Family], seed: int) -> Split:
    random = _generator("rows", name, seed)
    row = np.arange(size)
    labels = row % 2
    tones = np.empty(size, np.int64) if name == "train" else row // 2 % len(TONES)
    scene = row // 2 if name == "train" else row // (2 * len(TONES))
    family, picture, levels = (np.empty(size, np.int64) for _ in range(3))
    light = np.empty(size)
    for label in (0, 1):
        mine = labels == label
        if name == "train":
            tones[mine] = _train_tones(int(mine.sum()), random)
        scenes = int(scene[mine].max()) + 1
        own = np.array([position for position, one in enumerate(families) if one.label == label])
        chosen = own[_deal(len(own), scenes, random)]
        which = (random.random(scenes) * [len(families[position].drawings) for position in chosen]).astype(int)
        level = _deal(len(LIGHTS), scenes, random)
        brightness = (level + random.random(scenes)) / len(LIGHTS)
        family[mine], levels[mine] = chosen[scene[mine]], level[scene[mine]]
        picture[mine] = [
            families[f].drawings[d, t]
            for f, d, t in zip(family[mine], which[scene[mine]], tones[mine], strict=True)
        ]  # fmt: skip
        light[mine] = capture.DARKEST * (capture.BRIGHTEST / capture.DARKEST) ** brightness[scene[mine]]

    def batches(batch_size: int) -> Iterator[dict[str, NDArray[np.uint8]]]:
        for start in range(0, size, batch_size):
            part = row[start : start + batch_size]
            streams = [capture.stream(seed, name, int(one)) for one in part]
            yield {"image": capture.take(drawings.images()[picture[part]], light=light[part], streams=streams)}

    rows = Rows(
        ids=np.array([f"{name}-{one:06d}" for one in row]),
        labels=labels,
        attributes={"skin_tone": np.array(TONES)[tones]},
        contexts={"light": np.array(LIGHTS)[levels]},
        clusters=np.array([one.name for one in families])[family],
    )
    return Split(rows, batches)


def _train_tones(count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Return tones in random order, by `TRAIN_TONE_SHARES` to the nearest row."""
    ends = np.rint(np.cumsum(TRAIN_TONE_SHARES) * count).astype(int)
    return random.permutation(np.searchsorted(ends, np.arange(count), side="right"))
