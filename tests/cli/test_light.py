"""What must answer at once loads no heavy library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

KIOSK = Path(__file__).parents[2] / "examples" / "kiosk"
HEAVY = {"torch", "openvino", "onnx", "onnxruntime", "scipy", "pandas", "pyarrow"}
LIGHTER = HEAVY | {"numpy", "pydantic", "ruamel", "jinja2"}


@pytest.mark.parametrize(
    ("command", "unwanted"),
    [
        (["--help"], LIGHTER),
        (["--version"], LIGHTER),
        (["init", "--help"], LIGHTER),
        (["validate", "-C", str(KIOSK)], HEAVY),  # numpy comes with the names of the metrics
        (["completion", "bash"], HEAVY),
        (["schema", "project"], HEAVY),
        (["targets", "ls"], HEAVY),
        (["doctor"], HEAVY),
    ],
    ids=lambda one: one[0] if isinstance(one, list) else "",
)
def test_a_command_loads_no_heavy_library(command: list[str], unwanted: set[str]) -> None:
    code = (
        "import sys; from fairdeploy.cli import main; code = main(sys.argv[1:]); "
        "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stderr.split())
    assert "cyclopts" in loaded
    assert not loaded & unwanted
