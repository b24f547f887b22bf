"""Shared fixtures: a tally from counts, and one copy of the kiosk, built once for all tests of the whole line."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from fairdeploy.evidence import Schema, Tally
from fairdeploy.workflow import Build, build

EXAMPLES = Path(__file__).parent.parent / "examples"
Counts = Mapping[tuple[str, int, int, int], int]
DEMO = ("this-host", "this-host-int8", "x86-openvino-int8")


@dataclass(frozen=True)
class Kiosk:
    """A copy of the example."""

    folder: Path

    def variant(self, name: str, changes: Mapping[str, Any], *, of: str = "fairdeploy.yaml") -> str:
        """Write a configuration that differs from a shipped one at the top keys given; return its name."""
        yaml = YAML()
        config = yaml.load((self.folder / of).read_text())
        config.update(changes)
        with (self.folder / name).open("w") as stream:
            yaml.dump(config, stream)
        return name


@pytest.fixture(scope="session")
def kiosk(tmp_path_factory: pytest.TempPathFactory) -> Kiosk:
    folder = tmp_path_factory.mktemp("project") / "examples" / "kiosk"
    shutil.copytree(EXAMPLES / "kiosk", folder, ignore=shutil.ignore_patterns(".fairdeploy", "build", "__pycache__"))
    return Kiosk(folder)


@pytest.fixture(scope="session")
def demo(kiosk: Kiosk) -> Build:
    """The main job, as `make demo` runs it."""
    return build(kiosk.folder, DEMO)


@pytest.fixture
def tally_of() -> Callable[..., Tally]:
    """Make a tally from {(group, label, reference, deployed): rows}."""

    def make(counts: Counts, levels: tuple[str, ...] = ("a", "b"), classes: tuple[str, ...] = ("no", "yes")) -> Tally:
        rows = [key for key, count in counts.items() for _ in range(count)]
        group, label, reference, deployed = zip(*rows, strict=True) if rows else ((), (), (), ())
        return Tally.count(
            Schema(attributes={"g": levels}, contexts={}, classes=classes),
            ids=[str(at) for at in range(len(rows))],
            labels=np.array(label, int),
            attributes={"g": np.array(group, str)},
            contexts={},
            clusters=None,
            reference=np.array(reference, int),
            deployed=np.array(deployed, int),
        )

    return make
