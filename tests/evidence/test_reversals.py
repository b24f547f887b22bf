"""Reversals of the order of two groups, against tables that are known for them and against brute force."""

from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairdeploy.evidence import Schema, Tally, judge
from fairdeploy.evidence.records import EvidenceRecord, Rate
from fairdeploy.evidence.reversals import order_reversals

FACTS = {
    "target": "here", "level": None, "level_reason": "", "spec_digest": "b" * 64, "data_fingerprint": "c" * 64,
    "reference_digests": {}, "requested_precision": "fp32", "seed": 3,
}  # fmt: skip
STONES = {  # Charig et al. 1986, BMJ 292, 879: successes of rows
    ("open surgery", "small"): (81, 87),
    ("open surgery", "large"): (192, 263),
    ("percutaneous", "small"): (234, 270),
    ("percutaneous", "large"): (55, 80),
}
BERKELEY = {  # Bickel et al. 1975, Science 187, 398: admitted of applicants, six largest departments
    ("men", "A"): (512, 825), ("women", "A"): (89, 108), ("men", "B"): (353, 560), ("women", "B"): (17, 25),
    ("men", "C"): (120, 325), ("women", "C"): (202, 593), ("men", "D"): (138, 417), ("women", "D"): (131, 375),
    ("men", "E"): (53, 191), ("women", "E"): (94, 393), ("men", "F"): (22, 373), ("women", "F"): (24, 341),
}  # fmt: skip


def evidence(table: dict[tuple[str, str], tuple[int, int]]) -> EvidenceRecord:
    """Judge {(group, context): (selected rows, rows)}; every label is 1, so accuracy, TPR and selection are one."""
    rows = [(*key, at < hits) for key, (hits, n) in table.items() for at in range(n)]
    group, place, hit = (np.array(column) for column in zip(*rows, strict=True))
    schema = Schema(
        attributes={"who": tuple(sorted({a for a, _ in table}))}, contexts={"where": tuple({b: 0 for _, b in table})},
        classes=("no", "yes"),
    )  # fmt: skip
    deployed = hit.astype(int)
    tally = Tally.count(
        schema, ids=np.arange(len(rows)), labels=np.ones(len(rows), int), attributes={"who": group},
        contexts={"where": place}, clusters=None, reference=deployed, deployed=deployed,
    )  # fmt: skip
    return judge(tallies={"reference": tally}, **FACTS).record


def test_the_kidney_stones_are_found_with_their_numbers():
    found = evidence(STONES).reversals
    assert [one.metric for one in found] == ["accuracy", "true_positive_rate", "selection_rate"]
    for one in found:
        assert (one.group, one.than, one.context) == ({"who": "percutaneous"}, {"who": "open surgery"}, "where")
        assert one.against is None
        assert one.change == pytest.approx(289 / 350 - 273 / 350)
        assert one.within == pytest.approx({"small": 234 / 270 - 81 / 87, "large": 55 / 80 - 192 / 263})


def test_berkeleys_departments_do_not_all_disagree():
    assert evidence(BERKELEY).reversals == ()
    agreeing = {key: value for key, value in BERKELEY.items() if key[1] in "ABDF"}
    (one, *_) = evidence(agreeing).reversals
    assert (one.group, one.than, set(one.within)) == ({"who": "men"}, {"who": "women"}, set("ABDF"))


def test_one_level_that_can_be_compared_is_no_reversal():
    assert evidence({**STONES, ("percutaneous", "small"): (0, 0)}).reversals == ()


def rates(table: dict[tuple[str, str], tuple[int, int]]) -> list[Rate]:
    """State the rates that a table has, as evidence would."""
    cells = {((group, place)): counts for (group, place), counts in table.items()}
    for group in {group for group, _ in table}:
        parts = [counts for (of, _), counts in table.items() if of == group]
        cells[group, ""] = (sum(hits for hits, _ in parts), sum(n for _, n in parts))
    return [
        Rate(metric="accuracy", group={"who": group}, context={"where": place} if place else {}, n=n, clusters=None,
             value=hits / n if n else None, interval=None)
        for (group, place), (hits, n) in cells.items()
    ]  # fmt: skip


def reversed_pairs(table: dict[tuple[str, str], tuple[int, int]]) -> set[tuple[str, str]]:
    """Find by brute force, in exact fractions, which group is above which on the whole and below it in each part."""
    groups, places = ({key[at] for key in table} for at in (0, 1))

    def rate(group: str, where: set[str]) -> Fraction | None:
        hits, n = (sum(table[group, place][at] for place in where) for at in (0, 1))
        return Fraction(hits, n) if n else None

    found = set()
    for a, b in permutations(groups, 2):
        pairs = [(rate(a, {place}), rate(b, {place})) for place in places]
        both = [(x, y) for x, y in pairs if x is not None and y is not None]
        whole = rate(a, places), rate(b, places)
        if None not in whole and whole[0] > whole[1] and len(both) > 1 and all(x < y for x, y in both):
            found.add((a, b))
    return found


counts = st.integers(0, 30).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
unlike = st.tuples(st.sampled_from([(1, 9), (2, 9), (1, 90), (8, 9), (80, 90), (7, 9), (70, 90), (0, 0)]))


@given(st.lists(counts | unlike.map(lambda one: one[0]), min_size=9, max_size=9))
def test_exactly_the_pairs_whose_parts_all_disagree_are_found(found):
    table = {(f"g{at // 3}", f"c{at % 3}"): one for at, one in enumerate(found)}
    said = {(one.group["who"], one.than["who"]) for one in order_reversals(rates(table))}
    assert said == reversed_pairs(table)


def test_unknown_groups_and_other_metrics_are_passed_over():
    known = rates(STONES)
    renamed = [
        one.model_copy(update={"group": {"who": "unknown"}}) if one.group["who"] == "percutaneous" else one
        for one in known
    ]
    assert order_reversals(known)
    assert order_reversals(renamed) == ()
    assert order_reversals([one.model_copy(update={"metric": "calibration"}) for one in known]) == ()
