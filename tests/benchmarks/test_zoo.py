"""The zoo's masks, its randomisation and its table, on small networks that need none of its packages."""

import argparse
import copy
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import zoo
import zoo_models
import zoo_tables

from fairdeploy.compaction import ChannelGroup, channel_groups

SHAPE = (3, 8, 8)
NEEDED = ("timm", "torchvision", "torch_pruning")


class Scaled(nn.Module):
    """A residual branch as networks start it: a layer scale of nearly nothing and a norm that is zero."""

    def __init__(self, width):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.gamma = nn.Parameter(1e-6 * torch.ones(width, 1, 1))
        nn.init.zeros_(self.norm.weight)

    def forward(self, x):
        return torch.relu(x + self.gamma * self.norm(self.conv(x)))


def network(depth=2, width=6):
    torch.manual_seed(0)
    blocks = [Scaled(width) for _ in range(depth)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4)]
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), *blocks, *head).eval()


def rows():
    return zoo_models.images(5, SHAPE, 1)


@pytest.fixture(scope="module")
def drawn():
    return zoo_models.randomise(network(), SHAPE)


@pytest.fixture(scope="module")
def groups(drawn):
    return channel_groups(drawn, (rows()[:2].float(),))


def zeros(model):
    return {name: int((parameter == 0).sum()) for name, parameter in model.named_parameters()}


def test_nothing_stays_as_networks_start(drawn):
    assert not any(zeros(drawn).values())
    assert all(bool((block.gamma.abs() > 0.1).all()) for block in drawn if isinstance(block, Scaled))


def test_a_deep_network_depends_on_its_input_once_it_is_drawn_anew():
    deep = network(depth=60)
    drawn = zoo_models.randomise(copy.deepcopy(deep), SHAPE)
    assert zoo.sensitivity(drawn.double(), rows()) > 0.05


def test_the_same_seed_draws_the_same(drawn):
    again, other = (zoo_models.randomise(network(), SHAPE, seed).state_dict() for seed in (0, 1))
    assert all(torch.equal(value, again[name]) for name, value in drawn.state_dict().items())
    assert not torch.equal(again["0.weight"], other["0.weight"])


def test_rows_differ_from_one_another_at_every_scale():
    x = zoo_models.images(50, (3, 32, 32), 1)
    assert x.shape == (50, 3, 32, 32)
    assert x.dtype == torch.float64
    assert float(x.mean((2, 3)).std()) > 0.3
    assert float((x - x.roll(1, 3)).std()) > 0.3


def test_half_of_each_group_is_closed(groups):
    masks = zoo.half_open(groups, np.random.default_rng(0))
    assert {name: int((~mask).sum()) for name, mask in masks.items()} == {
        group.name: group.size // 2 for group in groups if group.prunable
    }


@pytest.mark.parametrize("same", [False, True])
def test_joint_channels_close_alike_in_every_row(same):
    joint = ChannelGroup("qkv.weight", 60, (), None, (6, 10), same)
    mask = zoo.half_open([joint], np.random.default_rng(0))["qkv.weight"].reshape(6, 10)
    assert mask.sum(1).tolist() == [5] * 6
    assert bool((mask == mask[0]).all()) is same


def test_whole_groups_get_no_mask():
    pinned = ChannelGroup("head.weight", 4, (), "it is an output")
    assert zoo.half_open([pinned], np.random.default_rng(0)) == {}


def test_producers_lose_rows_and_nothing_else(drawn, groups):
    before = copy.deepcopy(drawn.state_dict())
    masks = {"0.weight": np.array([False, True, True, True, True, False])}
    masked = zoo.without_rows(drawn, [group for group in groups if group.name == "0.weight"], masks)
    found = {name: count for name, count in zeros(masked).items() if count}
    assert found == {"0.weight": 2 * 27, "1.conv.weight": 2 * 54, "2.conv.weight": 2 * 54} | {
        name: 2 for name in found if "gamma" in name
    }
    assert not masked[0].weight[[0, 5]].any()
    assert all(torch.equal(value, before[name]) for name, value in drawn.state_dict().items())


def test_holes_are_rows_and_columns_of_some_parameters(drawn):
    masked = zoo.with_holes(drawn, np.random.default_rng(0))
    holes = {name for name, count in zeros(masked).items() if count}
    assert 0 < len(holes) < len(zeros(masked))
    assert all(p.any() for p in masked.parameters())


