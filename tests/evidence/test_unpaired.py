import numpy as np
import pytest

from fairdeploy.errors import DataError
from fairdeploy.evidence import Schema, Tally, metrics
from fairdeploy.evidence.cells import cells
from fairdeploy.evidence.two_samples import difference_bounds, score_difference
from fairdeploy.evidence.unpaired import check_unpaired, unpaired_changes, unpaired_records

LEVELS = ("a", "b")


def tally(rng, *, groups, predicted, clusters=None):
    ids = rng.integers(0, 2**40) + np.arange(len(groups))
    return Tally.count(
        Schema(attributes={"g": LEVELS}, contexts={}, classes=("no", "yes"), clustered=clusters is not None),
        ids=ids, labels=np.ones(len(groups), int), attributes={"g": groups}, contexts={}, clusters=clusters,
        reference=predicted, deployed=predicted,
    )  # fmt: skip


def by_group(one):
    return next(part for part in cells(one, contexts=False, intersections=False) if part.axes)


def test_the_deployed_rate_of_one_tally_is_compared_with_the_references_of_another(tally_of):
    deployed = tally_of({("a", 1, 0, 1): 40, ("a", 1, 1, 0): 10, ("b", 1, 0, 1): 5})
    reference = tally_of({("a", 1, 1, 0): 90, ("a", 1, 0, 1): 30})
    found = unpaired_changes(deployed, reference, metrics.true_positive_rate, by_group(deployed))
    assert found.n.tolist() == [50, 5]
    assert found.reference_n.tolist() == [120, 0]
    assert found.change[0] == pytest.approx(40 / 50 - 90 / 120)
    assert np.isnan(found.change[1])
    assert [end[0] for end in found.bounds(0.95)] == [end.item() for end in difference_bounds(40, 50, 90, 120, 0.95)]
    assert [end[0] for end in found.interval(0.95)] == [end.item() for end in score_difference(40, 50, 90, 120, 0.95)]
    assert [end[1] for end in found.bounds(0.95)] == [-1, 1]


def test_every_rate_is_stated_in_every_cell_and_says_that_it_is_unpaired(tally_of):
    deployed = tally_of({("a", 1, 1, 1): 40, ("a", 0, 0, 1): 10, ("b", 1, 1, 0): 5})
    reference = tally_of({("a", 1, 1, 1): 90, ("a", 0, 0, 0): 30, ("b", 1, 0, 0): 3})
    found = {(one.metric, one.group.get("g")): one for one in unpaired_records(deployed, reference, "dense")}
    assert {(one.against, one.paired) for one in found.values()} == {("dense", False)}
    assert {group for _, group in found} == {None, "a", "b"}
    everyone = found["accuracy", None]
    assert (everyone.n, everyone.deployed, everyone.reference) == (55, 40 / 55, 120 / 123)
    assert everyone.change == pytest.approx(40 / 55 - 120 / 123)
    lower, upper = map(float, score_difference(40, 55, 120, 123, 0.95))
    assert (everyone.interval.lower, everyone.interval.upper) == pytest.approx((lower, upper), abs=1e-8)
    alone = found["false_positive_rate", "b"]
    assert (alone.n, alone.reference, alone.deployed, alone.change, alone.interval) == (0, None, None, None, None)


def test_what_could_be_taken_for_a_pair_is_refused(tally_of):
    deployed, reference = tally_of({("a", 1, 1, 0): 4}), tally_of({("a", 1, 0, 0): 4})
    check_unpaired({"dense": deployed}, {"dense": reference})
    for tallies, unpaired, said in (
        ({}, reference, "no tally of the deployed predictions"),
        ({"dense": tally_of({("a", 1, 0, 0): 4})}, reference, "the labels stand in its place"),
        ({"dense": deployed}, tally_of({("a", 1, 0, 1): 4}), "holds its predictions twice"),
        ({"dense": deployed}, tally_of({("a", 1, 0, 0): 4}, levels=("a", "c")), "same schema"),
    ):
        with pytest.raises(DataError, match=said):
            check_unpaired(tallies, {"dense": unpaired})


def test_tallies_of_other_groups_are_not_compared(tally_of):
    deployed = tally_of({("a", 1, 1, 1): 9})
    for other in (tally_of({("a", 1, 1, 1): 9}, levels=("a", "c")), tally_of({}, classes=("yes", "no"))):
        with pytest.raises(DataError, match="count both with the same schema"):
            unpaired_changes(deployed, other, metrics.accuracy, by_group(deployed))


def people(rng, *, n, rate, icc):
    """Draw people of 5 rows each, half of them of either group."""
    owner = np.repeat(np.arange(n), 5)
    together = rng.random(len(owner)) < np.sqrt(icc)
    drawn = np.where(together, rng.random(n)[owner], rng.random(len(owner)))
    clusters = [f"{rng.integers(2**40)}-{one}" for one in range(n)]
    return tally(
        rng,
        groups=np.array(LEVELS)[owner % 2],
        predicted=(drawn < rate).astype(int),
        clusters=np.array(clusters)[owner],
    )


def test_false_release_at_the_margin_is_bounded_where_rows_are_clustered_on_both_sides():
    rng = np.random.default_rng(0)
    released, row_wise = [], []
    for _ in range(120):
        deployed, reference = people(rng, n=300, rate=0.85, icc=0.3), people(rng, n=400, rate=0.9, icc=0.3)
        found = unpaired_changes(deployed, reference, metrics.true_positive_rate, by_group(deployed))
        released.append(found.bounds(0.95)[0][0] > -0.05)
        counts = found.deployed_rate.successes, found.n, found.reference_rate.successes, found.reference_n
        row_wise.append(difference_bounds(*counts, 0.95)[0][0] > -0.05)
    assert np.mean(released) <= 0.055 + 0.042  # two standard errors of 120 runs
    assert np.mean(row_wise) > 0.09
