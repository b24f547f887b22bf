import numpy as np
import pytest
from scipy import stats

from fairdeploy.errors import ConfigError, ExitCode, IntegrityError
from fairdeploy.evidence import Evidence, Schema, Tally, judge
from fairdeploy.evidence.percentiles import percentile_bounds
from fairdeploy.gates import Gates, Rule, gate, worst_exit

FACTS = {
    "target": "here", "level": "device", "level_reason": "this host", "spec_digest": "b" * 64,
    "data_fingerprint": "c" * 64, "reference_digests": {}, "requested_precision": "int8", "seed": 3,
}  # fmt: skip
DROP = Rule(metric="true_positive_rate", condition="max_drop", bound=0.01, against="dense", where="gates.yaml:2")


def evidence_of(tally=None, **facts) -> Evidence:
    return judge(tallies={} if tally is None else {"dense": tally}, **{**FACTS, **facts})


def decide(rule, tally=None, **facts):
    return gate(evidence_of(tally, **facts), Gates(rules=(rule,)))


def statuses(verdict):
    return {tuple(cell.group.values()): cell.status for cell in verdict.cells}


def group(name, n, lost=0, gained=0, label=1):
    """`n` rows of one label: right before and after but for `lost` and `gained`."""
    return {
        (name, label, label, label): n - lost - gained,
        (name, label, label, 1 - label): lost,
        (name, label, 1 - label, label): gained,
    }


def test_harmless_changes_pass_and_say_what_is_closest(tally_of):
    verdict = decide(DROP, tally_of({**group("a", 2000, 3, 3), **group("b", 1500, 2, 2)}))
    assert verdict.status == "pass"
    assert statuses(verdict) == {(): "pass", ("a",): "pass", ("b",): "pass"}
    assert verdict.sentence == (
        "On here, all 3 checks hold; closest: the true positive rate of g b did not change against the dense network; "
        "95 % sure that it fell by less than 0.3 (at most 1 allowed)."
    )
    assert {cell.where for cell in verdict.cells} == {"gates.yaml:2"}


def test_a_degraded_group_fails_and_is_named(tally_of):
    verdict = decide(DROP, tally_of({**group("a", 5000, 5, 5), **group("b", 2000, 80, 10)}))
    assert verdict.status == "fail"
    assert statuses(verdict)[("a",)] == "pass"
    cell = verdict.cells[2]
    assert (cell.group, cell.status, cell.value, cell.n) == ({"g": "b"}, "fail", 0.035, 2000)
    assert cell.lower > 0.01
    assert (
        "g b fell by 3.5 points against the dense network (at most 1 allowed; 95 % sure it is at least 2."
        in verdict.sentence
    )


def test_a_loss_beyond_the_margin_that_is_surely_no_chance_fails(tally_of):
    verdict = decide(DROP, tally_of({**group("a", 5000), **group("b", 1000, 13)}))
    cell = verdict.cells[2]
    assert cell.lower < 0.01 < cell.value
    assert cell.status == "fail"
    assert "over all groups together" in cell.reason


def test_a_loss_beyond_the_margin_that_may_be_chance_is_inconclusive(tally_of):
    cell = decide(DROP, tally_of({**group("a", 5000), **group("b", 100, 3, 1)})).cells[2]
    assert cell.value == 0.02 > cell.bound
    assert cell.status == "inconclusive"


def test_blame_is_adjusted_for_the_number_of_groups(tally_of):
    few = {**group("a", 500), **group("b", 500, 6)}
    many = {**few, **{key: n for at in range(30) for key, n in group(f"x{at}", 500, 3, 3).items()}}
    levels = ("a", "b", *(f"x{at}" for at in range(30)))
    assert decide(DROP, tally_of(few)).cells[2].status == "fail"
    assert decide(DROP, tally_of(many, levels=levels)).cells[2].status == "inconclusive"


