"""``fairdeploy judge``: what it prints, which code it ends with, and that bad input leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fairdeploy.bundle import load_bundle
from fairdeploy.cli import main

EXAMPLE = Path(__file__).parents[2] / "examples" / "adult"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("COLUMNS", "100")

    def run_judge(*arguments: object) -> tuple[int, str, str]:
        code = main(["judge", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run_judge


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 4000)
    sex = rng.choice(["f", "m"], 4000)
    old = np.where(rng.random(4000) < 0.9, label, 1 - label)
    new = np.where((sex == "f") & (label == 1) & (rng.random(4000) < 0.2), 0, old)
    file = tmp_path / "rows.csv"
    columns = {"id": np.arange(4000), "label": label, "prediction": new, "old": old, "sex": sex}
    pd.DataFrame(columns).to_csv(file, index=False)
    return file


@pytest.fixture
def gates(tmp_path: Path) -> Path:
    file = tmp_path / "gates.yaml"
    file.write_text("gates:\n  true_positive_rate: {max_drop: 0.03}\n")
    return file


def test_the_worked_example_passes_on_gaps_and_fails_on_changes(run: Run) -> None:
    told = (EXAMPLE / "predictions.csv", "--groups", "sex", "--gates")
    code, out, _ = run(*told, EXAMPLE / "gates.yaml")
    assert code == 0
    assert "all 2 checks hold" in out
    code, out, _ = run(*told, EXAMPLE / "gates-paired.yaml")
    assert code == 1
    assert "sex Female" in out


def test_a_verdict_then_every_group_with_its_change(run: Run, rows: Path, gates: Path) -> None:
    code, out, err = run(rows, "--groups", "sex", "--reference", "old", "--gates", gates)
    assert (code, err) == (1, "")
    assert "2 checks of 3 failed; worst: the true positive rate of sex f" in out
    assert out.index("Fail") < out.index("True positive rate") < out.index("exit code 1")
    frame = pd.read_csv(rows)
    positives = frame[(frame.label == 1) & (frame.sex == "f")]
    change = 100 * (positives.prediction.mean() - positives.old.mean())
    table = out[out.index("True positive rate ") : out.index("False positive rate ")]
    line = next(line for line in table.splitlines() if "sex f" in line)
    assert f"{100 * positives.prediction.mean():.1f}" in line
    assert f"\u2212{-change:.1f} (" in line


def test_json_holds_every_cell(run: Run, rows: Path, gates: Path) -> None:
    code, out, _ = run(rows, "--groups", "sex", "--reference", "old", "--gates", gates, "--json")
    document = json.loads(out)
    assert (code, document["exit_code"], document["command"]) == (1, 1, "judge")
    assert {str(cell["group"]) for cell in document["verdicts"][0]["cells"]} == {
        "{}", "{'sex': 'f'}", "{'sex': 'm'}"
    }  # fmt: skip
    assert {"accuracy", "true_positive_rate"} <= {rate["metric"] for rate in document["evidence"]["rates"]}
    assert document["predictions"]["references"] == {"reference": "column 'old'"}


def test_without_gates_the_margins_that_are_printed_are_gates_that_can_be_read(
    run: Run, rows: Path, tmp_path: Path
) -> None:
    code, out, _ = run(rows, "--groups", "sex", "--reference", "old", "--label", "label")
    assert code == 4
    proposed = tmp_path / "proposed.yaml"
    proposed.write_text(out[out.index("gates:\n") : out.index("exit code")])
    code, out, _ = run(rows, "--groups", "sex", "--reference", "old", "--gates", proposed)
    assert code == 1
    code, _, _ = run(rows, "--groups", "sex", "--reference", "dense=old", "--gates", proposed)
    assert code == 2
    code, out, _ = run(rows, "--groups", "sex", "--reference", "dense=old")
    assert "against: dense" in out
    code, out, _ = run(rows, "--groups", "sex")
    assert "Changes need a reference" in out


def test_out_writes_a_bundle_that_can_be_read(run: Run, rows: Path, gates: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundles" / "one"
    code, _, _ = run(rows, "--groups", "sex", "--reference", "old", "--gates", gates, "--out", out, "--name", "cam")
    assert code == 1
    assert load_bundle(out).verdict.target == "cam"
    assert not list(out.parent.glob(".sealing*"))
    code, _, err = run(rows, "--groups", "sex", "--out", out)
    assert code == 2
    assert "is there already" in err


def test_columns_levels_contexts_clusters_and_classes_are_named(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    frame = pd.DataFrame(
        {
            "key": range(600), "y": rng.choice(["no", "yes"], 600), "p": rng.random(600),
            "sex": rng.choice(["f", "m"], 600), "race": rng.choice(["a", "b"], 600),
            "site": rng.choice(["s", "t"], 600), "who": np.arange(600) // 3,
        }
    )  # fmt: skip
    frame.to_csv(tmp_path / "rows.csv", index=False, sep=";")
    code, out, _ = run(
        tmp_path / "rows.csv", "--id", "key", "--label", "y", "--positive", "yes", "--score", "p", "--threshold", 0.4,
        "--groups", "sex=f|m|x,race", "--contexts", "site", "--cluster", "who", "--json",
    )  # fmt: skip
    assert code == 4
    document = json.loads(out)
    assert document["predictions"]["classes"] == ["no", "yes"]
    assert document["predictions"]["decision"] == "column 'p' >= 0.4"
    selected = {
        str(rate["group"]): rate for rate in document["evidence"]["rates"]
        if rate["metric"] == "selection_rate" and not rate["context"]
    }  # fmt: skip
    assert selected["{'sex': 'x'}"]["n"] == 0
    assert selected["{}"]["value"] == pytest.approx((frame.p >= 0.4).mean(), abs=1e-12)
    assert selected["{}"]["clusters"] is not None
    assert any(rate["context"] == {"site": "t"} for rate in document["evidence"]["rates"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give at least one file"),
        (["{rows}"], "name with --groups"),
        (["{folder}/none.csv", "--groups", "sex"], "none.csv: no such file"),
        (["{rows}", "--groups", "sx"], "did you mean 'sex'?"),
        (["{rows}", "--groups", "sex,sex"], "name each column once"),
        (["{rows}", "--groups", "sex="], "name each column once"),
        (["{rows}", "--groups", "sex=f"], "at least two different"),
        (["{rows}", "--groups", "sex=f|x"], "rows.csv:3: column 'sex': 'm' is not a declared level"),
        (["{rows}", "--groups", "sex", "--reference", "old", "--reference", "old"], "different names"),
        (["{rows}", "--groups", "sex", "--reference", "dense="], "different names"),
        (["{rows}", "--groups", "sex", "--reference", "prediction"], "cannot be both"),
        (["{rows}", "--groups", "sex", "--gates", "{folder}/none.yaml"], "none.yaml: no such file"),
        (["{rows}", "--groups", "sex", "--gates", "{gates}"], "gates.yaml:2"),
        (["{rows}", "--groups", "sex", "--reference", "old", "--gates", "{rows}"], "rows.csv"),
        (["{rows}", "--groups", "sex", "--threshold", "2"], "threshold"),
        (["{rows}", "{rows}", "--groups", "sex"], "stands at"),
        (["{rows}", "--groups", "id"], "cannot be both id and group"),
        (["{rows}", "--groups", "sex", "--colour", "red"], "colour"),
    ],
)
def test_bad_input_ends_with_2_says_how_to_mend_it_and_leaves_nothing(
    run: Run, rows: Path, gates: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    places = {"rows": rows, "gates": gates, "folder": tmp_path}
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run(*(one.format(**places) for one in arguments), "--out", tmp_path / "bundle")
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before


def test_help_and_a_csv_load_no_runtime_and_no_data_frames(rows: Path) -> None:
    heavy = ("torch", "onnx", "onnxruntime", "openvino", "scipy.stats", "pandas", "pyarrow", "sklearn")
    code = (
        "import sys; from fairdeploy.cli import main; main(sys.argv[1:]); "
        f"print([m for m in {heavy!r} if m in sys.modules], file=sys.stderr)"
    )
    for arguments in (["judge", "--help"], ["judge", str(rows), "--groups", "sex", "--reference", "old"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        assert done.stderr.strip() == "[]"
        assert done.stdout


def test_a_reader_that_goes_away_changes_no_exit_code(rows: Path, gates: Path) -> None:
    command = f"{sys.executable} -m fairdeploy judge {rows} --groups sex --reference old --gates {gates}"
    done = subprocess.run(["bash", "-c", f"{command} | head -1; exit ${{PIPESTATUS[0]}}"], capture_output=True)
    assert (done.returncode, done.stderr) == (1, b"")


def test_bundles_are_compared_against_the_reference_that_they_have(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    frame = pd.read_csv(rows)
    with_reference, without = tmp_path / "with", tmp_path / "without"
    main(["judge", str(rows), "--groups", "sex", "--reference", "old", "--out", str(with_reference)])
    main(["judge", str(rows), "--groups", "sex", "--out", str(without)])
    capsys.readouterr()
    main(["compare", str(with_reference)])
    told = capsys.readouterr().out
    lost = ((frame.old == frame.label) & (frame.prediction != frame.label)).sum()
    assert "gained against reference" in told
    assert "compact" not in told
    assert f"−{lost}, +0" in told
    main(["compare", str(without)])
    assert "gained against" not in capsys.readouterr().out
