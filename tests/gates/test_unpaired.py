"""Gates on changes where the reference saw other rows, against the bounds of two samples counted by hand."""

import numpy as np
import pytest

from fairdeploy.errors import IntegrityError
from fairdeploy.evidence import Schema, Tally, judge
from fairdeploy.evidence.judge import Evidence
from fairdeploy.evidence.two_samples import difference_bounds, ratio_bounds
from fairdeploy.gates import Gates, Rule, gate

FACTS = {
    "target": "here", "level": "device", "level_reason": "this host", "spec_digest": "b" * 64,
    "data_fingerprint": "c" * 64, "reference_digests": {}, "requested_precision": "int8", "seed": 3,
}  # fmt: skip


def rows(seed, *, n=4000, lost=0.0, classes=2, groups=("a", "b"), clustered=False):
    rng = np.random.default_rng(seed)
    group, light, label = rng.choice(groups, n), rng.choice(["day", "night"], n), rng.integers(0, classes, n)
    predicted = np.where(rng.random(n) < 0.1, (label + 1) % classes, label)
    predicted = np.where((group == "b") & (label == 1) & (rng.random(n) < lost), 0, predicted)
    return {"g": group, "light": light, "label": label, "predicted": predicted, "clustered": clustered, "seed": seed}


def tally_of(own, reference):
    schema = Schema(
        attributes={"g": ("a", "b")},
        contexts={"light": ("day", "night")},
        classes=("no", "yes", "other")[: max(2, own["label"].max(initial=0) + 1)],
        clustered=own["clustered"],
    )
    at = np.arange(len(own["label"]))
    return Tally.count(
        schema, ids=[f"{own['seed']}-{one}" for one in at], labels=own["label"], attributes={"g": own["g"]},
        contexts={"light": own["light"]}, clusters=at // 4 if own["clustered"] else None,
        reference=own[reference], deployed=own["predicted"],
    )  # fmt: skip


def evidence(new, old):
    return judge(tallies={"dense": tally_of(new, "label")}, unpaired={"dense": tally_of(old, "predicted")}, **FACTS)


def decide(new, old, condition, metric, bound, **options):
    rule = Rule(metric=metric, condition=condition, bound=bound, against="dense", **options)
    verdict = gate(evidence(new, old), Gates(rules=(rule,)))
    return {(*cell.group.items(), *cell.context.items()): cell for cell in verdict.cells}


B = (("g", "b"),)


def hits(own, **where):
    inside = (own["label"] == 1) & np.all([own[name] == value for name, value in where.items()], axis=0)
    return int(own["predicted"][inside].sum()), int(inside.sum())


def test_a_drop_an_increase_and_a_ratio_are_bounded_by_two_samples():
    new, old = rows(1, lost=0.05), rows(2, n=3000)
    counts = *hits(new, g="b"), *hits(old, g="b")
    lower, upper = (float(end) for end in difference_bounds(*counts, 0.95))
    drop = decide(new, old, "max_drop", "true_positive_rate", 0.05)[B]
    assert (drop.lower, drop.upper) == pytest.approx((-upper, -lower), abs=1e-8)
    assert drop.value == pytest.approx(counts[2] / counts[3] - counts[0] / counts[1])
    assert (drop.method, drop.n) == ("Miettinen-Nurminen, unpaired", counts[1])
    assert "the reference saw other rows" in drop.reason
    rise = decide(new, old, "max_increase", "true_positive_rate", 0.05)[B]
    assert (rise.lower, rise.upper) == pytest.approx((lower, upper), abs=1e-8)
    ratio = decide(new, old, "max_ratio", "true_positive_rate", 1.1)[B]
    assert (ratio.lower, ratio.upper) == pytest.approx([float(end) for end in ratio_bounds(*counts, 0.95)], abs=1e-8)
    assert ratio.value == pytest.approx(counts[0] / counts[1] / (counts[2] / counts[3]))
    assert (rise.status, ratio.status) == ("pass", "pass")