def test_too_few_rows_are_inconclusive_with_the_rows_still_needed(tally_of):
    verdict = decide(DROP, tally_of({**group("a", 5000, 25, 25), **group("b", 14)}))
    assert verdict.status == "inconclusive"
    cell = verdict.cells[2]
    assert cell.status == "inconclusive"
    assert 800 < cell.rows_needed < 950  # the planner's 856 for a margin of 1 point and 1 % flips
    assert f"14 rows, about {cell.rows_needed} needed" in cell.reason


def test_with_the_rows_needed_a_truly_unchanged_group_passes(tally_of):
    everyone_else = group("a", 5000, 25, 25)
    needed = decide(DROP, tally_of({**everyone_else, **group("b", 500, 3, 1)})).cells[2].rows_needed
    assert needed > 500
    flips = round(needed * 0.005)
    assert decide(DROP, tally_of({**everyone_else, **group("b", needed, flips, flips)})).cells[2].status == "pass"


def test_a_loss_near_the_margin_needs_more_rows_than_an_unchanged_group(tally_of):
    cell = decide(DROP, tally_of({**group("a", 3000, 15, 15), **group("b", 3000, 24, 0)})).cells[2]
    assert cell.status == "inconclusive"
    assert cell.rows_needed > 3000


@pytest.mark.parametrize("rows", [1, 3, 29])
def test_tiny_groups_never_pass_a_margin_of_one_point(tally_of, rows):
    assert decide(DROP, tally_of({**group("a", 5000), **group("b", rows)})).status == "inconclusive"


def test_an_identical_artifact_passes_from_299_rows_on_and_never_fails(tally_of):
    for rows, status in ((298, "inconclusive"), (299, "pass")):
        assert statuses(decide(DROP, tally_of({**group("a", 5000), **group("b", rows)})))[("b",)] == status


def test_a_missing_group_and_a_group_without_positives_are_undefined_and_block(tally_of):
    for counts in (group("a", 5000), {**group("a", 5000), **group("b", 5000, label=0)}):
        verdict = decide(DROP, tally_of(counts))
        assert statuses(verdict)[("b",)] == "undefined"
        assert verdict.status == "inconclusive"
        assert "cannot be decided" in verdict.sentence


def test_rows_of_unknown_group_block_until_there_are_enough(tally_of):
    verdict = decide(DROP, tally_of({**group("a", 5000), **group("b", 5000), **group("", 3)}))
    assert statuses(verdict)[("unknown",)] == "inconclusive"
    assert verdict.status == "inconclusive"


def test_levelling_down_fails_although_the_gap_shrinks(tally_of):
    counts = {**group("a", 4000, 130, 10), **group("b", 4000, 130, 10)}
    gap = Rule(metric="equal_opportunity_difference", condition="max", bound=0.05)
    tally = tally_of(counts)
    assert decide(gap, tally).status == "pass"
    assert set(statuses(decide(DROP, tally)).values()) == {"fail"}


def test_increases_are_the_mirror_of_drops(tally_of):
    tally = tally_of({**group("a", 3000, 0, 0, label=0), **group("b", 3000, 90, 0, label=0)})
    rise = Rule(metric="false_positive_rate", condition="max_increase", bound=0.01, against="dense")
    fall = Rule(metric="false_positive_rate", condition="max_drop", bound=0.01, against="dense")
    assert statuses(decide(rise, tally))[("b",)] == "fail"
    assert "rose by 3.0 points" in decide(rise, tally).cells[2].reason
    assert statuses(decide(fall, tally)) == {(): "pass", ("a",): "pass", ("b",): "pass"}


@pytest.mark.parametrize(("right", "status"), [(940, "pass"), (905, "inconclusive"), (860, "fail")])
def test_worst_group_accuracy_is_decided_by_the_exact_bound(tally_of, right, status):
    rule = Rule(metric="worst_group_accuracy", condition="min", bound=0.9)
    verdict = decide(rule, tally_of({**group("a", 1000), **group("b", 1000, lost=1000 - right)}))
    assert statuses(verdict) == {("a",): "pass", ("b",): status}
    assert verdict.status == status
    cell = verdict.cells[1]
    assert cell.method == "Clopper-Pearson"
    assert (cell.rows_needed is not None) == (status == "inconclusive")
    assert f"of g b is {right / 10} %" in cell.reason


