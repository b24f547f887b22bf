"""The example's files are what its script makes, and its commands say what its README says."""

import csv
import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "adult"


@pytest.fixture(scope="module")
def twin():
    spec = importlib.util.spec_from_file_location("adult_twin_example", EXAMPLE / "twin.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_the_predictions_are_those_that_the_script_makes(twin, tmp_path):
    adult = twin.load()
    assert (adult.repeats_across, adult.repeats_within, len(adult.labels)) == (23, 29, 48_842 - 52)
    twin.write(twin.predictions(adult), tmp_path / "predictions.csv")
    made, shipped = ((folder / "predictions.csv").read_bytes() for folder in (tmp_path, EXAMPLE))
    assert hashlib.sha256(made).digest() == hashlib.sha256(shipped).digest()


def test_no_row_stands_twice_and_none_of_test_in_train(twin):
    columns = twin.load().columns
    rows = list(zip(*(columns[name] for name in columns if name not in ("id", "official_split")), strict=True))
    assert len(set(rows)) == len(rows)


def test_the_twin_only_takes_away_and_every_gap_shrinks():
    with (EXAMPLE / "predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    label, before, after = (np.array([int(row[name]) for row in rows]) for name in ("label", "reference", "prediction"))
    female = np.array([row["sex"] == "Female" for row in rows])
    assert (before >= after).all()
    assert (before > after).sum() == 213
    for inside in (label == 1, label == 0, label >= 0):
        gaps = [which[inside & ~female].mean() - which[inside & female].mean() for which in (before, after)]
        assert 0 < gaps[1] < gaps[0]


@pytest.mark.parametrize(("gates", "code", "failed"), [("gates.yaml", 0, 0), ("gates-paired.yaml", 1, 3)])
def test_the_commands_of_the_readme(gates, code, failed):
    command = [sys.executable, "-m", "fairdeploy", "judge", "predictions.csv", "--groups", "sex", "--gates", gates]
    assert " ".join(command[2:])[len("fairdeploy ") :] in (EXAMPLE / "README.md").read_text()
    done = subprocess.run([*command, "--json"], cwd=EXAMPLE, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    (verdict,) = json.loads(done.stdout)["verdicts"]
    cells = verdict["cells"]
    assert sum(cell["status"] == "fail" for cell in cells) == failed
    assert all(cell["group"].get("sex") != "*" or cell["status"] == "pass" for cell in cells)