def test_a_study_says_what_each_style_gave(monkeypatch, drawn):
    monkeypatch.setattr(zoo, "build", lambda name: (copy.deepcopy(drawn), SHAPE))
    threads = torch.get_num_threads()
    try:
        found = dict(zoo.study("small", zoo.STYLES, peer=False, export=True))
    finally:
        torch.set_num_threads(threads)
    assert found["network"]["shape"] == SHAPE
    assert found["network"]["sensitivity"] > 0.01
    for style in zoo.STYLES:
        assert found[style]["difference"] <= zoo_tables.TOLERANCE
        assert found[style]["export_s"] > 0
    assert found["groups"]["asked"] == found["groups"]["removed"] > 0
    assert found["groups"]["macs"][1] < found["groups"]["macs"][0]
    assert found["groups"]["onnx"] == "equal"


def test_what_fails_is_said_with_its_place(monkeypatch):
    class Branches(nn.Module):
        def forward(self, x):
            return x if float(x.sum()) > 0 else -x

    monkeypatch.setattr(zoo, "build", lambda name: (Branches(), SHAPE))
    found = dict(zoo.study("branches", ["groups"], peer=False, export=False))
    assert found["channels"]["error"].startswith("CompactionError")
    assert found["channels"]["place"]
    assert "groups" not in found


def test_a_network_that_takes_too_long_is_a_row_of_its_own():
    given = argparse.Namespace(styles=["groups"], peer=False, export=False, limit_s=0.01)
    found = zoo.in_child("resnet18", given)
    assert found == {"name": "resnet18", "network": {"error": "not done within 0.01 s"}}
    page = zoo_tables.text({"networks": [found], "styles": ["groups"], "machine": "m", "torch": "t"})
    assert "| groups | 0 of 1 |" in page
    assert "| resnet18 | network | not done within 0.01 s |" in page


def test_the_page_shows_what_stayed_what_differs_and_what_the_peer_did():
    style = {
        "difference": 2e-8, "sensitivity": 0.5, "asked": 9, "removed": 7, "missing": {"a": "2 of 9: it is an odd one"},
        "unknown_ops": ["aten.odd"], "macs": [100, 40], "export_s": 1.0, "seconds": 2.0, "not_own_class": "no",
        "onnx": "differs by 1e-01 at batch 5",
    }  # fmt: skip
    peer = {"version": "1", "prune": "yes", "forward": "yes", "difference": 1e-15, "difference_to_rows": 0.5,
            "removed": 0.7, "seconds": 1.0, "groups": 3}  # fmt: skip
    network = {
        "name": "n", "network": {"shape": SHAPE, "parameters": 1_000_000, "sensitivity": 0.5},
        "channels": {"groups": 2, "whole": 1, "groups_wide": 3}, "groups": style, "peer": peer,
    }  # fmt: skip
    page = zoo_tables.text({"networks": [network], "styles": ["groups"], "machine": "m", "torch": "t"})
    assert "| groups | 1 of 1 | 0 | 0 | 0 | 0 |" in page
    assert "7 of 9 | aten.odd | 0.60 |" in page
    assert "| n | groups | 1 | it is an odd one |" in page
    assert "| n | yes | yes | equal | 5e-01 | 0.70 | 1.0 | 3 | 2 | 3 |" in page
    assert "differs by 1e-01 at batch 5" in page


@pytest.mark.skipif(all(map(find_spec, NEEDED)), reason="everything is installed")
def test_what_is_not_installed_is_named(tmp_path):
    command = [sys.executable, zoo.__file__, "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "not installed: " in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not all(map(find_spec, NEEDED)), reason="needs the extra bench")
def test_a_small_network_goes_through_beside_torch_pruning(tmp_path):
    command = [sys.executable, zoo.__file__, "--only", "resnet10t", "--peer", "--results", str(tmp_path)]
    subprocess.run(command, capture_output=True, text=True, check=True)
    (found,) = json.loads((tmp_path / "zoo.json").read_text())["networks"]
    assert found["peer"]["prune"] == found["peer"]["forward"] == "yes"
    assert found["peer"]["difference"] <= zoo_tables.TOLERANCE < found["peer"]["difference_to_rows"]
    assert all(found[style]["difference"] <= zoo_tables.TOLERANCE for style in zoo.STYLES)