def test_an_average_does_not_hide_a_group(tally_of):
    rule = Rule(metric="accuracy", condition="min", bound=0.9)
    verdict = decide(rule, tally_of({**group("a", 9000), **group("b", 300, lost=100)}))
    assert statuses(verdict) == {(): "pass", ("a",): "pass", ("b",): "fail"}
    assert verdict.status == "fail"


def test_a_max_on_a_rate_needs_the_upper_bound(tally_of):
    rule = Rule(metric="false_positive_rate", condition="max", bound=0.1)
    for wrong, status in ((20, "pass"), (95, "inconclusive"), (150, "fail")):
        tally = tally_of({**group("a", 1000, label=0), **group("b", 1000, lost=wrong, label=0)})
        assert statuses(decide(rule, tally))[("b",)] == status


def test_flips_are_gated_on_their_bound(tally_of):
    rule = Rule(metric="flip_rate_to_negative", condition="max", bound=0.02, against="dense")
    tally = tally_of({**group("a", 1000, 5, 50), **group("b", 1000, 40, 0)})
    assert statuses(decide(rule, tally)) == {(): "inconclusive", ("a",): "pass", ("b",): "fail"}


@pytest.mark.parametrize(("lost", "status"), [(10, "pass"), (100, "inconclusive"), (300, "fail")])
def test_a_gap_is_decided_by_its_simultaneous_interval(tally_of, lost, status):
    rule = Rule(metric="equal_opportunity_difference", condition="max", bound=0.1)
    verdict = decide(rule, tally_of({**group("a", 1000), **group("b", 1000, lost)}))
    (cell,) = verdict.cells
    assert (cell.status, cell.group, cell.n) == (status, {"g": "*"}, 1000)
    assert cell.value == pytest.approx(lost / 1000)
    assert "a against b" in cell.reason


@pytest.mark.parametrize(
    "counts",
    [group("a", 900), {**group("a", 900), **group("b", 900, label=0)}],
    ids=["missing group", "group without positives"],
)
def test_a_gap_over_a_group_without_denominator_is_undefined(tally_of, counts):
    verdict = decide(Rule(metric="equal_opportunity_difference", condition="max", bound=0.5), tally_of(counts))
    assert verdict.cells[0].status == "undefined"
    assert verdict.status == "inconclusive"


def test_one_group_only_has_no_gap(tally_of):
    verdict = decide(
        Rule(metric="accuracy_difference", condition="max", bound=0.5), tally_of(group("a", 900), levels=("a",))
    )
    assert verdict.cells[0].status == "undefined"


def test_all_predictions_equal_do_not_pass(tally_of):
    """Everyone is refused: no gap at all, and a true positive rate of 0."""
    tally = tally_of({("a", 1, 1, 0): 900, ("b", 1, 1, 0): 900, ("a", 0, 0, 0): 900, ("b", 0, 0, 0): 900})
    assert decide(DROP, tally).status == "fail"
    assert decide(Rule(metric="worst_group_accuracy", condition="min", bound=0.6), tally).status == "fail"


LATENCY = Rule(metric="latency_p90_ms", condition="max", bound=5)


@pytest.mark.parametrize(("scale", "status"), [(0.9, "pass"), (1.0, "inconclusive"), (1.2, "fail")])
def test_latency_is_decided_by_order_statistics(scale, status):
    samples = np.random.default_rng(0).permutation(np.linspace(0, 5 / 0.9, 500)) * scale
    verdict = decide(LATENCY, latencies_ms=samples)
    assert verdict.status == status
    assert verdict.cells[0].unit == "ms"
    assert verdict.cells[0].method == "order statistics, runs correlated"


