import subprocess
import sys
import time

import numpy as np
import pytest

from fairdeploy.errors import BackendError, DataError
from fairdeploy.evidence import Schema, Tally, judge, metrics
from fairdeploy.evidence.records import EvidenceRecord
from fairdeploy.evidence.statistics import STATISTICS

FACTS = {
    "target": "here", "level": "device", "level_reason": "this host", "artifact_digest": "a" * 64,
    "spec_digest": "b" * 64, "data_fingerprint": "c" * 64, "reference_digests": {"dense": "d" * 64},
    "requested_precision": "int8", "seed": 3,
}  # fmt: skip
COUNTS = {
    ("a", 1, 1, 1): 90,
    ("a", 1, 1, 0): 8,
    ("a", 1, 0, 1): 2,
    ("a", 0, 0, 0): 60,
    ("b", 1, 1, 1): 40,
    ("b", 0, 0, 0): 40,
}


def find(records, **wanted):
    (one,) = [r for r in records if all(getattr(r, name) == value for name, value in wanted.items())]
    return one


def test_rates_changes_and_gaps_are_what_the_counts_say(tally_of):
    record = judge(tallies={"dense": tally_of(COUNTS)}, **FACTS).record
    rate = find(record.rates, metric="true_positive_rate", group={"g": "a"})
    assert (rate.n, rate.value, rate.clusters) == (100, 0.92, None)
    assert rate.interval.method == "Wilson"
    assert rate.interval.lower < 0.92 < rate.interval.upper
    change = find(record.changes, metric="true_positive_rate", group={"g": "a"}, against="dense")
    assert (change.lost, change.gained, change.n) == (8, 2, 100)
    assert (change.reference, change.deployed, change.change) == (0.98, 0.92, -0.06)
    assert change.interval.lower < -0.06 < change.interval.upper < 0.01
    gap = find(record.gaps, metric="equal_opportunity_difference", attribute="g")
    assert gap.value == pytest.approx(0.08)
    assert (gap.highest, gap.lowest) == ("b", "a")
    assert {rate.metric for rate in record.rates} == {*metrics.RATES, *metrics.FLIPS, *STATISTICS}
    assert {one.metric for one in record.gaps} == set(metrics.GAPS)


def test_a_declared_group_without_rows_is_listed_and_unknown_is_not(tally_of):
    record = judge(tallies={"dense": tally_of(COUNTS, levels=("a", "b", "z"))}, **FACTS).record
    empty = find(record.rates, metric="accuracy", group={"g": "z"})
    assert (empty.n, empty.value, empty.interval) == (0, None, None)
    assert find(record.changes, metric="accuracy", group={"g": "z"}).change is None
    assert find(record.gaps, metric="accuracy_difference").undefined == ("z",)
    assert {"g": "unknown"} not in [rate.group for rate in record.rates]
    missing = judge(tallies={"dense": tally_of({**COUNTS, ("", 1, 1, 1): 1})}, **FACTS).record
    assert find(missing.rates, metric="accuracy", group={"g": "unknown"}).n == 1


def people(n, seed=0, flip=0.02, clustered=True):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, n)
    dense = np.where(rng.random(n) < 0.93, label, 1 - label)
    schema = Schema(
        attributes={"tone": ("I-II", "III", "IV", "V", "VI"), "sex": ("F", "M")},
        contexts={"light": ("back", "day", "dim")}, classes=("no", "yes"), clustered=clustered,
    )  # fmt: skip
    columns = {
        "ids": np.arange(n),
        "labels": label,
        "attributes": {name: rng.choice(schema.levels(name)[:-1], n) for name in schema.attributes},
        "contexts": {"light": rng.choice(schema.levels("light")[:-1], n)},
        "clusters": np.arange(n) // 5 if clustered else None,
    }
    return lambda: Tally.count(
        schema, reference=dense, deployed=np.where(rng.random(n) < flip, 1 - dense, dense), **columns
    )


def test_intersections_and_contexts_have_cells_of_their_own():
    record = judge(tallies={"dense": people(2000)()}, stages={"pruned": people(2000)()}, **FACTS).record
    cells = [(rate.group, rate.context) for rate in record.rates if rate.metric == "accuracy"]
    assert ({}, {}) in cells
    assert ({"tone": "VI", "sex": "F"}, {}) in cells
    assert ({"tone": "VI"}, {"light": "dim"}) in cells
    assert ({}, {"light": "dim"}) in cells
    assert len(cells) == 1 + 5 + 2 + 10 + 3 * (1 + 5 + 2)
    (stage,) = record.stages
    assert {(len(rate.group), len(rate.context)) for rate in stage.rates} == {(0, 0), (1, 0)}
    assert all(rate.clusters > 10 for rate in record.rates if not rate.context)


def test_the_same_input_gives_the_same_bytes_and_survives_json():
    first, again = (
        judge(tallies={"dense": people(500, 1)()}, latencies_ms=[1.0] * 20, **FACTS).record for _ in range(2)
    )
    assert first.digest == again.digest
    assert EvidenceRecord.model_validate_json(first.model_dump_json()) == first


def test_forty_thousand_rows_are_judged_within_a_second():
    make = people(40_000)
    tally = make()
    stages = dict.fromkeys(("dense", "pruned", "compact", "exported", "quantised", "runtime"), tally)
    start = time.process_time()
    judge(tallies={"dense": tally, "compact": tally}, stages=stages, latencies_ms=np.linspace(1, 2, 500), **FACTS)
    assert time.process_time() - start < 2  # about 0.7 s here; slack for slower machines


