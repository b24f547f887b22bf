"""The data of the fair pruning benchmark: kiosk, presence and Adult, dealt anew for every seed.

``task("kiosk").data(0)`` returns four splits that share no family. Photographs take about a minute; they are kept under
``benchmarks/.cache``, keyed by the digest of what made them, and read back memory-mapped.

- *kiosk*: the demo's task. Train has rare tones; the other splits show each drawing, in one light, in all five.
- *presence*: is somebody there? Any drawing against an empty scene, in less light. An empty scene has no tone.
- *adult*: income above 50,000 dollars, groups by sex; 52 repeated rows are left out before the rows are dealt.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fairdeploy.errors import DataError

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
sys.path[:0] = [str(EXAMPLES / "kiosk"), str(EXAMPLES / "adult")]

import twin  # noqa: E402
from kiosk import capture, drawings, model  # noqa: E402
from kiosk import data as kiosk_data  # noqa: E402
from kiosk.drawings import TONES, Family  # noqa: E402

CACHE = Path(__file__).resolve().parent / ".cache"
SPLITS = ("train", "prune", "tune", "evaluate")
SHARES = (0.45, 0.10, 0.10, 0.35)
SIZES = {"train": 12_000, "prune": 4_000, "tune": 4_000, "evaluate": 50_000}
PRESENCE_DARKEST = 0.012
ADULT_GROUPS = ("Female", "Male")
ALONE = 500
_SHOTS = 512

Array = NDArray[Any]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Rows of one split.

    Attributes
    ----------
    inputs : array [n, ...]
        uint8 images [n, 3, 32, 32] or float32 features [n, features].
    labels : array of int [n]
    groups : array of int [n]
        Position in the task's groups; -1 where a row has none.
    clusters : array of int [n]
        What is drawn together: the family of a drawing, under the same number in every split and seed. Rows that are
        independent of each other share `ALONE` numbers.
    scenes : array of int [n]
        Rows of one scene and label differ by group only, so that groups can be exchanged within it. One scene holds
        everyone where nothing else is known.
    """

    inputs: Array
    labels: Ints
    groups: Ints
    clusters: Ints
    scenes: Ints

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Data:
    """The four splits of one seed."""

    train: Split
    prune: Split
    tune: Split
    evaluate: Split


@dataclass(frozen=True)
class Task:
    """What is learnt, by which network, of which groups.

    Attributes
    ----------
    name, attribute : str
    groups : tuple of str
    clusters : int
        `Split.clusters` are below it.
    make : callable
        ``make(seed, sizes) -> dict of split name to Split``.
    build : callable
        Makes the dense network with fresh weights: inputs as `feed` returns them to logits [n, 2].
    augment : callable
        ``augment(inputs, random) -> inputs``, before `feed`.
    feed : callable
        ``feed(inputs) -> float32 Tensor``.
    """

    name: str
    attribute: str
    groups: tuple[str, ...]
    clusters: int
    make: Callable[[int, Mapping[str, int]], dict[str, Split]]
    build: Callable[[], nn.Module]
    augment: Callable[[Array, np.random.Generator], Array]
    feed: Callable[[Array], torch.Tensor]

    def data(self, seed: int, *, sizes: Mapping[str, int] = SIZES, folder: Path = CACHE) -> Data:
        """Return the splits, from the cache if they are there; `sizes` holds for photographs only."""
        kept = folder / f"{self.name}-{seed}-{_digest(sizes)}"
        if not kept.is_dir():
            _keep(self.make(seed, sizes), kept)
        return Data(**{name: _read(kept, name) for name in SPLITS})


def task(name: str) -> Task:
    """Return a task by its name.

    Raises
    ------
    DataError
        If there is none; lists those there are.
    """
    if name not in TASKS:
        raise DataError(f"no task '{name}': there are {', '.join(TASKS)}")
    return TASKS[name]


def _digest(sizes: Mapping[str, int]) -> str:
    """Identify what the arrays are made of: code, pictures, rows, sizes."""
    found = hashlib.blake2b(f"{np.__version__} {sorted(sizes.items())}".encode(), digest_size=8)
    code = [Path(__file__), *sorted((EXAMPLES / "kiosk/kiosk").glob("*.py")), EXAMPLES / "adult/twin.py"]
    for path in (*code, *drawings.FILES, EXAMPLES / "adult/data/adult.csv.xz"):
        found.update(hashlib.blake2b(path.read_bytes()).digest())
    return found.hexdigest()


