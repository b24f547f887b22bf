"""What a stranger gets from pip: a wheel, an sdist or an editable install, with nothing but the base dependencies.

These tests install packages, so they need the index that pip is configured for, as making the environment they run in
did. Without it they fail: a light install that nobody installed would be a claim.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHIPPED = ("fairdeploy", "targets", "calibration", "examples")
LEFT_BEHIND = ("examples/adult/build/1/report.html", "examples/adult/.fairdeploy/store/x", "targets/__pycache__/x.pyc")
HEAVY = ("torch", "openvino", "pandas", "pyarrow", "safetensors")


def outcome(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command outside of the source tree."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FAIRDEPLOY"))}
    return subprocess.run(
        list(map(str, command)), cwd=folder, env=clean, capture_output=True, text=True, check=False, timeout=600
    )


def ran(*command: str | Path, folder: Path) -> str:
    """Run a command outside of the source tree; return its stdout, or fail with all it said."""
    done = outcome(*command, folder=folder)
    assert done.returncode == 0, f"{command}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Environment:
    """An empty virtual environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ran(sys.executable, "-m", "venv", "--without-pip", folder, folder=folder.parent)
        self.python, self.packages = folder / "bin" / "python", next((folder / "lib").glob("python*/site-packages"))

    def pip(self, *arguments: str | Path) -> None:
        command = ("-m", "pip", "--disable-pip-version-check", "--python", self.python, *arguments)
        ran(sys.executable, *command, "--quiet", folder=self.folder)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source tree in which somebody has built an example."""
    tree = tmp_path_factory.mktemp("source") / "tree"
    for name in SHIPPED:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "build", ".fairdeploy"))
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, tree)
    for name in LEFT_BEHIND:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("not to be shipped")
    return tree


@pytest.fixture(scope="module")
def builder(source: Path) -> Environment:
    made = Environment(source.parent / "builder")
    made.pip("install", "hatchling", "editables")
    return made


@pytest.fixture(scope="module")
def built(source: Path, builder: Environment) -> Path:
    """The folder with the wheel and the sdist."""
    out = source.parent / "dist"
    ran(builder.python, "-m", "hatchling", "build", "-d", out, folder=source)
    return out


@pytest.fixture(scope="module")
def light(built: Path) -> Environment:
    """An environment with the wheel and its base dependencies."""
    made = Environment(built.parent / "light")
    (wheel,) = built.glob("*.whl")
    made.pip("install", wheel, "--constraint", ROOT / "constraints.txt", "--no-compile")
    return made


@pytest.fixture(scope="module")
def editable(source: Path, builder: Environment, light: Environment) -> Environment:
    """An editable install that takes its dependencies from the light environment."""
    builder.pip("install", "--no-build-isolation", "--no-deps", "--editable", source)
    (builder.packages / "zz-dependencies.pth").write_text(f"{light.packages}\n")
    return builder


def wanted() -> set[str]:
    """Every shipped data file, as it is called in a wheel."""
    files = [file for folder in SHIPPED[1:] for file in (ROOT / folder).rglob("*") if file.is_file()]
    names = {file.relative_to(ROOT).as_posix() for file in files}
    made = {"__pycache__", "build", ".fairdeploy"}
    return {f"fairdeploy/{name}" for name in names if not made & set(name.split("/"))}


def in_wheel(folder: Path) -> set[str]:
    (wheel,) = folder.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_wheel_and_sdist_carry_what_is_shipped_and_nothing_else(built: Path) -> None:
    shipped = in_wheel(built)
    assert len(wanted()) > 25
    assert wanted() <= shipped
    data = {name for name in shipped if name.split("/")[1] in SHIPPED}
    assert data == wanted()
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as packed:
        names = {name.split("/", 1)[1] for name in packed.getnames()}
    assert {name.removeprefix("fairdeploy/") for name in wanted()} <= names
    assert not [name for name in names if name in LEFT_BEHIND]


def test_the_wheel_made_from_the_sdist_is_the_same(built: Path, builder: Environment, tmp_path: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    builder.pip("wheel", "--no-build-isolation", "--no-deps", sdist, "--wheel-dir", tmp_path)
    assert in_wheel(tmp_path) == in_wheel(built)


@pytest.mark.parametrize("install", ["light", "editable"])
def test_a_project_is_started_from_any_install(
    install: str, source: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    environment: Environment = request.getfixturevalue(install)
    run = (environment.python, "-m", "fairdeploy")
    where = ran(environment.python, "-c", "import fairdeploy; print(fairdeploy.__file__)", folder=tmp_path)
    assert Path(where).is_relative_to(source if install == "editable" else environment.packages)
    for example in ("adult", "kiosk"):
        ran(*run, "init", example, "--example", example, "-t", "jetson", "--ci", "github", folder=tmp_path)
        assert ran(*run, "validate", "-C", example, folder=tmp_path).strip() == "valid"
    assert not [file for file in tmp_path.rglob("*") if file.name in {"build", ".fairdeploy", "__pycache__"}]
    code = "from fairdeploy.calibrate.recipe import load_recipe; print(load_recipe('group-balanced').id)"
    assert ran(environment.python, "-c", code, folder=tmp_path).strip() == "group-balanced"


def test_without_torch_predictions_are_judged_gated_compared_and_reported(light: Environment, tmp_path: Path) -> None:
    run = (light.folder / "bin" / "fairdeploy",)
    present = f"from importlib.util import find_spec; print([one for one in {HEAVY} if find_spec(one)])"
    assert ran(light.python, "-c", present, folder=tmp_path).strip() == "[]"
    assert "Usage: fairdeploy COMMAND" in ran(*run, "--help", folder=tmp_path)
    ran(*run, "init", "income", "--example", "adult", folder=tmp_path)
    income = tmp_path / "income"
    judged = ("judge", "predictions.csv", "--groups", "sex", "--gates", "gates.yaml", "--out")
    for name in ("one", "two"):
        assert "exit code 0" in ran(*run, *judged, name, folder=income)
    assert "exit code 0" in ran(*run, "gate", "--bundle", "one", "--gates", "gates.yaml", folder=income)
    assert "accuracy" in ran(*run, "compare", "one", "two", folder=income)
    assert "<testsuite" in ran(*run, "report", "one", "--format", "junit", folder=income)
    ran(*run, "report", "one", "--format", "html", "--out", "report.html", folder=income)
    assert "sex" in (income / "report.html").read_text()


def test_doctor_says_what_a_light_install_lacks_and_build_says_it_before_anything_runs(
    light: Environment, tmp_path: Path
) -> None:
    run = (light.folder / "bin" / "fairdeploy",)
    ran(*run, "init", "income", "--example", "adult", folder=tmp_path)
    found = json.loads(ran(*run, "doctor", "-C", "income", "--json", folder=tmp_path))
    assert found["network"]["can"] == []
    assert found["network"]["reason"] == "not installed: torch, safetensors, onnxscript, onnxslim."
    assert "pip install 'fairdeploy[torch]'" in found["network"]["mend"]
    assert found["targets"]["this-host-int8"] == {"state": "runs", "mend": ""}
    assert found["targets"]["x86-openvino"]["state"] == "missing"
    assert "pip install 'fairdeploy[openvino]'" in found["targets"]["x86-openvino"]["mend"]
    done = outcome(*run, "build", "-C", "income", folder=tmp_path)
    assert done.returncode == 2
    assert "pip install 'fairdeploy[torch]'" in done.stderr
    assert not (tmp_path / "income" / "build").exists()
