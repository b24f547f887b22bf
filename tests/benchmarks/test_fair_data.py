"""The benchmark's data: dealt apart by family, the same for the same seed, kept whole or not at all."""

import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import fair_data
from fair_data import SPLITS, TASKS, task

from fairdeploy.compaction import channel_groups
from fairdeploy.errors import DataError

SIZES = {"train": 200, "prune": 80, "tune": 80, "evaluate": 160}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def data(folder):
    return {(name, seed): task(name).data(seed, sizes=SIZES, folder=folder) for name in TASKS for seed in (0, 1)}


def families(split):
    return set(split.clusters[split.groups >= 0].tolist())


@pytest.mark.parametrize("name", ["kiosk", "presence"])
def test_no_family_is_in_two_splits_and_every_seed_deals_anew(data, name):
    found = [{split: families(getattr(data[name, seed], split)) for split in SPLITS} for seed in (0, 1)]
    for dealt in found:
        assert all(not dealt[one] & dealt[other] for one, other in combinations(SPLITS, 2))
    assert found[0]["train"] != found[1]["train"]
    assert found[0]["train"] & found[1]["evaluate"]


def test_the_deal_is_by_label_and_leaves_out_nobody():
    dealt = fair_data._families(3)
    names = [one.name for own in dealt.values() for one in own]
    assert sorted(names) == [one.name for one in fair_data.drawings.families()]
    for label in (0, 1):
        counts = np.array([sum(one.label == label for one in dealt[split]) for split in SPLITS])
        assert np.abs(counts - counts.sum() * np.array(fair_data.SHARES)).max() <= 1


@pytest.mark.parametrize("name", ["kiosk", "presence"])
def test_balanced_splits_show_each_scene_in_every_tone(data, name):
    split = data[name, 0].evaluate
    assert split.inputs.shape == (160, 3, 32, 32)
    assert split.inputs.dtype == np.uint8
    assert (np.bincount(split.labels) == 80).all()
    for scene in np.unique(split.scenes[split.groups >= 0]):
        mine = split.scenes == scene
        assert sorted(split.groups[mine]) == [0, 1, 2, 3, 4]
        assert len(set(split.clusters[mine])) == len(set(split.labels[mine])) == 1


def test_train_has_the_tones_in_their_shares_under_both_labels(data):
    split = data["kiosk", 0].train
    for label in (0, 1):
        assert np.bincount(split.groups[split.labels == label]).tolist() == [38, 32, 20, 7, 3]


def test_an_empty_scene_has_no_tone_and_no_family(data):
    for split in (data["presence", 0].train, data["presence", 0].evaluate):
        empty = split.labels == 0
        assert ((split.groups < 0) == empty).all()
        assert split.clusters[empty].min() >= len(fair_data.drawings.families())
    assert data["presence", 0].evaluate.inputs.mean() != data["kiosk", 0].evaluate.inputs.mean()


def test_an_empty_scene_is_taken_as_a_transparent_drawing():
    light, pictures = np.full(2, 0.5), np.array([-1, 3])
    nothing = np.zeros((1, 64, 64, 4), np.uint8)
    streams = [fair_data.capture.stream(0, "same", row) for row in range(2)]
    expected = fair_data.capture.take(
        np.concatenate([nothing, fair_data.drawings.images()[[3]]]), light=light, streams=streams
    )
    assert np.array_equal(fair_data._take("same", pictures, light, 0), expected)


def test_adult_is_dealt_without_its_repeats_by_sex_and_label(data):
    splits = [getattr(data["adult", 0], split) for split in SPLITS]
    assert sum(map(len, splits)) == 48_842 - 52
    shares = [np.mean(one.labels[one.groups == 0]) for one in splits]
    assert np.ptp(shares) < 1e-3
    numbers = data["adult", 0].train.inputs[:, :5].astype(float)
    np.testing.assert_allclose(numbers.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(numbers.std(0), 1, atol=1e-4)
    assert not np.array_equal(data["adult", 1].train.inputs[:50], data["adult", 0].train.inputs[:50])


@pytest.mark.parametrize("name", TASKS)
def test_a_seed_gives_the_same_bytes(data, tmp_path, name):
    again = task(name).data(0, sizes=SIZES, folder=tmp_path)
    for split in SPLITS:
        for one, other in zip(
            vars(getattr(again, split)).values(), vars(getattr(data[name, 0], split)).values(), strict=True
        ):
            assert np.array_equal(one, other)


@pytest.mark.parametrize("name", TASKS)
def test_clusters_and_groups_stay_below_what_the_task_says(data, name):
    for split in vars(data[name, 0]).values():
        assert 0 <= split.clusters.min() <= split.clusters.max() < TASKS[name].clusters
        assert -1 <= split.groups.min() <= split.groups.max() == len(TASKS[name].groups) - 1


@pytest.mark.parametrize("name", TASKS)
def test_the_network_takes_what_feed_gives_and_can_be_pruned(data, name):
    network, split = TASKS[name].build().eval(), data[name, 0].train
    inputs = TASKS[name].feed(TASKS[name].augment(split.inputs[:4], np.random.default_rng(0)))
    assert inputs.dtype == torch.float32
    assert network(inputs).shape == (4, 2)
    assert channel_groups(network, (inputs,))


def test_what_is_kept_is_read_back_and_not_made_again(data, folder):
    def make(seed, sizes):
        raise AssertionError("made again")

    kept = replace(task("kiosk"), make=make).data(0, sizes=SIZES, folder=folder)
    assert isinstance(kept.evaluate.inputs, np.memmap)
    with pytest.raises(AssertionError, match="made again"):
        replace(task("kiosk"), make=make).data(0, sizes=SIZES | {"tune": 81}, folder=folder)


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError("no space left")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="no space left"):
        task("adult").data(0, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_task_that_is_not_there():
    with pytest.raises(DataError, match="no task 'kisok': there are kiosk, presence, adult"):
        task("kisok")