def _keep(splits: Mapping[str, Split], folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    half = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name, split in splits.items():
            for field in fields(Split):
                np.save(half / f"{name}-{field.name}.npy", getattr(split, field.name), allow_pickle=False)
        os.replace(half, folder)
    except OSError:
        if not folder.is_dir():  # else another process was first, with the same bytes
            raise
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _read(folder: Path, name: str) -> Split:
    return Split(
        *(np.load(folder / f"{name}-{field.name}.npy", mmap_mode="r", allow_pickle=False) for field in fields(Split))
    )


def _deal(count: int, random: np.random.Generator) -> Ints:
    """Return for each of so many things, in random order, the position of its split; shares by `SHARES`."""
    ends = np.rint(np.cumsum(SHARES) * count).astype(int)
    return random.permutation(np.searchsorted(ends, np.arange(count), side="right"))


def _families(seed: int) -> dict[str, list[Family]]:
    """Deal the families of each label to the splits."""
    random = capture.stream(seed, "families", 0)
    found: dict[str, list[Family]] = {name: [] for name in SPLITS}
    for label in (0, 1):
        own = [one for one in drawings.families() if one.label == label]
        for family, split in zip(own, _deal(len(own), random), strict=True):
            found[SPLITS[split]].append(family)
    return found


def _kiosk(seed: int, sizes: Mapping[str, int]) -> dict[str, Split]:
    dealt = _families(seed)
    return {name: _photographs(name, sizes[name], dealt[name], capture.DARKEST, seed) for name in SPLITS}


def _presence(seed: int, sizes: Mapping[str, int]) -> dict[str, Split]:
    dealt = {name: [replace(one, label=1) for one in own] for name, own in _families(seed).items()}
    return {name: _photographs(f"presence/{name}", sizes[name], dealt[name], PRESENCE_DARKEST, seed) for name in SPLITS}


def _photographs(name: str, size: int, families: list[Family], darkest: float, seed: int) -> Split:
    """Photograph families in light from `darkest` to 1; a label without a family is an empty scene."""
    random = capture.stream(seed, f"{name}/rows", 0)
    row = np.arange(size)
    labels = row % 2
    rare = name.endswith("train")
    groups = np.full(size, -1) if rare else row // 2 % len(TONES)
    scene = row // 2 if rare else row // (2 * len(TONES))
    numbers = {one.name: number for number, one in enumerate(drawings.families())}
    clusters, picture = len(numbers) + row // 2 % ALONE, np.full(size, -1)
    light = np.empty(size)
    for label in (0, 1):
        mine = labels == label
        scenes = int(scene[mine].max()) + 1
        light[mine] = darkest ** random.random(scenes)[scene[mine]]
        own = np.array([position for position, one in enumerate(families) if one.label == label])
        if not len(own):
            groups[mine] = -1
            continue
        if rare:
            groups[mine] = kiosk_data._train_tones(int(mine.sum()), random)
        chosen = own[kiosk_data._deal(len(own), scenes, random)]
        which = (random.random(scenes) * [len(families[position].drawings) for position in chosen]).astype(int)
        family = chosen[scene[mine]]
        clusters[mine] = [numbers[families[position].name] for position in family]
        picture[mine] = [
            families[f].drawings[d, t]
            for f, d, t in zip(family, which[scene[mine]], groups[mine], strict=True)
        ]  # fmt: skip
    return Split(_take(name, picture, light, seed), labels, groups, clusters, 2 * scene + labels)


def _take(name: str, picture: Ints, light: NDArray[np.float64], seed: int) -> NDArray[np.uint8]:
    """Photograph drawings by their position; -1 is an empty scene."""
    taken = np.empty((len(picture), 3, capture.SIZE, capture.SIZE), np.uint8)
    for start in range(0, len(picture), _SHOTS):
        part = np.arange(start, min(start + _SHOTS, len(picture)))
        shown = drawings.images()[picture[part]]
        shown[picture[part] < 0] = 0
        streams = [capture.stream(seed, name, int(one)) for one in part]
        taken[part] = capture.take(shown, light=light[part], streams=streams)
    return taken


def _adult(seed: int, sizes: Mapping[str, int]) -> dict[str, Split]:
    """Deal Adult's rows by sex and label; features are in the units of this seed's train split."""
    adult = twin.load()
    random = capture.stream(seed, "adult", 0)
    labels = adult.labels
    groups = np.searchsorted(ADULT_GROUPS, adult.columns["sex"])
    split = np.empty(len(labels), np.int64)
    for cell in range(4):
        mine = np.flatnonzero(2 * groups + labels == cell)
        split[mine] = _deal(len(mine), random)
    columns = adult.columns | {"official_split": np.where(split == 0, "train", "test")}
    inputs = twin.features(replace(adult, columns=columns))[:, 1:].astype(np.float32)
    rows = np.arange(len(labels))
    return {
        name: Split(inputs[mine], labels[mine], groups[mine], rows[mine] % ALONE, np.zeros(mine.sum(), np.int64))
        for name, mine in ((name, split == position) for position, name in enumerate(SPLITS))
    }


def _income_network(features: int = 84, width: int = 64) -> nn.Module:
    """Return a perceptron of two hidden layers: features [n, 84] to logits [n, 2]."""
    return nn.Sequential(
        nn.Linear(features, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(),
        nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(),
        nn.Linear(width, 2),
    )  # fmt: skip


def _augment_image(inputs: Array, random: np.random.Generator) -> Array:
    return kiosk_data.augment({"image": inputs}, random)["image"]


def _as_is(inputs: Array, random: np.random.Generator) -> Array:
    return inputs


def _feed_image(inputs: Array) -> torch.Tensor:
    return (torch.from_numpy(np.array(inputs, np.float32)) - 115) / 64


def _feed_features(inputs: Array) -> torch.Tensor:
    return torch.from_numpy(np.array(inputs, np.float32))


_image = partial(
    Task,
    attribute="skin_tone",
    groups=TONES,
    clusters=len(drawings.families()) + ALONE,
    build=model.build,
    augment=_augment_image,
    feed=_feed_image,
)
TASKS = {
    "kiosk": _image("kiosk", make=_kiosk),
    "presence": _image("presence", make=_presence),
    "adult": Task("adult", "sex", ADULT_GROUPS, ALONE, _adult, _income_network, _as_is, _feed_features),
}
