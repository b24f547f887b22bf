"""The kiosk's data: splits that share no picture, any batch alone, a camera that sees dark skin worse in dim light."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save

from fairdeploy.data import SPLITS, Split, check_overlap, load_splits, materialise
from fairdeploy.errors import DataError
from fairdeploy.planning import plan
from fairdeploy.project import load_project
from fairdeploy.usercode import load_object

KIOSK = Path(__file__).resolve().parents[2] / "examples" / "kiosk"
TONES = ("I-II", "III", "IV", "V", "VI")


def kiosk(name: str) -> Any:
    return load_object(f"kiosk.{name}", KIOSK)


@pytest.fixture(scope="module")
def splits() -> dict[str, Split]:
    return kiosk("data:splits")()  # type: ignore[no-any-return]


def first(split: Split, n: int) -> NDArray[np.uint8]:
    return next(iter(split.batches(n)))["image"]  # type: ignore[return-value]


def test_the_drawings_are_those_of_the_task() -> None:
    families = kiosk("drawings:families")()
    assert Counter(family.label for family in families for _ in family.drawings) == {1: 566, 0: 272}
    assert Counter(family.label for family in families) == {1: 297, 0: 114}


def test_no_picture_has_two_owners() -> None:
    owned = np.concatenate([family.drawings.ravel() for family in kiosk("drawings:families")()])
    assert len(set(owned.tolist())) == len(owned)


def test_no_near_twins_stand_in_two_families() -> None:
    """By brute force on whole pictures: no pair of drawings, mirrored or not, in no tone, differs by less than .1."""
    images, families = kiosk("drawings:images")(), kiosk("drawings:families")()
    owner = np.concatenate([np.full(len(family.drawings), place) for place, family in enumerate(families)])
    positions = np.concatenate([family.drawings for family in families])
    apart = owner[:, None] != owner
    for tone in (0, 2, 4):
        rgba = images[positions[:, tone]] / np.float32(255)
        seen = rgba[..., :3] * rgba[..., 3:] + np.float32(0.5) * (1 - rgba[..., 3:]) - np.float32(0.5)
        for other in (seen, seen[:, :, ::-1]):
            a, b = seen.reshape(len(seen), -1), other.reshape(len(seen), -1)
            power = np.square(a, dtype=float).mean(1)
            squared = power[:, None] + power - 2 * (a @ b.T) / a.shape[1]
            assert squared[apart].min() > 0.0999**2


def test_drawings_are_near_twins_if_one_tone_or_the_mirror_says_so() -> None:
    random = np.random.default_rng(0)
    one = random.integers(0, 256, (5, 64, 64, 4), dtype=np.uint8)
    one[..., 3] = 255
    mirrored, shifted, in_one_tone = one[:, :, ::-1].copy(), np.roll(one, 9, 1), np.roll(one, 21, 1)
    in_one_tone[3] = one[3] - np.minimum(one[3], 20)
    near_twins = kiosk("twins:near_twins")
    assert near_twins(np.stack([one, mirrored, shifted, in_one_tone])) == [(0, 1), (0, 3), (1, 3)]
    transparent = np.zeros_like(one)
    transparent[..., :3] = one[..., :3]
    assert near_twins(np.stack([transparent, np.zeros_like(one)])) == [(0, 1)]


def test_chains_of_twins_are_one_family_by_its_first_name() -> None:
    merge = kiosk("twins:merge")
    assert merge(["d", "c", "b", "a", "d"], [(0, 1), (1, 2)]) == ["b", "b", "b", "a", "b"]
    assert merge(["b", "a", "b", "c"], [(2, 3)]) == ["b", "a", "b", "b"]
    assert merge(["b", "a"], []) == ["b", "a"]


def test_every_drawing_comes_in_five_tones_that_darken() -> None:
    images = kiosk("drawings:images")().astype(float)
    for family in kiosk("drawings:families")():
        brightness = images[family.drawings][..., :3].mean((2, 3, 4))
        assert np.all(np.diff(brightness[:, [0, 4]]) < 0)


def test_no_family_stands_in_two_splits(splits: dict[str, Split]) -> None:
    families = {name: set(split.rows.clusters.tolist()) for name, split in splits.items()}  # type: ignore[union-attr]
    assert sum(map(len, families.values())) == len(set().union(*families.values())) == 411
    labels = {family.name: family.label for family in kiosk("drawings:families")()}
    counts = {name: Counter(labels[one] for one in families[name]) for name in SPLITS}
    assert counts == {
        "train": {1: 175, 0: 65},
        "prune": {1: 21, 0: 8},
        "calibrate": {1: 13, 0: 5},
        "tune": {1: 33, 0: 13},
        "evaluate": {1: 55, 0: 23},
    }


def test_families_stay_in_their_split_whatever_the_seed_and_sizes(splits: dict[str, Split]) -> None:
    other = kiosk("data:splits")(seed=7, train=500, evaluate=2000)
    for name in SPLITS:
        assert set(other[name].rows.clusters) <= set(splits[name].rows.clusters)  # type: ignore[arg-type]


def test_labels_and_tones_are_balanced_except_in_train(splits: dict[str, Split]) -> None:
    for name, split in splits.items():
        rows = split.rows
        cells = Counter(zip(rows.attributes["skin_tone"].tolist(), rows.labels.tolist(), strict=True))
        shares = dict(zip(TONES, (0.38, 0.32, 0.20, 0.07, 0.03), strict=True)) if name == "train" else {}
        for tone in TONES:
            for label in (0, 1):
                assert cells[tone, label] / len(rows) == pytest.approx(shares.get(tone, 0.2) / 2, abs=1e-4)


def test_tones_meet_the_same_drawings_in_the_same_light(splits: dict[str, Split]) -> None:
    rows = splits["evaluate"].rows
    assert rows.clusters is not None
    scenes = [
        sorted(zip(rows.clusters[mine].tolist(), rows.contexts["light"][mine].tolist(), strict=True))
        for tone in TONES
        for mine in [rows.attributes["skin_tone"] == tone]
    ]
    assert all(scene == scenes[0] for scene in scenes)
    assert {name: n / len(rows) for name, n in Counter(rows.contexts["light"].tolist()).items()} == pytest.approx(
        {"dim": 1 / 3, "medium": 1 / 3, "bright": 1 / 3}, abs=0.001
    )


def test_families_weigh_the_same(splits: dict[str, Split]) -> None:
    rows = splits["evaluate"].rows
    for label in (0, 1):
        counts = Counter(rows.clusters[rows.labels == label].tolist())  # type: ignore[index]
        assert max(counts.values()) - min(counts.values()) <= len(TONES)


def test_any_batch_size_gives_the_same_bytes() -> None:
    split = kiosk("data:splits")(evaluate=90)["evaluate"]
    whole = first(split, 90)
    assert whole.shape == (90, 3, 32, 32)
    assert whole.dtype == np.uint8
    for size in (1, 7, 32, 64):
        np.testing.assert_array_equal(np.concatenate([batch["image"] for batch in split.batches(size)]), whole)


def test_the_same_seed_gives_the_same_bytes_in_another_process(splits: dict[str, Split]) -> None:
    code = (
        "import sys, hashlib; from kiosk.data import splits;"
        "print(hashlib.sha256(next(splits()['tune'].batches(50))['image'].tobytes()).hexdigest());"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=KIOSK, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [hashlib.sha256(first(splits["tune"], 50).tobytes()).hexdigest(), "False"]


def test_seeds_splits_and_rows_give_other_photographs(splits: dict[str, Split]) -> None:
    seen = [first(splits["tune"], 50), first(kiosk("data:splits")(seed=1)["tune"], 50), first(splits["prune"], 50)]
    assert len({photograph.tobytes() for part in seen for photograph in part}) == 150


def test_photographs_share_no_random_numbers() -> None:
    stream = kiosk("capture:stream")
    keys = [(0, "tune", 0), (0, "tune", 1), (0, "tune", 2), (0, "prune", 0), (1, "tune", 0)]
    numbers = [set(stream(*key).random(4000).tolist()) for key in keys]
    assert len(set().union(*numbers)) == sum(map(len, numbers)) == 20_000


def test_each_photograph_is_taken_with_its_own_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    split, stream, asked = kiosk("data:splits")(seed=7, tune=20)["tune"], kiosk("capture:stream"), []
    monkeypatch.setattr(kiosk("data:capture"), "stream", lambda *key: asked.append(key) or stream(*key))
    first(split, 20)
    assert asked == [(7, "tune", row) for row in range(20)]


def test_the_families_that_the_shipped_weights_have_seen_stay_in_train(splits: dict[str, Split]) -> None:
    names = sorted(set(splits["train"].rows.clusters.tolist()))  # type: ignore[union-attr]
    assert hashlib.sha256("\n".join(names).encode()).hexdigest()[:16] == "17f1fbb2baa76284"


def test_the_project_file_fits_the_data() -> None:
    project, _ = load_project(KIOSK)
    for name, split in load_splits(project, KIOSK).items():
        assert len(split.rows) == project.data.arguments[name]
        assert set(split.rows.attributes["skin_tone"]) == set(project.groups.attributes["skin_tone"])


def test_stored_splits_do_not_overlap(tmp_path: Path) -> None:
    project, _ = load_project(KIOSK)
    small = kiosk("data:splits")(train=100, prune=100, calibrate=100, tune=100, evaluate=200)
    stored = {
        name: materialise(split, tmp_path / name, spec=project.spec, groups=project.groups)
        for name, split in small.items()
    }
    check_overlap(stored["evaluate"], {name: stored[name] for name in SPLITS if name != "evaluate"})
    with pytest.raises(DataError, match="by id with evaluate: 200 of 200"):
        check_overlap(stored["evaluate"], stored)


@pytest.mark.parametrize("size", [0, -5, 9])
def test_a_split_too_small_for_its_cells_is_refused(size: int) -> None:
    with pytest.raises(DataError, match=rf"data.arguments.tune is {size}: at least 10"):
        kiosk("data:splits")(tune=size)


def _faces(tone: int, *, light: float, empty: bool = False) -> NDArray[np.float64]:
    """Photograph a hundred close-ups in one tone; the same stream means the same place, pose and noise."""
    take, stream = kiosk("capture:take"), kiosk("capture:stream")
    families = [family for family in kiosk("drawings:families")() if family.label == 1][::3]
    pictures = kiosk("drawings:images")()[[family.drawings[0, tone] for family in families]]
    streams = [stream(0, "test", row) for row in range(len(families))]
    seen = take(pictures * (not empty), light=np.full(len(families), light), streams=streams)
    return np.asarray(seen[:, :, 10:22, 10:22], float)


def test_dark_skin_stands_out_less_and_dim_light_makes_it_worse() -> None:
    def contrast(tone: int, light: float) -> float:
        """Mean change that the person makes to the middle of the frame, over the noise there."""
        empty = _faces(tone, light=light, empty=True)
        noise = np.abs(np.diff(empty, axis=3)).mean()
        return float(np.abs(_faces(tone, light=light) - empty).mean() / noise)

    lightest, darkest = ({light: contrast(tone, light) for light in (0.04, 0.9)} for tone in (0, 4))
    assert darkest[0.04] < lightest[0.04] < darkest[0.9] < lightest[0.9]
    assert darkest[0.04] / lightest[0.04] < 0.75 < darkest[0.9] / lightest[0.9]


def test_dim_light_hides_more_of_a_dark_face() -> None:
    def kept(tone: int) -> float:
        """Correlation of the same scene in dim and in bright light: what the noise leaves."""
        pairs = zip(_faces(tone, light=0.04), _faces(tone, light=1.0), strict=True)
        return float(np.mean([np.corrcoef(dim.ravel(), bright.ravel())[0, 1] for dim, bright in pairs]))

    assert kept(4) < kept(0) - 0.05


def test_the_dense_network_is_the_one_that_was_measured(splits: dict[str, Split]) -> None:
    model = kiosk("model:build")()
    model.load_state_dict(load_file(KIOSK / "weights" / "dense.safetensors"))
    assert sum(one.numel() for one in model.parameters()) == 77_522
    rows, images = splits["tune"].rows.take(np.arange(2000)), first(splits["tune"], 2000)
    predicted = kiosk("train:predict")(model.eval(), images)
    right, positive = predicted == rows.labels, rows.labels == 1
    rates = {tone: right[positive & (rows.attributes["skin_tone"] == tone)].mean() for tone in TONES}
    assert right.mean() > 0.85
    assert rates["VI"] < np.mean([rates[tone] for tone in TONES[:4]]) - 0.03


def test_training_twice_gives_the_same_bytes(splits: dict[str, Split]) -> None:
    images, labels = first(splits["train"], 300), splits["train"].rows.labels[:300]
    threads, fit = torch.get_num_threads(), kiosk("train:fit")
    torch.set_num_threads(1)
    try:
        one, two, other = (save(fit(images, labels, epochs=1, seed=seed).state_dict()) for seed in (0, 0, 1))
    finally:
        torch.set_num_threads(threads)
    assert one == two != other


def test_the_summary_counts_per_tone(splits: dict[str, Split]) -> None:
    rows = splits["tune"].rows.take(np.arange(100))
    always = kiosk("train:summary")(rows, np.ones(100, int)).splitlines()
    assert [line.split() for line in always[1:]] == [
        ["all", "100", "50.0%", "100.0%", "100.0%"],
        *([tone, "20", "50.0%", "100.0%", "100.0%"] for tone in TONES),
    ]


def test_the_readme_gives_the_margins_that_the_planner_gives() -> None:
    text = (KIOSK / "README.md").read_text()
    table = re.findall(r"^\| [^|]+ \| ([\d.]+) points[^|]* \| [^|]+ \|$", text, re.MULTILINE)
    flips = {"compact": 0.01, "dense": 0.12}
    rows = plan(KIOSK, ("this-host-int8",), flip_rates=flips, loss=0.02, gap=0.15, rate=0.77, power=0.95).rows
    provable: dict[str, float] = {}
    for row in rows:
        if row.group and row.smallest_margin is not None:
            provable[row.rule] = max(provable.get(row.rule, 0.0), row.smallest_margin)
    assert table == [f"{100 * margin:.1f}" for margin in provable.values()]
    assert all(row.enough for row in rows)
    for words in ("--flips-dense 0.12", "--loss 0.02", "--gap 0.15", "--rate 0.77", "--power 0.95"):
        assert words in text


def test_the_families_that_were_measured_before_are_some_of_those_that_judge(splits: dict[str, Split]) -> None:
    seen = json.loads((KIOSK / "data" / "measured-before.json").read_text())
    judging = set(splits["evaluate"].rows.clusters.tolist())  # type: ignore[union-attr]
    assert set(seen) < judging
    words = f"{len(seen)} of its {len(judging)} families"
    assert words in (KIOSK / "README.md").read_text()
    assert f"the other {len(judging) - len(seen)}" in (KIOSK / "README.md").read_text()
