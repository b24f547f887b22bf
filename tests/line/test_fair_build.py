"""A build under constraints keeps how its trainings went and, on request, which channels serve whom."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fairdeploy.planning import plan
from fairdeploy.report import load_source, render_html
from fairdeploy.workflow import Build, build
from tests.cli.test_prune import CODE, CONFIG

PLAIN = ("method: bilevel", "method: magnitude"), ("  search: {epochs: 1}\n", ""), (
    "  constraints: {accuracy_difference: 0.01}\n", "",
)  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny project that asks which channels serve whom, and one without constraints."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("tiny")
    path = list(sys.path)
    (folder / "tiny_project.py").write_text(CODE)
    (folder / "fairdeploy.yaml").write_text(CONFIG.replace("  round_to: 1\n", "  round_to: 1\n  serves: true\n"))
    plain = CONFIG
    for old, new in PLAIN:
        assert old in plain
        plain = plain.replace(old, new)
    (folder / "plain.yaml").write_text(plain)
    names: dict[str, object] = {}
    exec(CODE, names)
    save_file(names["build"]().state_dict(), folder / "dense.safetensors")  # type: ignore[operator]
    yield folder
    sys.path[:] = path
    sys.modules.pop("tiny_project", None)


@pytest.fixture(scope="module")
def fair(project: Path) -> Build:
    return build(project)


def test_the_chosen_networks_trainings_are_in_the_record(fair: Build) -> None:
    (chosen,) = (one for one in fair.record.candidates if one.chosen)
    courses = {one.station: one for one in fair.record.courses}
    assert set(courses) - {"teacher"} == {f"prune[{chosen.name}]", f"recover[{chosen.name}]"}
    kept = courses[f"prune[{chosen.name}]"].kept
    assert list(kept) == sorted(kept, reverse=True)
    assert kept[-1] == pytest.approx(chosen.keep["macs"])
    assert courses[f"recover[{chosen.name}]"].kept == ()
    for one in courses.values():
        assert [part.name for part in one.constraints] == ["accuracy_difference"]
        assert len(one.losses) == len(one.steps) > 1
        assert all(np.isfinite(one.losses))


def test_channels_are_the_dense_networks_before_and_those_kept_after(fair: Build) -> None:
    assert fair.record.serves is not None
    assert fair.record.compaction is not None
    before, after = fair.record.serves.before, fair.record.serves.after
    assert after is not None
    widths = {one.group: (one.before, one.after) for one in fair.record.compaction.layers}
    found = {one.group: [channel.channel for channel in one.channels] for one in before.groups}
    assert {name: len(channels) for name, channels in found.items()} == {name: n for name, (n, _) in widths.items()}
    left = {one.group: [channel.channel for channel in one.channels] for one in after.groups}
    assert left
    for name, channels in left.items():
        assert len(channels) == widths[name][1]
        assert set(channels) <= set(found[name])
    assert [one.level for one in before.slices] == ["light", "dark"]
    assert before.rows <= 96


def test_the_page_shows_both_and_that_of_a_build_without_constraints_neither(fair: Build, project: Path) -> None:
    page = render_html(load_source(fair.folder))
    assert 'id="training"' in page
    assert 'id="service"' in page
    plain = build(project, config="plain.yaml")
    assert (plain.record.courses, plain.record.serves) == ((), None)
    page = render_html(load_source(plain.folder))
    assert 'id="training"' not in page
    assert 'id="service"' not in page


def test_a_plan_knows_the_station(fair: Build, project: Path, tmp_path: Path) -> None:
    assert all(one.kept for one in plan(project).stations)
    copied = tmp_path / "copy"
    shutil.copytree(project, copied)
    shutil.rmtree(copied / ".fairdeploy" / "store" / "serves")
    missing = [one.label for one in plan(copied).stations if not one.kept]
    assert missing[0].startswith("serves[macs-")


def test_iterative_levels_go_on_from_each_other_and_count_from_the_dense_network(project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "again"
    shutil.copytree(project, folder, symlinks=True)
    plain = (folder / "plain.yaml").read_text()
    (folder / "iterative.yaml").write_text(plain.replace("method: magnitude", "method: magnitude\n  iterative: true"))
    apart, found = (build(folder, config=f"{name}.yaml").record for name in ("plain", "iterative"))
    assert [one.name for one in found.candidates] == ["macs-0.6", "macs-0.4"]
    for record in (apart, found):
        assert all(one.macs_share <= one.keep["macs"] for one in record.candidates)
    said = {station.station: station.cached for station in found.times}
    assert said["recover[macs-0.6]"]
    assert not said["prune[macs-0.4, magnitude]"], "it goes on from another network"
    assert not said["recover[macs-0.4]"]
    stations = {one.label: one.kept for one in plan(folder, config="iterative.yaml").stations}
    assert all(stations.values())
    assert "prune[macs-0.4, magnitude]" in stations
