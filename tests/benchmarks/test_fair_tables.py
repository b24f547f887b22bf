"""Rows are kept whole, and what the tables and the plot show is what the rows hold."""

import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import fair_data
import fair_evaluate
from fair_data import Split
from fair_plot import plot
from fair_tables import Store, mean, report, rows_of, settings

from fairdeploy.errors import DataError

HARM = {"dense": 0.3, "strong control": 2.0, "bilevel & fair": 0.2}
PAIRS = [("bilevel & fair", "strong control")]


def run(method, seed, *, task="kiosk", keep=0.1, epochs=2, **more):
    return {"task": task, "seed": seed, "method": method, "keep": keep, "epochs": epochs, **more}


def rows_for(task, *, seeds=3, settings=((0.2, 7), (0.1, 2))):
    found = []
    for seed in range(seeds):
        random = np.random.default_rng(seed)
        scene = np.repeat(np.arange(60), 5)
        labels = scene % 2
        groups = np.where((labels == 1) | (task == "kiosk"), np.tile(np.arange(5), 60), -1)
        split = Split(np.zeros(300), labels, groups, 2 * random.integers(0, 20, 60)[scene] + labels, scene)
        z = {
            name: 3 * labels - 1.5 - harm * (groups == 4) * labels + random.normal(size=300)
            for name, harm in HARM.items()
        }
        scores = {name: 1 / (1 + np.exp(-value)) for name, value in z.items()}
        made = fair_evaluate.records(scores, split, fair_data.task(task), dense="dense")
        costs = {"macs": 1000, "parameters": 77522, "latency_ms": 0.05}
        found.append(run("dense", seed, task=task, keep=1, epochs=0, seconds=9.0, **costs, **made["dense"]))
        for keep, epochs in settings:
            for method, seconds in (("strong control", 10.0 + seed), ("bilevel & fair", 15.0 + 1.5 * seed)):
                found.append(
                    run(method, seed, task=task, keep=keep, epochs=epochs, seconds=seconds, **costs, **made[method])
                )
    return found


@pytest.fixture(scope="module")
def rows():
    return rows_for("kiosk")


@pytest.fixture(scope="module")
def presence():
    return rows_for("presence")


def table_with(text, title):
    """Return the lines of the first table with this column, as dicts."""
    block = next(one for one in text.split("\n\n") if one.startswith("|") and f"| {title} " in one.splitlines()[0])
    head, _, *lines = (line[2:-2].split(" | ") for line in block.splitlines())
    return [dict(zip(head, line, strict=True)) for line in lines]


def test_rows_are_kept_and_known_again(tmp_path):
    store = Store(tmp_path / "results" / "rows.jsonl")
    assert store.rows() == []
    store.append([run("strong control", 0, accuracy=0.9), run("strong control", 1)])
    Store(store.path).append([run("control", 0)])
    assert [row["method"] for row in store.rows()] == ["strong control", "strong control", "control"]
    assert store.rows()[0]["accuracy"] == 0.9
    assert store.done("kiosk", 0, "strong control", 0.1, 2)
    assert not store.done("kiosk", 0, "strong control", 0.1, 7)
    assert [path.name for path in store.path.parent.iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (run("strong control", 0), "there is a row of .* already"),
        ({"task": "kiosk", "seed": 3}, "a row without method, keep, epochs"),
        (run("strong control", 3, accuracy=float("nan")), "not JSON compliant"),
    ],
)
def test_rows_that_cannot_be_kept_leave_the_file_as_it_was(tmp_path, wrong, says):
    store = Store(tmp_path / "rows.jsonl")
    store.append([run("strong control", 0)])
    before = store.path.read_bytes()
    with pytest.raises((DataError, ValueError), match=says):
        store.append([run("strong control", 1), wrong])
    assert store.path.read_bytes() == before


def test_a_row_given_twice_at_once_is_refused(tmp_path):
    store = Store(tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match="already"):
        store.append([run("strong control", 0), run("strong control", 0)])
    assert not store.path.exists()


@pytest.mark.parametrize("line", ['{"task": "kio', "[]", '{"task": "kiosk"}'])
def test_a_line_that_is_no_row_is_named(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(run("strong control", 0)) + "\n" + line + "\n")
    with pytest.raises(DataError, match=r"rows.jsonl, line 2: .*delete the line"):
        Store(path).rows()


def test_the_dense_networks_stand_in_every_setting(rows):
    assert settings(rows) == [("kiosk", 0.2, 7), ("kiosk", 0.1, 2)]
    for setting in settings(rows):
        found = rows_of(rows, setting)
        assert {method: len(own) for method, own in found.items()} == dict.fromkeys(HARM, 3)


def test_a_table_shows_means_over_seeds_beside_what_an_equal_network_shows(rows):
    text = report(rows, [])
    assert re.findall("^## .*", text, re.MULTILINE) == ["## kiosk, keep 0.2, 7 epochs", "## kiosk, keep 0.1, 2 epochs"]
    shown = {line["method"]: line for line in table_with(text, "EO")}
    for method in HARM:
        own = [row for row in rows if row["method"] == method]
        equal = mean(own, "equalized_odds_difference if equal")
        assert shown[method]["EO"] == f"{100 * mean(own, 'equalized_odds_difference'):.1f} ({100 * equal:.1f})"
        assert shown[method]["accuracy"] == f"{100 * mean(own, 'accuracy'):.1f}"
        assert shown[method]["parameters"] == "77,522"
    groups = {line["method"]: line for line in table_with(text, "TPR VI")}
    assert (
        groups["strong control"]["TPR VI"]
        == f"{100 * mean([r for r in rows if r['method'] == 'strong control'], 'tpr:VI'):.1f}"
    )