def test_too_few_runs_give_no_bound():
    verdict = decide(Rule(metric="latency_p99_ms", condition="max", bound=50), latencies_ms=np.ones(100))
    assert verdict.status == "inconclusive"
    assert "100 runs are too few" in verdict.cells[0].reason


@pytest.mark.parametrize(("ratio", "status"), [(0.5, "pass"), (0.9, "inconclusive"), (1.2, "fail")])
def test_a_latency_ratio_needs_both_bounds(ratio, status):
    reference = np.random.default_rng(0).permutation(np.linspace(4, 5, 500))
    rule = Rule(metric="latency_p50_ms", condition="max_ratio", bound=0.9, against="dense")
    verdict = decide(rule, latencies_ms=reference * ratio, reference_latencies_ms={"dense": reference})
    assert verdict.status == status
    assert decide(rule, latencies_ms=reference).status == "inconclusive"


def test_runs_in_a_row_that_resemble_each_other_pass_less_easily():
    mixed = np.random.default_rng(0).permutation(np.repeat([4.0, 6.0], [470, 30]))
    assert decide(LATENCY, latencies_ms=mixed).status == "pass"
    assert decide(LATENCY, latencies_ms=np.sort(mixed)).status == "inconclusive"


def test_each_side_of_a_ratio_is_bounded_at_half_the_error():
    rng = np.random.default_rng(1)
    own, reference = rng.gamma(9, 0.1, (2, 400)).round(4)
    rule = Rule(metric="latency_p50_ms", condition="max_ratio", bound=1.0, against="dense")
    (cell,) = decide(rule, latencies_ms=own, reference_latencies_ms={"dense": reference}).cells
    low, high = percentile_bounds(own, 50, 0.975)
    reference_low, reference_high = percentile_bounds(reference, 50, 0.975)
    assert cell.upper == pytest.approx(high / reference_low, abs=1e-9)
    assert cell.lower == pytest.approx(low / reference_high, abs=1e-9)
    assert percentile_bounds(own, 50, 0.95)[1] < high


def test_an_equal_latency_rarely_passes_as_a_lower_one():
    rng = np.random.default_rng(0)
    rule = Rule(metric="latency_p50_ms", condition="max_ratio", bound=1.0, against="dense")
    draws = [rng.gamma(9, 0.1, (2, 200)) for _ in range(300)]
    passed = [decide(rule, latencies_ms=a, reference_latencies_ms={"dense": b}).status == "pass" for a, b in draws]
    assert np.mean(passed) <= 0.05


def test_size_and_memory_are_exact_and_missing_ones_block():
    size = Rule(metric="size_mb", condition="max", bound=1)
    memory = Rule(metric="peak_memory_mb", condition="max", bound=100)
    for n, status in ((1_000_000, "pass"), (1_000_001, "fail"), (None, "inconclusive")):
        assert decide(size, size_bytes=n, level="compiled").status == status
    for mb, status in ((100.0, "pass"), (100.5, "fail"), (None, "inconclusive")):
        assert decide(memory, peak_memory_mb=mb).status == status


@pytest.mark.parametrize(
    ("level", "rule", "status"),
    [("simulated", DROP, "inconclusive"), ("proxy", DROP, "inconclusive"), ("emulated", DROP, "pass"),
     ("emulated", LATENCY, "inconclusive"), ("device", LATENCY, "pass"), (None, DROP, "pass"), (None, LATENCY, "pass"),
     ("emulated", DROP.model_copy(update={"level": "device"}), "inconclusive"),
     ("simulated", DROP.model_copy(update={"level": "simulated"}), "pass"),
     (None, DROP.model_copy(update={"level": "simulated"}), "inconclusive")],
)  # fmt: skip
def test_evidence_below_the_least_level_is_a_forecast(tally_of, level, rule, status):
    tally = tally_of({**group("a", 2000), **group("b", 2000)})
    verdict = decide(rule, tally, level=level, latencies_ms=np.ones(500))
    assert verdict.status == status
    assert {cell.forecast for cell in verdict.cells} == {"pass" if status == "inconclusive" else None}