def test_many_classes_have_what_needs_no_positive_class(tally_of):
    record = judge(
        tallies={"dense": tally_of({("a", 2, 2, 1): 3, ("b", 0, 0, 0): 3}, classes=("x", "y", "z"))}, **FACTS
    ).record
    assert {rate.metric for rate in record.rates} == {"accuracy", "flip_rate", "balanced_accuracy"}
    assert [gap.metric for gap in record.gaps] == [
        "accuracy_difference",
        "balanced_accuracy_difference",
        "accuracy_ratio",
    ]


def test_latency_is_stated_from_order_statistics():
    samples = np.random.default_rng(0).permutation(np.arange(1, 501)) / 100
    latency = judge(
        latencies_ms=samples, reference_latencies_ms={"dense": samples * 2}, threads=2, **FACTS
    ).record.latency
    assert (latency.runs, latency.threads) == (500, 2)
    assert latency.percentiles == {"p50": 2.5, "p90": 4.5, "p99": 4.95}
    assert latency.intervals["p90"].lower < 4.5 < latency.intervals["p90"].upper
    assert latency.samples_ms == tuple(samples)
    assert latency.intervals["p90"].method == "order statistics, runs correlated"


@pytest.mark.parametrize("bad", [[], [1.0, float("nan")], [1.0, float("inf")], [-1.0]])
def test_impossible_latencies_are_refused(bad):
    with pytest.raises(BackendError, match="latencies"):
        judge(latencies_ms=bad, **FACTS)


def test_tallies_of_different_artifacts_are_refused(tally_of):
    other = {**COUNTS, ("b", 1, 1, 1): 39, ("b", 1, 1, 0): 1}
    with pytest.raises(DataError, match="not of the same rows"):
        judge(tallies={"dense": tally_of(COUNTS), "compact": tally_of(other)}, **FACTS)
    with pytest.raises(DataError, match="not of the same rows"):
        judge(tallies={"dense": tally_of(COUNTS), "compact": tally_of(COUNTS, levels=("b", "a"))}, **FACTS)


def test_references_may_differ_when_the_artifact_is_the_same():
    n, rng = 300, np.random.default_rng(0)
    label, deployed, one, two = rng.integers(0, 2, (4, n))
    schema = Schema(attributes={"g": ("a", "b")}, contexts={}, classes=("no", "yes"))
    columns = {
        "ids": np.arange(n),
        "labels": label,
        "attributes": {"g": np.array(["a", "b"] * 150)},
        "contexts": {},
        "clusters": None,
        "deployed": deployed,
    }
    tallies = {
        "dense": Tally.count(schema, reference=one, **columns),
        "compact": Tally.count(schema, reference=two, **columns),
    }
    assert judge(tallies=tallies, **FACTS).record.tally_digests == {
        name: tally.digest for name, tally in tallies.items()
    }


def test_importing_evidence_stays_light():
    code = "import sys, fairdeploy.gates; print([m for m in ('scipy', 'pandas', 'torch', 'onnx') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_only_what_did_not_flip_can_be_the_references_own_file(tally_of):
    same = {key: count for key, count in COUNTS.items() if key[2] == key[3]}
    record = judge(tallies={"dense": tally_of(same)}, identical_to=("dense",), **FACTS).record
    assert record.identical_to == ("dense",)
    with pytest.raises(DataError, match="10 of its predictions differ"):
        judge(tallies={"dense": tally_of(COUNTS)}, identical_to=("dense",), **FACTS)


def test_the_references_own_file_needs_a_tally_against_it(tally_of):
    same = tally_of({key: count for key, count in COUNTS.items() if key[2] == key[3]})
    with pytest.raises(
        DataError, match=r"names the compact network, but there is no tally against it \(there is: dense"
    ):
        judge(tallies={"dense": same}, identical_to=("compact",), **FACTS)
    with pytest.raises(DataError, match="there is: none"):
        judge(identical_to=("dense",), **FACTS)


@pytest.mark.parametrize(
    ("stage", "counts"),
    [
        ("pruned", {**COUNTS, ("b", 0, 0, 0): 41}),
        ("pruned", {**COUNTS, ("a", 1, 1, 1): 88, ("a", 1, 0, 1): 4}),
        ("runtime", {**COUNTS, ("a", 1, 1, 1): 91, ("a", 1, 1, 0): 7}),
    ],
)
def test_a_stage_of_other_rows_other_dense_predictions_or_another_artifact_is_refused(tally_of, stage, counts):
    """Another number of rows; the dense network right in fewer; at the runtime another prediction of the artifact."""
    tallies = {"dense": tally_of(COUNTS)}
    assert judge(tallies=tallies, stages={stage: tally_of(COUNTS)}, **FACTS).record.stages
    with pytest.raises(DataError, match=f"stage '{stage}' is not of the rows"):
        judge(tallies=tallies, stages={stage: tally_of(counts)}, **FACTS)


def test_another_prediction_at_an_earlier_stage_is_what_stages_are_for(tally_of):
    other = tally_of({**COUNTS, ("a", 1, 1, 1): 91, ("a", 1, 1, 0): 7})
    (stage,) = judge(tallies={"dense": tally_of(COUNTS)}, stages={"pruned": other}, **FACTS).record.stages
    assert find(stage.changes, metric="accuracy", group={"g": "a"}).lost == 7


def test_a_stage_without_a_tally_against_the_dense_network_is_refused(tally_of):
    with pytest.raises(DataError, match="stage 'dense' is not of the rows"):
        judge(stages={"dense": tally_of(COUNTS)}, **FACTS)
