"""Commands on a finished build, as a person types them; what is wrong ends in one sentence and the right exit code."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from fairdeploy.cli import app, cache, main, targets
from fairdeploy.workflow import Build
from tests.conftest import Kiosk

COMMANDS = (
    *("build", "plan", "validate", "doctor", "verify", "judge", "gate", "explain", "compare", "report", "schema"),
    *("compact", "prune", "targets", "targets ls", "targets show", "version", "init", "completion"),
    *("cache", "cache ls", "cache verify", "cache prune"),
)


def test_verify_judges_a_finished_artifact(kiosk: Kiosk, demo: Build, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = demo.folder / "this-host-int8" / "artifact" / "model.onnx"
    assert main(["verify", "-C", str(kiosk.folder), "--artifact", str(artifact), "-t", "this-host-int8", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["verdicts"][0]["status"] == "pass"
    cell = ("metric", "against", "group", "context")
    rates = {tuple(str(one[key]) for key in cell): one for one in document["evidence"]["rates"]}
    sealed = next(one for one in demo.bundles if one.target.id == "this-host-int8")
    for one in sealed.evidence.rates:
        assert rates[one.metric, str(one.against), str(one.group), str(one.context)]["value"] == one.value


def test_verify_refuses_another_precision(kiosk: Kiosk, demo: Build, capsys: pytest.CaptureFixture[str]) -> None:
    fp32 = demo.folder / "references" / "compact.onnx"
    assert main(["verify", "-C", str(kiosk.folder), "--artifact", str(fp32), "-t", "this-host-int8"]) == 4
    assert "asked for int8" in capsys.readouterr().out


def test_verify_of_a_broken_file_is_inconclusive(
    kiosk: Kiosk, demo: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "model.onnx"
    broken.write_bytes((demo.folder / "references" / "compact.onnx").read_bytes()[:1000])
    assert main(["verify", "-C", str(kiosk.folder), "--artifact", str(broken), "-t", "this-host"]) == 4
    assert "exit code 4" in capsys.readouterr().out


@pytest.mark.parametrize("harm", ["swapped", "missing"])
def test_verify_holds_nothing_against_references_that_were_not_sealed(
    kiosk: Kiosk, demo: Build, tmp_path: Path, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    project = tmp_path / "kiosk"
    shutil.copytree(kiosk.folder, project, symlinks=True, ignore=shutil.ignore_patterns(".fairdeploy"))
    references = project / "build" / "latest" / "references"
    artifact = project / "build" / "latest" / "this-host" / "artifact" / "model.onnx"
    if harm == "swapped":
        shutil.copyfile(artifact, references / "dense.onnx")
    else:
        (references / "compact.onnx").unlink()
    assert main(["verify", "-C", str(project), "--artifact", str(artifact), "-t", "this-host"]) == 5
    assert "is not the reference of this build" in capsys.readouterr().err


def test_verify_refuses_to_hold_an_artifact_against_itself(
    kiosk: Kiosk, demo: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project, artifact = tmp_path / "kiosk", demo.folder / "this-host" / "artifact" / "model.onnx"
    shutil.copytree(kiosk.folder, project, ignore=shutil.ignore_patterns(".fairdeploy", "build"))
    arguments = ["--artifact", str(artifact), "--baseline", str(artifact), "-t", "this-host"]
    assert main(["verify", "-C", str(project), *arguments]) == 2
    assert "is the artifact itself" in capsys.readouterr().err


def test_verify_runs_without_torch(kiosk: Kiosk, demo: Build) -> None:
    artifact = demo.folder / "this-host" / "artifact" / "model.onnx"
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from fairdeploy.cli import main\n"
        f"arguments = ['-C', {str(kiosk.folder)!r}, '--artifact', {str(artifact)!r}, '-t', 'this-host']\n"
        "sys.exit(main(['verify', '-q', *arguments]))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_gate_again_with_todays_gates(kiosk: Kiosk, demo: Build, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gate", str(demo.folder), "-C", str(kiosk.folder)]) == 0
    config = kiosk.variant("stricter.yaml", {"gates": {"worst_group_accuracy": {"min": 0.99}}})
    assert main(["gate", str(demo.folder), "-C", str(kiosk.folder), "-c", config]) == 1
    assert "worst" in capsys.readouterr().out


def test_gating_again_gives_the_same_verdict(kiosk: Kiosk, demo: Build, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gate", str(demo.folder), "-C", str(kiosk.folder), "--json"]) == 0
    again = {one["target"]: one for one in json.loads(capsys.readouterr().out)["verdicts"]}
    for bundle in demo.bundles:
        sealed = bundle.verdict.model_dump(mode="json")
        assert again[bundle.target.id]["cells"] == sealed["cells"]


def test_compare_and_report(kiosk: Kiosk, demo: Build, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(demo.folder), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["targets"]) == 3
    assert main(["compare", *(str(bundle.folder) for bundle in demo.bundles[:2])]) == 0
    assert "x86-openvino" not in capsys.readouterr().out
    assert main(["report", str(demo.folder)]) == 0
    assert Path(capsys.readouterr().out.strip()).is_file()


@pytest.mark.parametrize("harm", ["change", "add", "remove", "verdict", "tally"])
def test_a_tampered_bundle_ends_with_5(
    kiosk: Kiosk, demo: Build, tmp_path: Path, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "build"
    shutil.copytree(demo.folder, folder)
    bundle = folder / "this-host"
    if harm == "change":
        (bundle / "artifact" / "model.onnx").write_bytes(b"another")
    elif harm == "add":
        (bundle / "extra.txt").write_text("x")
    elif harm == "remove":
        (bundle / "gates.json").unlink()
    elif harm == "tally":
        shutil.copyfile(folder / "this-host-int8" / "tally-dense.json", bundle / "tally-dense.json")
    else:
        text = (bundle / "verdict.json").read_text()
        (bundle / "verdict.json").write_text(text.replace('"pass"', '"waived"'))
    for command in (["compare", str(folder)], ["report", str(folder)], ["gate", str(folder), "-C", str(kiosk.folder)]):
        assert main(command) == 5
    assert "not what was sealed" in capsys.readouterr().err


def test_plan_after_a_build_says_kept(kiosk: Kiosk, demo: Build, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--icc", "0.01"]  # so that every gate can be proven
    assert main(["plan", "-C", str(kiosk.folder), "-t", "this-host", "--check", "--json", *few]) == 0
    document = json.loads(capsys.readouterr().out)
    assert all(station["kept"] for station in document["stations"])
    assert {row["enough"] for row in document["rows"]} == {True}


def test_plan_names_what_changed(kiosk: Kiosk, demo: Build, capsys: pytest.CaptureFixture[str]) -> None:
    prune = YAML(typ="safe").load((kiosk.folder / "fairdeploy.yaml").read_text())["prune"]
    config = kiosk.variant("rounded.yaml", {"prune": {**prune, "round_to": 4}})
    assert main(["plan", "-C", str(kiosk.folder), "-c", config, "-t", "this-host", "--check"]) == 1
    assert "changed: round_to" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["build", "-C", "nowhere"], 2, "no such file"),
        (["build", "-C", "{kiosk}", "-t", "jetsno"], 2, "did you mean 'jetson'"),
        (["build", "-C", "{kiosk}", "-c", "none.yaml"], 2, "no such file"),
        (["biuld"], 2, "Did you mean"),
        (["build", "--tarqet", "x"], 2, "--target"),
        (["verify", "-C", "{kiosk}", "--artifact", "none.onnx", "-t", "this-host"], 2, "--artifact"),
        (["gate", "nowhere", "-C", "{kiosk}"], 2, "fairdeploy build"),
        (["compare", "nowhere"], 2, "fairdeploy build"),
        (["report", "nowhere"], 2, "fairdeploy build"),
        (["targets", "show", "jetsom"], 2, "did you mean 'jetson'"),
        (["doctor", "-t", "jetsom"], 2, "did you mean 'jetson'"),
    ],
)
def test_mistakes_end_in_one_sentence(
    kiosk: Kiosk, arguments: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([part.format(kiosk=kiosk.folder) for part in arguments]) == code
    captured = capsys.readouterr()
    assert says in captured.err
    assert "Traceback" not in captured.err
    assert not captured.out


def test_every_command_is_listed() -> None:
    names = [name for name in app if not name.startswith("-")]
    below = [f"{one.name[0]} {name}" for one in (targets, cache) for name in one if not name.startswith("-")]
    assert sorted(COMMANDS) == sorted([*names, *below])


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_light(command: str) -> None:
    """No heavy library is imported for help."""
    code = (
        "import sys\nfrom fairdeploy.cli import main\n"
        f"assert main([*{command.split()!r}, '--help']) == 0\n"
        "heavy = {'torch', 'openvino', 'onnxruntime', 'onnx', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "--help" in result.stdout or "Usage" in result.stdout


def test_validate_is_light(kiosk: Kiosk) -> None:
    code = (
        "import sys\nfrom fairdeploy.cli import main\n"
        f"assert main(['validate', '-C', {str(kiosk.folder)!r}]) == 0\n"
        "heavy = {'torch', 'openvino', 'onnxruntime', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_validate_for_ci(kiosk: Kiosk, capsys: pytest.CaptureFixture[str]) -> None:
    config = kiosk.variant("typo.yaml", {"gates": {"true_positve_rate": {"min": 0.5}}})
    assert main(["validate", "-C", str(kiosk.folder), "-c", config, "--output-format", "github"]) == 2
    printed = capsys.readouterr().out
    assert printed.startswith("::error file=")
    assert "true_positive_rate" in printed


def test_doctor_and_targets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["targets"]["this-host"]["state"] == "runs"
    assert document["targets"]["jetson-orin-nano"]["state"] == "simulated only"
    assert main(["doctor", "--strict", "-t", "jetson"]) == 4
    capsys.readouterr()
    assert main(["targets", "show", "this-host-int8", "--json"]) == 0
    values = {one["key"]: one for one in json.loads(capsys.readouterr().out)["values"]}
    assert "this-host-int8.yaml" in values["build.precision"]["origin"]
    assert "this-host.yaml" in values["runtime.backend"]["origin"]
    assert values["measure.runs"]["origin"] == "default"


def test_ctrl_c_ends_with_130_and_leaves_nothing_half_written(kiosk: Kiosk) -> None:
    data = {"import": "kiosk.data:splits", "arguments": {"seed": 9}, "files": ["data/deal.json"]}
    config = kiosk.variant("interrupted.yaml", {"data": data})
    child = subprocess.Popen(
        [sys.executable, "-m", "fairdeploy", "build", "-C", str(kiosk.folder), "-c", config],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )
    time.sleep(6)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "finished stations are kept" in said
    assert not list((kiosk.folder / ".fairdeploy").rglob(".making-*"))


def test_a_crash_in_the_users_code_is_no_verdict(kiosk: Kiosk, capsys: pytest.CaptureFixture[str]) -> None:
    (kiosk.folder / "leaves.py").write_text("import sys\n\n\ndef splits():\n    sys.exit(0)\n")
    config = kiosk.variant("leaves.yaml", {"data": {"import": "leaves:splits"}})
    assert main(["build", "-C", str(kiosk.folder), "-c", config]) in (2, 3)
    (kiosk.folder / "leaves.py").unlink()
    assert "SystemExit" in capsys.readouterr().err


def test_plan_lists_the_cells_that_a_build_had_too_few_rows_for(
    kiosk: Kiosk, demo: Build, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "--build", str(demo.folder), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["too_small"]
    undecided = [
        (bundle.verdict.target, cell.rule, cell.group, cell.rows_needed)
        for bundle in demo.bundles
        for cell in bundle.verdict.cells
        if cell.rows_needed
    ]
    assert all(one["rows_missing"] == one["rows_needed"] - one["rows"] for one in listed if one["rows_needed"])
    assert sorted(map(str, undecided)) == sorted(
        str((one["target"], one["rule"], one["group"], one["rows_needed"])) for one in listed if one["rows_needed"]
    )
    assert main(["plan", "--build", str(demo.folder), "-t", "nothing"]) == 2
    assert "has no target 'nothing'" in capsys.readouterr().err