def test_cost_is_relative_to_one_method_on_the_same_seeds(rows):
    shown = {line["method"]: line["cost"] for line in table_with(report(rows, []), "EO")}
    assert shown == {"dense": "", "strong control": "1.00", "bilevel & fair": "1.50"}
    without = [row for row in rows if (row["method"], row["seed"]) != ("strong control", 2)]
    shown = {line["method"]: line.get("cost") for line in table_with(report(without, []), "EO")}
    assert shown == {"dense": "", "strong control": "1.00", "bilevel & fair": ""}


def test_what_is_not_defined_has_no_column(presence):
    text = report(presence, PAIRS)
    assert "TPR gap" in text
    for title in ("EO", "DP", "FPR VI"):
        assert f"| {title} " not in text
    assert ": EO |" not in text


def test_named_methods_are_compared_with_both_intervals(rows):
    shown = table_with(report(rows, PAIRS), "difference")
    (line,) = [one for one in shown if one["difference"] == "bilevel & fair − strong control: worst TPR"]
    arms = ([r for r in rows if r["method"] == m and r["keep"] == 0.2] for m in (*PAIRS[0], "dense"))
    arms = [*arms][:2] + [[row for row in rows if row["method"] == "dense"]]
    made = fair_evaluate.compare(*arms, task=fair_data.task("kiosk"))["worst_true_positive_rate"]
    assert line["mean"] == f"{100 * made.difference:+.2f}"
    assert line["over clusters"] == f"[{100 * made.clusters[0]:+.2f}, {100 * made.clusters[1]:+.2f}]"
    assert line["over seeds"] == f"[{100 * made.over_seeds[0]:+.2f}, {100 * made.over_seeds[1]:+.2f}]"
    assert (line["clear of 0"], made.clear) == ("yes", True)
    assert sum("accuracy " in one["difference"] for one in shown) == 5
    (auc,) = [one for one in shown if one["difference"].endswith("worst AUC")]
    assert (auc["over clusters"], auc["clear of 0"]) == ("", "no")


def test_only_seeds_that_both_have_are_compared(rows):
    fewer = [row for row in rows if (row["method"], row["seed"]) != ("strong control", 2)]
    assert {line["seeds"] for line in table_with(report(fewer, PAIRS), "difference")} == {"2"}
    assert "difference" not in report([row for row in rows if row["method"] != "strong control"], PAIRS)


def test_a_comparison_without_the_dense_network_is_refused(rows):
    with pytest.raises(DataError, match="kiosk: no row of the dense network for seed 1"):
        report([row for row in rows if (row["method"], row["seed"]) != ("dense", 1)], PAIRS)


def test_the_plot_shows_each_setting_and_method_and_says_so(rows):
    drawn = ElementTree.fromstring(plot(rows, "kiosk"))
    tag = "{http://www.w3.org/2000/svg}"
    assert drawn.get("role") == "img"
    assert drawn.find(f"{tag}title").text == "kiosk: accuracy against EO, percent"
    said = drawn.find(f"{tag}desc").text
    own = [row for row in rows if row["method"] == "strong control"]
    gap, accuracy = (100 * mean(own, name) for name in ("equalized_odds_difference", "accuracy"))
    assert f"keep 0.1, 2 epochs, strong control: {gap:.1f}, {accuracy:.1f}" in said
    panels = drawn.findall(f"{tag}g")
    assert len(panels) == 2
    for panel in panels:
        texts = [one.text for one in panel.iter(f"{tag}text")]
        assert {"EO, %", "accuracy, %", *HARM} <= set(texts)
        at = {c.get("fill"): float(c.get("cx")) for c in panel.iter(f"{tag}circle")}
        assert len(at) == len(HARM)
        assert at["#0072b2"] > at["#d55e00"]  # strong control has the larger gap


def test_labels_do_not_cover_each_other_and_stay_in_the_picture(rows):
    crowd = [
        {**row, "method": f"method {number}"}
        for number in range(14)
        for row in rows
        if row["method"] == "strong control"
    ]
    drawn = ElementTree.fromstring(plot(crowd, "kiosk"))
    tag = "{http://www.w3.org/2000/svg}"
    for panel in drawn.findall(f"{tag}g"):
        heights = sorted(float(t.get("y")) for t in panel.iter(f"{tag}text") if t.text.startswith("method"))
        assert len(heights) == 14
        assert np.diff(heights).min() >= 14.9
        assert heights[-1] <= 330


def test_presence_is_drawn_by_its_true_positive_rates(presence):
    assert "accuracy against TPR gap" in plot(presence, "presence")


def test_nothing_to_plot_is_refused(rows):
    with pytest.raises(DataError, match="no rows of the task 'adult' to plot"):
        plot(rows, "adult")
    with pytest.raises(DataError, match="no rows of the task 'kiosk' to plot"):
        plot([row for row in rows if row["method"] == "dense"], "kiosk")