def test_a_failure_at_too_low_a_level_is_forecast_too(tally_of):
    verdict = decide(DROP, tally_of({**group("a", 2000), **group("b", 2000, 100)}), level="simulated")
    assert verdict.status == "inconclusive"
    assert verdict.cells[2].forecast == "fail"
    assert "needs at least emulated" in verdict.cells[2].reason


def test_a_crashed_target_is_inconclusive_with_its_last_words(tally_of):
    tally = tally_of({**group("a", 2000), **group("b", 2000)})
    verdict = decide(DROP, tally, failure="the runtime crashed: SIGILL", level="compiled")
    assert verdict.status == "inconclusive"
    assert "SIGILL" in verdict.sentence
    assert (
        decide(Rule(metric="size_mb", condition="max", bound=9), failure="it hung", size_bytes=1).status
        == "inconclusive"
    )


def test_a_reference_that_was_not_run_is_inconclusive(tally_of):
    rule = DROP.model_copy(update={"against": "compact"})
    verdict = decide(rule, tally_of({**group("a", 2000), **group("b", 2000)}))
    assert verdict.status == "inconclusive"
    assert "compact" in verdict.sentence
    assert decide(DROP).status == "inconclusive"
    assert decide(DROP, tally_of({})).status == "inconclusive"


def test_an_empty_rule_list_never_passes(tally_of):
    verdict = gate(evidence_of(tally_of(group("a", 2000))), Gates(rules=()))
    assert verdict.status == "inconclusive"
    assert "nothing was shown" in verdict.sentence


def test_rules_that_are_only_reported_do_not_decide_but_cannot_pass_alone(tally_of):
    tally = tally_of({**group("a", 2000), **group("b", 2000, 100)})
    reported = DROP.model_copy(update={"required": False})
    assert decide(reported, tally).status == "inconclusive"
    holds = Rule(metric="accuracy", condition="min", bound=0.9)
    verdict = gate(evidence_of(tally), Gates(rules=(reported, holds)))
    assert verdict.status == "pass"
    assert "fail" in {cell.status for cell in verdict.cells if not cell.required}


def test_one_failing_rule_decides_over_others(tally_of):
    tally = tally_of({**group("a", 2000), **group("b", 2000, 100)})
    rules = (DROP, Rule(metric="latency_p90_ms", condition="max", bound=5))
    assert gate(evidence_of(tally), Gates(rules=rules)).status == "fail"


def test_the_tally_of_another_artifact_is_refused(tally_of):
    evidence = evidence_of(tally_of({**group("a", 2000), **group("b", 2000, 100)}))
    swapped = Evidence(evidence.record, {"dense": tally_of({**group("a", 2000), **group("b", 2000)})})
    for tallies in (swapped, Evidence(evidence.record, {})):
        with pytest.raises(IntegrityError, match="not those that the evidence was made from"):
            gate(tallies, Gates(rules=(DROP,)))


def test_two_class_metrics_on_many_classes_are_refused(tally_of):
    tally = tally_of({("a", 2, 2, 2): 3, ("b", 0, 0, 0): 3}, classes=("x", "y", "z"))
    with pytest.raises(ConfigError, match="needs two classes"):
        decide(DROP, tally)


def test_the_same_evidence_and_gates_give_the_same_bytes(tally_of):
    counts = {**group("a", 500, 9, 3), **group("b", 400, 5, 5)}
    gap = Rule(metric="equal_opportunity_difference", condition="max", bound=0.03)
    first, again = (gate(evidence_of(tally_of(counts)), Gates(rules=(DROP, gap))) for _ in range(2))
    assert first.digest == again.digest
    assert first.evidence_digest == evidence_of(tally_of(counts)).record.digest


