"""Explanations of a project whose harm is known: which rows, at which stage, and where they pile up."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from fairdeploy.bundle import load_build
from fairdeploy.cli import main
from fairdeploy.errors import ConfigError, StageError
from fairdeploy.explain import Explanation, explain
from fairdeploy.explain.cell import cell_words
from fairdeploy.line import Line
from fairdeploy.report.steps import next_steps
from fairdeploy.workflow import latest
from tests.explain.conftest import Small

TPR = "true_positive_rate.max_drop.dense"


def ids(folder: Path, rows: np.ndarray) -> set[str]:
    return set(Line(folder).splits(("evaluate",))["evaluate"].rows.ids[rows].tolist())


def of(small: Small, *cell: str, **more: object) -> Explanation:
    return explain(small.folder, cell, devices=small.devices, **more).explanation  # type: ignore[arg-type]


@pytest.mark.parametrize("stage", ["pruned", "quantised", "runtime"])
def test_the_lost_rows_and_their_stage_are_the_true_ones(stage: str, request: pytest.FixtureRequest) -> None:
    small: Small = request.getfixturevalue({"runtime": "degraded"}.get(stage, stage))
    one = of(small, TPR, "group=b")
    assert {flip.trace.id for flip in one.flips} == ids(small.folder, small.lost)
    assert {(flip.direction, flip.stage) for flip in one.flips} == {("lost", stage)}
    assert one.lost == small.lost.sum() > 20
    assert [(s.stage, s.lost, s.gained) for s in one.stages if s.lost or s.gained] == [(stage, one.lost, 0)]
    assert f"{one.lost} of the {one.lost} were lost at '{stage}'" in one.sentence
    light = {share.level: share for share in one.shares if share.axis == "light"}
    assert (light["dim"].flips, light["dim"].rows, light["dim"].share_of_rows) == (one.lost, 50, 0.5)
    assert light["bright"].flips == 0
    assert one.flip_clusters == len({flip.trace.cluster for flip in one.flips})
    assert (one.rows, one.clusters) == (100, 20)


def test_the_worst_cell_is_the_default(pruned: Small) -> None:
    one = of(pruned)
    assert one.cell.status == "fail"
    assert one.cell.group == {"group": "b"}
    assert one.lost == pruned.lost.sum()


def test_the_reports_next_step_is_the_command_for_its_worst_cell(
    pruned: Small, capsys: pytest.CaptureFixture[str]
) -> None:
    _, (bundle,) = load_build(latest(pruned.folder))
    step, *_ = next_steps(bundle, flags=f"-C {pruned.folder}")
    assert main([*shlex.split(step.commands[0])[1:], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["explanation"]["cell"] == of(pruned).cell.model_dump(mode="json")


def test_a_group_that_was_not_harmed_has_no_flips(pruned: Small) -> None:
    one = of(pruned, TPR, "group=a")
    assert one.cell.status != "fail"
    assert (one.flips, one.shares, one.lost) == ((), (), 0)
    assert "none was lost after 'dense'" in one.sentence


def test_a_change_against_compact_starts_at_the_exported_network(pruned: Small, quantised: Small) -> None:
    assert of(pruned, "true_positive_rate.max_drop.compact", "group=b").lost == 0
    one = of(quantised, "true_positive_rate.max_drop.compact", "group=b")
    assert one.reference == "exported"
    assert [stage.stage for stage in one.stages] == ["quantised", "runtime"]
    assert one.lost == quantised.lost.sum()


@pytest.mark.parametrize(
    ("rule", "harm", "lost"),
    [
        ("equalized_odds_difference.max", "lost", True),
        ("demographic_parity_difference.max", "any", True),
        ("accuracy.min", "lost", True),
        ("flip_rate.max.dense", "any", True),
        ("false_positive_rate.max_increase.dense", "gained", False),
    ],
)
def test_every_kind_of_gate_counts_its_own_rows(pruned: Small, rule: str, harm: str, lost: bool) -> None:
    one = of(pruned, rule)
    assert one.harm == harm
    assert {flip.trace.id for flip in one.flips} == (ids(pruned.folder, pruned.lost) if lost else set())


@pytest.mark.parametrize(
    ("rule", "cell", "counts"),
    [
        ("predictive_parity_difference.max", (), "predicted rightly, of all rows"),
        ("balanced_accuracy_difference.max", (), "predicted rightly, of all rows"),
        ("equalized_odds_ratio.min", (), "predicted rightly, of all rows"),
        ("equal_opportunity_difference.max_increase.dense", (), "predicted service, of rows labelled service"),
        ("positive_predictive_value.min", ("group=b",), "predicted rightly, of all rows"),
        ("f1_score.max_drop.dense", ("group=b",), "predicted rightly, of all rows"),
        ("area_under_curve.min", ("group=b",), "predicted rightly, of all rows"),
        ("true_positive_rate_excess_drop.max.dense", ("group=b",), "predicted service, of rows labelled service"),
        ("true_positive_rate.max_ratio.dense", ("group=b",), "predicted service, of rows labelled service"),
        ("accuracy.max_drop.dense.within light", ("group=b", "light=dim"), "predicted rightly, of all rows"),
    ],
)
def test_gates_on_statistics_ratios_and_contexts_are_explained(
    many_gates: Small, rule: str, cell: tuple[str, ...], counts: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", rule, *cell, "-C", str(many_gates.folder)]) == 0
    assert "50 were lost at 'pruned'" in " ".join(capsys.readouterr().out.split())
    one = of(many_gates, rule, *cell)
    assert one.counts == counts
    assert one.harm == "lost"
    assert {flip.trace.id for flip in one.flips} == ids(many_gates.folder, many_gates.lost)
    assert one.advice or one.cell.status == "pass"


def test_the_counts_are_those_of_the_evidence(degraded: Small) -> None:
    """Lost and gained of every gated change, as `judge` counted them from the tallies."""
    _, (bundle,) = load_build(latest(degraded.folder))
    changes = {(c.metric, c.against, str(c.group)): c for c in bundle.evidence.changes if not c.context}
    checked = 0
    for cell in bundle.verdict.cells:
        change = changes.get((cell.metric, cell.against, str(cell.group)))
        if change is None or cell.condition not in ("max_drop", "max_increase"):
            continue
        one = of(degraded, cell.rule, *cell_words(cell).split())
        assert (one.rows, one.lost, one.gained) == (change.n, change.lost, change.gained)
        checked += 1
    assert checked >= 9


def test_rows_that_were_wrong_before_are_told_apart(pruned: Small) -> None:
    one = of(pruned, "accuracy.min", "group=b")
    assert (one.rows, one.lost, one.wrong_before) == (200, 50, 0)


def test_the_surest_comes_first_and_the_list_can_be_cut(degraded: Small) -> None:
    everything = of(degraded, TPR, "group=b").flips
    sure = [flip.trace.points[-1].confidence for flip in everything]
    assert sure == sorted(sure, reverse=True)
    assert of(degraded, TPR, "group=b", samples=3).flips == everything[:3]


def test_one_row_is_traced_through_all_stages(quantised: Small) -> None:
    line = Line(quantised.folder)
    rows = line.splits(("evaluate",))["evaluate"].rows
    lost, kept = rows.ids[quantised.lost][0], rows.ids[~quantised.lost][0]
    asked = of(quantised, TPR, "group=b", sample=str(lost)).asked
    assert asked is not None
    assert [point.stage for point in asked.trace.points] == ["dense", "exported", "quantised", "runtime"]
    assert [point.predicted for point in asked.trace.points] == ["service", "service", "passing", "passing"]
    assert asked.trace.changed_at == ("quantised",)
    assert (asked.flip, asked.stage, asked.in_cell) == ("lost", "quantised", True)
    for point in asked.trace.points:
        assert (point.score >= 0.5) == (point.predicted == "service")
        assert point.confidence == pytest.approx(max(point.score, 1 - point.score), abs=1e-6)
    other = of(quantised, TPR, "group=b", sample=str(kept)).asked
    assert other is not None
    assert (other.flip, other.trace.changed_at, other.in_cell) == (None, (), False)


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ("pruned", ("prune.keep.macs is 0.8", "prune.recover.epochs is 0", "16 of 32 rows in train", "balanced")),
        ("quantised", ("calibration of this-host-int8 is group-balanced", "natural", "16 of 32 rows in calibrate")),
        ("degraded", ("really ran", "fp32 was asked for")),
    ],
)
def test_advice_fits_the_stage_and_names_facts(
    stage: str, said: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    text = " ".join(step.text for step in of(request.getfixturevalue(stage), TPR, "group=b").advice)
    for part in said:
        assert part in text
    assert ("prune.keep" in text) == (stage == "pruned")
    assert ("calibration" in text) == (stage == "quantised")


def test_a_simulated_target_is_explained_as_one(simulated: Small) -> None:
    one = of(simulated, TPR, "group=b", target="jetson")
    assert one.simulated
    assert (one.cell.status, one.cell.forecast) == ("inconclusive", "fail")
    assert {flip.trace.id for flip in one.flips} == ids(simulated.folder, simulated.lost)
    assert {flip.stage for flip in one.flips} == {"quantised"}
    assert "measured at level simulated" in one.advice[0].text
    assert one.advice[0].command == f"fairdeploy doctor -C {simulated.folder} -t jetson-orin-nano"


def test_a_cell_that_passes_or_would_pass_needs_no_mending(pruned: Small, simulated: Small) -> None:
    _, (bundle,) = load_build(latest(pruned.folder))
    passed = next(cell for cell in bundle.verdict.cells if cell.status == "pass" and cell.unit == "rate")
    assert of(pruned, passed.rule, *cell_words(passed).split()).advice == ()
    _, (bundle,) = load_build(latest(simulated.folder))
    would = next(cell for cell in bundle.verdict.cells if cell.forecast == "pass")
    (only,) = of(simulated, would.rule, *cell_words(would).split()).advice
    assert "measured at level simulated" in only.text


def test_a_cell_without_flips_blames_no_stage(degraded: Small) -> None:
    one = of(degraded, "false_positive_rate.max_increase.dense", "group=b")
    assert (one.cell.status, one.lost, one.gained) == ("inconclusive", 0, 0)
    assert all("really ran" not in step.text for step in one.advice)


def test_too_few_rows_say_how_many_are_missing(pruned: Small) -> None:
    _, (bundle,) = load_build(latest(pruned.folder))
    short = next(cell for cell in bundle.verdict.cells if cell.rows_needed and cell.n and cell.rows_needed > cell.n)
    text = " ".join(step.text for step in of(pruned, short.rule, *cell_words(short).split()).advice)
    assert f"Add {(short.rows_needed or 0) - (short.n or 0):,} rows" in text
    assert "new clusters" in text


def test_a_failed_target_says_its_last_words(crashed: Small, capsys: pytest.CaptureFixture[str]) -> None:
    one = of(crashed, sample="evaluate-0000")
    assert one.failure is not None
    assert one.flips == ()
    assert one.asked is not None
    assert [point.stage for point in one.asked.trace.points] == ["dense", "exported"]
    assert main(["explain", "-C", str(crashed.folder)], with_devices=crashed.devices) == 0
    assert "signal 11" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["true_positive_rate.max_drop.dens"], f"did you mean '{TPR}'"),
        ([TPR, "group=c"], "did you mean 'group="),
        ([TPR, "b"], "attribute=level"),
        (["latency_p90_ms.max"], "not about predictions"),
        (["--sample", "evaluate-00000"], "did you mean 'evaluate-0000'"),
        (["-t", "this-hos"], "did you mean 'this-host'"),
        (["--samples", "0"], "samples"),
    ],
)
def test_unknown_names_end_with_2_and_the_nearest(
    pruned: Small, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", *arguments, "-C", str(pruned.folder)]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""


@pytest.fixture
def copy(pruned: Small, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pruned.folder, tmp_path / "small", symlinks=True))


@pytest.mark.parametrize("station", ["data", "export", "predictions"])
def test_what_is_no_longer_in_the_store_is_named_with_the_command(
    copy: Path, station: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(copy / ".fairdeploy" / "store" / station)
    assert main(["explain", "-C", str(copy)]) == 3
    said = capsys.readouterr().err
    assert f"{station}[" in said
    assert f"fairdeploy build -C {copy} -t this-host" in said


def test_nothing_is_run_and_nothing_is_written(copy: Path) -> None:
    before = {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()}
    explain(copy)
    after = {file: file.read_bytes() for file in copy.rglob("*") if file.is_file() and file.suffix != ".lock"}
    assert {file: content for file, content in before.items() if file.suffix != ".lock"} == after


def test_changed_data_are_not_taken_for_those_of_the_build(copy: Path) -> None:
    file = copy / "rows.py"
    file.write_text(file.read_text() + "\n# another\n")
    with pytest.raises(StageError, match="changed: code"):
        explain(copy)


def test_predictions_of_another_device_are_not_those_of_the_build(pruned: Small, degraded: Small) -> None:
    """The store has this host's predictions under the same data and network; the build was judged on the fake's."""
    Line(degraded.folder)
    with pytest.raises(StageError, match="no longer has|not those"):
        explain(degraded.folder)


def test_a_build_of_another_project_is_refused(copy: Path) -> None:
    file = copy / "fairdeploy.yaml"
    file.write_text(file.read_text().replace("name: small", "name: other"))
    with pytest.raises(ConfigError, match="project 'small', not 'other'"):
        explain(copy)


def test_without_a_build_the_command_is_named(copy: Path) -> None:
    shutil.rmtree(copy / "build")
    with pytest.raises(ConfigError, match="run 'fairdeploy build'"):
        explain(copy)


def test_json_has_everything_but_pictures(pruned: Small, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", TPR, "group=b", "--json", "-C", str(pruned.folder)]) == 0
    text = capsys.readouterr().out
    found = json.loads(text)
    assert found["command"] == "explain"
    assert Explanation.model_validate(found["explanation"]) == of(pruned, TPR, "group=b")
    assert len(found["explanation"]["flips"]) == 50
    assert "data:image" not in text


def test_the_terminal_shows_24_rows_and_how_many_there_are(pruned: Small, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", TPR, "group=b", "-C", str(pruned.folder)]) == 0
    text = capsys.readouterr().out
    assert text.count("lost at pruned") == 24
    assert "24 of 50 shown" in text
    assert "50 of the 50 were lost at 'pruned'" in " ".join(text.split())
