"""One copy of the kiosk, built once for all tests of the whole line."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from fairdeploy.workflow import Build, build

EXAMPLES = Path(__file__).parent.parent / "examples"
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