def test_harm_fails_no_harm_passes_and_few_rows_are_inconclusive():
    old = rows(2)
    assert {one.status for one in decide(rows(1), old, "max_drop", "true_positive_rate", 0.06).values()} == {"pass"}
    harmed = decide(rows(1, lost=0.2), old, "max_drop", "true_positive_rate", 0.06)
    assert (harmed[B].status, harmed[("g", "a"),].status) == ("fail", "pass")
    small = decide(rows(1, n=300), rows(2, n=200), "max_drop", "true_positive_rate", 0.06)[B]
    assert small.status == "inconclusive"
    assert small.rows_needed > small.n
    assert f"{small.n} rows, about {small.rows_needed} needed; of the reference " in small.reason
    again = decide(rows(1, n=300, lost=0.3), rows(2, n=200), "max_drop", "true_positive_rate", 0.2)[B]
    assert again.status == "inconclusive"


def test_a_context_and_a_class_are_held_against_their_like():
    new, old = rows(1, lost=0.1), rows(2)
    found = decide(new, old, "max_drop", "true_positive_rate", 0.05, within="light")
    assert len(found) == 9
    counts = *hits(new, g="b", light="night"), *hits(old, g="b", light="night")
    assert found[*B, ("light", "night")].lower == pytest.approx(-difference_bounds(*counts, 0.95)[1], abs=1e-8)
    new, old = rows(1, classes=3, lost=0.1), rows(2, classes=3)
    cell = decide(new, old, "max_drop", "true_positive_rate", 0.05, of_class="other")[B]
    sides = [own["predicted"][(own["label"] == 2) & (own["g"] == "b")] == 2 for own in (new, old)]
    assert cell.value == pytest.approx(sides[1].mean() - sides[0].mean())


@pytest.mark.parametrize(
    ("condition", "metric"),
    [
        ("max", "flip_rate"),
        ("max", "accuracy_excess_drop"),
        ("max_increase", "equalized_odds_difference"),
        ("max_drop", "f1_score"),
    ],
)
def test_what_needs_pairs_is_inconclusive(condition, metric):
    (cell,) = decide(rows(1), rows(2), condition, metric, 0.5).values()
    assert (cell.status, cell.value) == ("inconclusive", None)
    assert "the reference saw other rows" in cell.reason


def test_a_group_or_a_rate_that_the_reference_lacks_is_undefined_and_blocks():
    found = decide(rows(1), rows(2, groups=("a",)), "max_drop", "true_positive_rate", 0.2)
    assert (found[B].status, found[("g", "a"),].status) == ("undefined", "pass")
    assert "the reference has no rows of it" in found[B].reason
    gone = decide(rows(1, groups=("a",)), rows(2), "max_drop", "true_positive_rate", 0.2)
    assert gone[B].status == "undefined"
    never = rows(2) | {"predicted": np.zeros(4000, int)}
    assert decide(rows(1), never, "max_ratio", "true_positive_rate", 1.1)[B].status == "undefined"


def test_a_reference_without_rows_shows_nothing():
    (cell,) = decide(rows(1), rows(2, n=0), "max_drop", "true_positive_rate", 0.2).values()
    assert cell.status == "inconclusive"
    assert "the reference has no rows" in cell.reason


def test_the_rows_of_one_cluster_do_not_count_as_independent():
    plain = decide(rows(1), rows(2), "max_drop", "accuracy", 0.05)[()]
    together = decide(rows(1, clustered=True), rows(2), "max_drop", "accuracy", 0.05)[()]
    assert together.upper > plain.upper
    assert together.method == "Miettinen-Nurminen, unpaired, clustered"
    assert decide(rows(1), rows(2, clustered=True), "max_drop", "accuracy", 0.05)[()].method == together.method


def test_nothing_paired_is_stated_and_another_tally_is_refused():
    found = evidence(rows(1), rows(2))
    assert not found.record.changes
    assert not any(one.paired for one in found.record.shifts)
    assert not any(one.against for one in found.record.rates)
    gates = Gates(rules=(Rule(metric="accuracy", condition="max_drop", bound=0.1, against="dense"),))
    assert gate(found, gates).status == "pass"
    for unpaired in ({}, {"dense": tally_of(rows(3), "predicted")}):
        with pytest.raises(IntegrityError):
            gate(Evidence(found.record, found.tallies, unpaired=unpaired), gates)