def clustered(icc, seed=0):
    rng = np.random.default_rng(seed)
    persons = np.repeat(np.arange(400), 5)
    lost = np.where(rng.random(2000) < np.sqrt(icc), (rng.random(400) < 0.02)[persons], rng.random(2000) < 0.02)
    schema = Schema(attributes={"g": ("a", "b")}, contexts={}, classes=("no", "yes"), clustered=True)
    return Tally.count(
        schema, ids=np.arange(2000), labels=np.ones(2000, int), attributes={"g": np.array(["a", "b"])[persons % 2]},
        contexts={}, clusters=persons, reference=np.ones(2000, int), deployed=1 - lost.astype(int),
    )  # fmt: skip


def test_rows_of_one_person_widen_the_bounds_and_the_method_says_so():
    rule = DROP.model_copy(update={"bound": 0.05})
    apart, together = (decide(rule, clustered(icc)).cells[0] for icc in (0.0, 1.0))
    assert together.upper - together.value > 1.5 * (apart.upper - apart.value)
    assert together.method == "Tango, paired, clustered"


@pytest.mark.parametrize(
    ("seen", "code"),
    [
        (["pass", "pass"], ExitCode.DONE),
        (["pass", "waived"], ExitCode.DONE),
        (["pass", "inconclusive"], ExitCode.INCONCLUSIVE),
        (["undefined", "pass"], ExitCode.INCONCLUSIVE),
        (["inconclusive", "fail", "pass"], ExitCode.FAILED),
        ([], ExitCode.NOTHING_JUDGED),
    ],
)
def test_the_worst_target_decides_the_exit_code(seen, code):
    assert worst_exit(seen) == code


def in_clusters(rows, per_cluster, flips=0):
    """A tally of positives of one group, `per_cluster` rows of each person."""
    deployed = np.ones(rows, int)
    deployed[:flips] = 0
    return Tally.count(
        Schema(attributes={"g": ("a", "b")}, contexts={}, classes=("no", "yes"), clustered=True),
        ids=[str(at) for at in range(rows)],
        labels=np.ones(rows, int),
        attributes={"g": np.array(["a"] * rows)},
        contexts={},
        clusters=np.array([f"person {at // per_cluster}" for at in range(rows)]),
        reference=np.ones(rows, int),
        deployed=deployed,
    )


def test_rows_of_the_references_own_file_count_as_independent(tally_of):
    """The rows of one person cannot flip together where nothing can flip; still, enough rows are needed."""
    many, few = in_clusters(800, 20), in_clusters(29, 1)
    assert statuses(decide(DROP, many))[("a",)] == "inconclusive"
    assert statuses(decide(DROP, many, identical_to=("dense",)))[("a",)] == "pass"
    assert statuses(decide(DROP, few, identical_to=("dense",)))[("a",)] == "inconclusive"
    other = DROP.model_copy(update={"against": "compact"})
    assert decide(other, many, identical_to=("dense",)).status == "inconclusive"


def test_one_flip_takes_that_back():
    honest = evidence_of(in_clusters(800, 20, flips=1))
    forged = Evidence(honest.record.model_copy(update={"identical_to": ("dense",)}), honest.tallies)
    assert gate(forged, Gates(rules=(DROP,))).cells == gate(honest, Gates(rules=(DROP,))).cells


def test_evidence_that_claims_the_references_own_file_against_its_tally_does_not_pass(tally_of):
    honest = evidence_of(tally_of({**group("a", 2000), **group("b", 2000, 100)}))
    forged = Evidence(honest.record.model_copy(update={"identical_to": ("dense",)}), honest.tallies)
    assert gate(forged, Gates(rules=(DROP,))).status == "fail"


def test_a_rate_gate_uses_the_exact_one_sided_bound(tally_of):
    rule = Rule(metric="accuracy", condition="min", bound=0.9)
    cell = decide(rule, tally_of({**group("a", 1000), **group("b", 1000, lost=60)})).cells[2]
    assert cell.lower == pytest.approx(stats.beta.ppf(0.05, 940, 61), abs=1e-9)
    assert cell.upper == pytest.approx(stats.beta.ppf(0.95, 941, 60), abs=1e-9)


