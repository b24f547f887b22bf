import numpy as np
import pytest

from fairdeploy.errors import DataError
from fairdeploy.evidence import Schema, Tally, judge, metrics
from fairdeploy.evidence.cells import over
from fairdeploy.evidence.records import EvidenceRecord
from fairdeploy.evidence.scores import SCORES, Scores
from fairdeploy.evidence.shifts import excess_drop, normalised_change

FACTS = {
    "target": "here", "level": "device", "level_reason": "this host", "artifact_digest": "a" * 64,
    "spec_digest": "b" * 64, "data_fingerprint": "c" * 64, "reference_digests": {"dense": "d" * 64},
    "requested_precision": "int8", "seed": 3,
}  # fmt: skip


def find(records, **wanted):
    (one,) = [r for r in records if all(getattr(r, name) == value for name, value in wanted.items())]
    return one


def people(n, seed=0, drop=(0.0, 0.0), scored=False):
    rng = np.random.default_rng(seed)
    group, label = rng.choice(["a", "b"], n), rng.integers(0, 2, n)
    dense = np.where(rng.random(n) < 0.9, label, 1 - label)
    lose = rng.random(n) < np.where(group == "a", *drop)
    deployed = np.where(lose, 1 - label, dense)
    schema = Schema(attributes={"g": ("a", "b")}, contexts={}, classes=("no", "yes"))
    rows = {"ids": np.arange(n), "labels": label, "attributes": {"g": group}, "clusters": None}
    tally = Tally.count(schema, contexts={}, reference=dense, deployed=deployed, **rows)
    if not scored:
        return tally
    score = np.clip(0.5 + 0.3 * (2 * dense - 1) + rng.normal(0, 0.1, n), 0, 1)
    moved = np.clip(0.5 + 0.3 * (2 * deployed - 1) + rng.normal(0, 0.1, n), 0, 1)
    return tally, {
        name: Scores.count(schema, scores=one, **rows) for name, one in (("deployed", moved), ("dense", score))
    }


def test_excess_drop_and_normalised_change_are_what_their_formulas_say():
    tally = people(2000, drop=(0.05, 0.0))
    record = judge(tallies={"dense": tally}, **FACTS).record
    for name in ("accuracy", "true_positive_rate", "false_positive_rate", "selection_rate"):
        rate = metrics.RATES[name]

        def fell(group, rate=rate):
            return rate(tally, group, of="reference") - rate(tally, group)

        for level in "ab":
            group = {"g": level}
            drop = find(record.shifts, metric=f"{name}_excess_drop", group=group, context={})
            assert drop.change == pytest.approx(fell(group) - fell({}), abs=1e-12)
            assert drop.interval.lower < drop.change < drop.interval.upper
            relative = find(record.shifts, metric=f"{name}_normalised_change", group=group, context={})
            assert relative.change == pytest.approx(-fell(group) / rate(tally, group, of="reference"), abs=1e-12)
            assert relative.interval.lower < relative.change < relative.interval.upper


@pytest.mark.parametrize("n", [60, 1000])
def test_bounds_of_an_excess_drop_err_as_rarely_as_they_say(n):
    wrong, runs = np.zeros(4), 150
    for run in range(runs):
        tally = people(n, seed=run, drop=(0.05, 0.0))
        part = over(tally, ("g",), ())
        drop = excess_drop(tally, metrics.accuracy, part, seed=run)
        lower, upper = (side[0] for side in drop.bounds(0.95))
        relative = normalised_change(tally, metrics.accuracy, part, seed=run)
        low, high = (side[0] for side in relative.bounds(0.95))
        # 0.05 of the rows of a become wrong, nine tenths of which were right: 0.045, half of that for everyone
        wrong += [lower > 0.0225, upper < 0.0225, low > -0.05, high < -0.05]
    assert (wrong / runs <= 0.055 + 2 * np.sqrt(0.05 * 0.95 / runs)).all(), wrong / runs


