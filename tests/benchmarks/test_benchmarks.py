"""Each benchmark runs from its command line on tiny sizes and says what it found; only the numbers need the time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(script, *arguments, results):
    command = [sys.executable, "-W", "error", str(ROOT / "benchmarks" / script), *arguments, f"--results={results}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    name = Path(script).stem
    assert (results / f"{name}.md").read_text() in done.stdout + "\n"
    return json.loads((results / f"{name}.json").read_text())


def test_the_twin_passes_gates_on_gaps_and_fails_paired_ones(tmp_path):
    found = run("adult_twin.py", "--resamples=1", results=tmp_path)
    assert (found["rows"], found["repeats_across"], found["repeats_within"]) == (16253, 23, 29)
    assert (found["gap_gates"], found["paired"]) == ("pass", "fail")
    assert {row["a gate on the gap's change"] for row in found["gaps"]} == {"pass"}
    assert {"everyone", "sex Female", "sex Male"} <= set(found["named"])
    names = ("race Amer-Indian-Eskimo and sex Female", "race Other and sex Female")
    tiny = [row for row in found["cells"] if row["group"] in names]
    assert [(row["positives"], row["verdict"]) for row in tiny] == [("3", "inconclusive"), ("5", "inconclusive")]
    assert {row["fail"] for row in found["itself"]} == {"0"}
    assert (found["itself"][0]["pass"], found["itself"][-1]["pass"]) == ("0", "1")


def test_known_truth_stops_the_harmful_and_goes_on_where_it_stopped(tmp_path):
    found = run("known_truth.py", "--releases=1", "--rows=605", results=tmp_path)
    by_kind = {row["kind"]: row for row in found["rows"]}
    assert by_kind["harmless"]["ours"] != "fail"
    assert by_kind["all levelled down"]["ours"] == "fail"
    assert by_kind["all levelled down"]["fairlearn"] == "pass"
    assert len(found["rows"]) == 6
    again = run("known_truth.py", "--releases=1", "--rows=605", results=tmp_path)
    assert again == found


def test_our_rates_are_fairlearns_and_faster(tmp_path):
    found = run("evidence_speed.py", "--rows=3000", "--groups=3", "--boots=2", results=tmp_path)
    assert found["equal"]
    assert found["largest_difference"] <= 1e-12
    assert len(found["table"]) == 4


def test_a_whole_judgement_is_timed_in_a_process_of_its_own(tmp_path):
    found = run("judge_speed.py", "--rows=400", "--groups=4", "--backends=2", results=tmp_path)
    for one in found["runs"].values():
        assert len(one["verdicts"]) == 2
        assert 20 < one["before_mb"] <= one["peak_mb"]
        assert all(seconds > 0 for seconds in one["seconds"].values())


@pytest.mark.parametrize("name", ["known_truth", "evidence_speed", "judge_speed", "adult_twin"])
def test_tables_are_committed_and_come_with_their_rows(name):
    results = ROOT / "benchmarks" / "results"
    assert json.loads((results / f"{name}.json").read_text())
    assert f"python benchmarks/{name}.py" in (results / f"{name}.md").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits what a process allocates")
def test_data_larger_than_memory_are_streamed(tmp_path):
    """At a tenth of the size; the benchmark itself reads 3 GB within 2."""
    found = run("larger_than_memory.py", "--size-mb=320", "--limit-mb=256", results=tmp_path)
    assert [row["format"] for row in found["rows"]] == ["npz", "imagefolder"]
    assert all(row["inputs, MB"] > row["may allocate, MB"] for row in found["rows"])