def test_rows_of_one_person_count_as_one_in_a_rate_gate():
    """Four people of 50 rows, one of them wrong throughout: 3 of 4, not 150 of 200."""
    tally = in_clusters(200, 50, flips=50)
    rule = Rule(metric="true_positive_rate", condition="min", bound=0.5)
    cell = decide(rule, tally).cells[1]
    assert cell.status == "inconclusive"
    assert cell.method == "Clopper-Pearson, clustered (few large clusters: all rows of one move together)"
    # between people, 4/3 of the variance of four independent rows is seen: effect 200/3
    assert cell.lower == pytest.approx(stats.beta.ppf(0.05, 0.75 * 3, 0.25 * 3 + 1), abs=1e-9)
    assert cell.lower < 0.5 < stats.beta.ppf(0.05, 150, 51)


def test_chance_and_rows_needed_count_clusters():
    """Eight rows of four people lost: beyond the margin, but four of four people is what may be chance."""
    rule = DROP.model_copy(update={"bound": 0.015})
    tally = in_clusters(400, 2, flips=8)
    together, apart = (decide(rule, one).cells[1] for one in (tally, unclustered(tally)))
    assert apart.status == "fail"  # exact McNemar of 8 against 0, twice, is 0.008
    assert together.status == "inconclusive"  # of 4 against 0, twice, it is 0.125
    few = in_clusters(60, 20)
    together, apart = (decide(DROP, one).cells[1] for one in (few, unclustered(few)))
    assert together.rows_needed == pytest.approx(20 * apart.rows_needed, rel=0.01)


def unclustered(tally):
    """The same rows as if each were of another person."""
    at = tally.coordinates
    rows = np.repeat(np.arange(len(tally.counts)), tally.counts)
    return Tally.count(
        Schema(attributes={"g": ("a", "b")}, contexts={}, classes=("no", "yes")),
        ids=[str(one) for one in range(len(rows))],
        labels=at["label"][rows],
        attributes={"g": np.array(["a"] * len(rows))},
        contexts={},
        clusters=None,
        reference=at["reference"][rows],
        deployed=at["deployed"][rows],
    )


def test_rows_needed_must_come_from_new_clusters(tally_of):
    cell = decide(DROP, in_clusters(200, 20)).cells[1]
    about = round(cell.rows_needed / 20)
    assert (
        f"200 rows, about {cell.rows_needed} needed, the further ones from new clusters (people, drawings), about "
        in (cell.reason)
    )
    said = int(cell.reason.split("about ")[-1].split()[0])
    assert said == pytest.approx(about, rel=0.03)
    apart = decide(DROP, tally_of({**group("a", 200), **group("b", 200)}))
    assert not [one for one in apart.cells if "clusters" in one.reason]


def test_rate_and_gap_gates_ask_for_new_clusters_too():
    tally = in_clusters(400, 20, flips=20)
    asked = decide(Rule(metric="accuracy", condition="min", bound=0.9), tally).cells[1]
    assert "new clusters" in asked.reason
    two = clustered(1.0)
    gap = Rule(metric="accuracy_difference", condition="max", bound=0.05)
    assert "new clusters" in decide(gap, two).cells[0].reason


@pytest.mark.parametrize(("bound", "said"), [(0.0225, "2.25"), (0.02, "2"), (0.005, "0.5"), (0.12345, "12.345")])
def test_the_margin_is_said_with_all_its_digits(tally_of, bound, said):
    tally = tally_of({**group("a", 2000, 5, 5), **group("b", 900, 60, 10)})
    verdict = decide(DROP.model_copy(update={"bound": bound}), tally)
    assert all(f"at most {said} allowed" in cell.reason for cell in verdict.cells)
    worst = decide(Rule(metric="accuracy", condition="min", bound=bound), tally)
    assert all(f"at least {said} required" in cell.reason for cell in worst.cells)