def test_statistics_and_scores_are_stated_per_cell_with_their_quantisation():
    tally, scores = people(800, drop=(0.1, 0.0), scored=True)
    record = judge(tallies={"dense": tally}, scores=scores, **FACTS).record
    assert record.score_digests == {name: one.digest for name, one in scores.items()}
    for name in SCORES:
        rate = find(record.rates, metric=name, group={"g": "a"})
        assert rate.value == pytest.approx(SCORES[name](scores["deployed"], {"g": "a"}))
        assert 0 < rate.quantisation <= 0.01
        shift = find(record.shifts, metric=name, group={"g": "a"}, context={})
        assert shift.reference == pytest.approx(SCORES[name](scores["dense"], {"g": "a"}))
        assert shift.interval.lower < shift.change < shift.interval.upper
    parity = find(record.shifts, metric="positive_predictive_value", group={"g": "b"}, context={})
    assert parity.change == pytest.approx(parity.deployed - parity.reference)
    assert EvidenceRecord.model_validate_json(record.model_dump_json()) == record


def test_flips_are_stated_by_direction_and_reference():
    tally = people(500, drop=(0.1, 0.0))
    record = judge(tallies={"dense": tally}, **FACTS).record
    both, down, up = (find(record.rates, metric=name, group={"g": "a"}, against="dense") for name in metrics.FLIPS)
    assert both.value == pytest.approx(down.value + up.value)
    assert both.value > 0


def test_scores_of_other_rows_or_without_a_tally_are_refused():
    tally, scores = people(100, scored=True)
    _, other = people(100, seed=1, scored=True)
    with pytest.raises(DataError, match="scores of 'deployed' are not of the rows"):
        judge(tallies={"dense": tally}, scores={"deployed": other["deployed"]}, **FACTS)
    with pytest.raises(DataError, match="scores of 'compact', but no tally"):
        judge(tallies={"dense": tally}, scores={"compact": scores["dense"]}, **FACTS)
    with pytest.raises(DataError, match="scores of 'deployed', but no tally"):
        judge(scores=scores, **FACTS)


def within_light(counts):
    """Count {(group, light): (rows, of which the reference's right answer is lost)}; every label is 1."""
    rows = [(*key, at < lost) for key, (n, lost) in counts.items() for at in range(n)]
    group, light, lost = map(np.array, zip(*rows, strict=True))
    schema = Schema(attributes={"g": ("a", "b")}, contexts={"light": ("day", "night")}, classes=("no", "yes"))
    n = len(rows)
    tally = Tally.count(
        schema, ids=np.arange(n), labels=np.ones(n, int), attributes={"g": group}, contexts={"light": light},
        clusters=None, reference=np.ones(n, int), deployed=1 - lost.astype(int),
    )  # fmt: skip
    return judge(tallies={"dense": tally}, **FACTS).record


def test_a_group_that_lost_more_on_the_whole_and_less_in_every_light_is_pointed_out():
    # nights cost everyone more, and a is photographed at night: on the whole a loses more, in either light b does
    counts = {("a", "day"): (100, 0), ("a", "night"): (900, 180), ("b", "day"): (900, 18), ("b", "night"): (100, 30)}
    record = within_light(counts)
    found = find(record.reversals, metric="accuracy_excess_drop", group={"g": "a"})
    assert found.context == "light"
    assert found.change == pytest.approx(180 / 1000 - 228 / 2000)
    assert found.within == pytest.approx({"day": 0 - 18 / 1000, "night": 180 / 900 - 210 / 1000})


def test_parts_that_agree_or_do_not_all_disagree_are_no_reversal():
    for nights in (100, 300):
        counts = {
            ("a", "day"): (100, 5),
            ("a", "night"): (900, nights),
            ("b", "day"): (900, 9),
            ("b", "night"): (100, 9),
        }
        assert within_light(counts).reversals == ()
