"""500 generated attacks, of which none may pass, and 500 honest artifacts at the planner's size, which mostly do."""

from __future__ import annotations

from collections import Counter
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from fairdeploy import yamlfile
from fairdeploy.errors import FairdeployError
from fairdeploy.evidence import Evidence, judge
from fairdeploy.gates import Gates, Waiver, gate, parse_gates, parse_waivers

from .cases import DROP, GATES, LEVELS, MARGIN, decide, evidence_of, harmed, honest

CASES = 500
HELD = ("pass", "waived")


def harm(rng, rows=None, least=1.5):
    rows = honest(rng) if rows is None else rows
    return harmed(rng, rows, str(rng.choice(LEVELS)), MARGIN * rng.uniform(least, 4))


def degrade_one_group(rng, _):
    return decide(harm(rng))


def degrade_all_groups_alike(rng, _):
    rows, loss = honest(rng), MARGIN * rng.uniform(1.5, 4)
    for level in LEVELS:
        rows = harmed(rng, rows, level, loss)
    return decide(rows)


def hide_in_a_large_average(rng, _):
    """The harmed group stays as small as it is planned, everyone else is many."""
    rows = honest(rng, 3000)
    level = str(rng.choice(LEVELS))
    kept = (rows.groups != level) | (np.arange(len(rows.ids)) % 3 == 0)
    return decide(harmed(rng, rows.take(kept), level, MARGIN * rng.uniform(1.5, 4)))


def predict_one_class(rng, _):
    rows = honest(rng)
    return decide(rows.but(deployed=np.zeros_like(rows.deployed)))


def shrink_a_group(rng, _):
    rows, level = honest(rng), str(rng.choice(LEVELS))
    kept = rows.in_group(level).nonzero()[0][: int(rng.choice([0, 1, 3, 29]))]
    return decide(rows.take(np.union1d((~rows.in_group(level)).nonzero()[0], kept)))


def drop_a_group(rng, _):
    rows = harm(rng)
    return decide(rows.take(rows.groups != str(rng.choice(LEVELS))))


def move_a_group_into_another(rng, _):
    rows = harm(rng)
    one, other = rng.choice(LEVELS, 2, replace=False)
    return decide(rows.but(groups=np.where(rows.groups == one, other, rows.groups)))


def move_a_group_to_unknown(rng, _):
    rows, level = honest(rng), str(rng.choice(LEVELS))
    return decide(rows.but(groups=np.where(rows.groups == level, "", rows.groups)))


def rename_a_group(rng, _):
    rows = honest(rng)
    name = str(rng.choice(["A", "a ", "d", "b\u200b", "nan", "all"]))
    return decide(rows.but(groups=np.where(rows.groups == "a", name, rows.groups)))


def relabel_positives(rng, _):
    """Call the group's lost positives negatives in the deployed run only: another label, another row."""
    rows = harm(rng)
    lost = (rows.labels == 1) & (rows.reference == 1) & (rows.deployed == 0)
    after = rows.but(labels=np.where(lost, 0, rows.labels))
    facts = evidence_of(dense=rows.tally(), compact=after.tally())
    return judged_again(facts)


def drop_rows_that_failed(rng, _):
    """Against one reference the rows that were lost are left out."""
    rows = harm(rng)
    lost = (rows.reference == rows.labels) & (rows.deployed != rows.labels)
    return judged_again(evidence_of(compact=rows.tally(), dense=rows.take(~lost).tally()))


def judged_again(found: Evidence):
    record = found.record
    return gate(
        judge(
            tallies=found.tallies, target="here", level="device", level_reason="", spec_digest=record.spec_digest,
            data_fingerprint=record.data_fingerprint, reference_digests={}, requested_precision="int8", seed=0,
        ),
        GATES,
    )  # fmt: skip


def swap_the_tally(rng, _):
    """Evidence of the harmed artifact, tally of a harmless one."""
    return gate(Evidence(evidence_of(dense=harm(rng).tally()).record, {"dense": honest(rng).tally()}), GATES)


def rename_the_reference(rng, _):
    """The artifact stands in for the reference under another name; the gate's own reference is missing."""
    rows = harm(rng)
    return gate(evidence_of(compact=rows.tally(reference=rows.deployed)), GATES)


def double_ids(rng, _):
    rows = honest(rng)
    ids = rows.ids.copy()
    ids[rng.integers(1, len(ids))] = ids[0]
    return decide(rows.but(ids=ids))


def cut_a_column(rng, _):
    rows = honest(rng)
    name = str(rng.choice(["ids", "groups", "labels", "reference", "deployed"]))
    return decide(rows.but(**{name: getattr(rows, name)[: -int(rng.integers(1, 9))]}))


def poison_a_column(rng, _):
    rows = honest(rng)
    name = str(rng.choice(["labels", "reference", "deployed"]))
    values = getattr(rows, name).astype(object)
    values[rng.integers(len(values))] = [float("nan"), float("inf"), "1", None, 2, -1, 0.5, 2**63][rng.integers(8)]
    return decide(rows.but(**{name: values}))


def loosen_the_gates(rng, folder):
    texts = (
        "{}", "accuracy: {}", "true_positive_rate: {max_drop: 1, against: dense}",
        "true_positive_rate: {max_drop: .nan, against: dense}", "true_positive_rate: {max_drop: .inf, against: dense}",
        "true_positive_rate: {max_drop: 0.02, against: dense, confidence: 0}",
        "true_positive_rate: {max_drop: 0.02, against: dense, confidence: 1}",
        "true_positive_rate: {max_drop: 0.02, against: dense, required: 'no'}",
        "true_positive_rate: {max_drop: 0.02, against: dense, required: false}",
        "true_positive_rate: {max_drop: 0.02}", "true_positive_rte: {max_drop: 0.02, against: dense}",
        "true_positive_rate: {max_drop: 0.02, max_drop: 0.9, against: dense}",
        "true_positive_rate: {max_drop: 0.02, against: compact}",
        "true_positive_rate: {max_drop: '0.9', against: dense}",
        "true_positive_rate: {max_drop: 0.02, against: dense, level: devise}",
        "true_positive_rate: {max_drop: 0.02, against: dense, within: light}",
    )  # fmt: skip
    file = folder / "gates.yaml"
    file.write_text("gates:\n  " + texts[rng.integers(len(texts))])
    return decide(harm(rng), Gates(rules=parse_gates(yamlfile.read(file))))


def waive_otherwise(rng, folder):
    """A waiver that is expired, or for another cell, rule, bound or target, or without reason or approver."""
    level, today = str(rng.choice(LEVELS)), date(2026, 6, 1)
    fields = {
        "target": "here", "rule": DROP.name, "bound": MARGIN, "group": f"{{g: {level}}}", "expires": "2026-12-31",
        "reason": "accepted for the pilot", "approver": "R. Officer",
    }  # fmt: skip
    spoilt = {
        "target": "there", "rule": "accuracy.max_drop.dense", "bound": 0.05, "group": "{g: d}",
        "expires": "2026-05-31", "reason": "''", "approver": "''",
    }  # fmt: skip
    key = str(rng.choice(sorted(spoilt)))
    lines = "\n    ".join(f"{name}: {value}" for name, value in {**fields, key: spoilt[key]}.items())
    file = folder / "waivers.yaml"
    file.write_text(f"waivers:\n  - {lines}\n")
    waivers: tuple[Waiver, ...] = parse_waivers(yamlfile.read(file))
    rows = harmed(rng, honest(rng), level, MARGIN * rng.uniform(1.5, 4))
    return gate(evidence_of(dense=rows.tally()), GATES, waivers=waivers, today=today)


ATTACKS = (
    degrade_one_group, degrade_one_group, degrade_one_group, degrade_all_groups_alike, hide_in_a_large_average,
    predict_one_class, shrink_a_group, drop_a_group, move_a_group_into_another, move_a_group_to_unknown,
    rename_a_group, relabel_positives, drop_rows_that_failed, swap_the_tally, rename_the_reference, double_ids,
    cut_a_column, poison_a_column, loosen_the_gates, waive_otherwise,
)  # fmt: skip


def test_no_generated_attack_passes(tmp_path: Path) -> None:
    outcomes: Counter[str] = Counter()
    passed = []
    for number in range(CASES):
        attack = ATTACKS[number % len(ATTACKS)]
        try:
            status = attack(np.random.default_rng([1, number]), tmp_path).status
        except FairdeployError:
            status = "refused"
        outcomes[status] += 1
        passed += [(attack.__name__, number)] if status in HELD else []
    assert not passed
    assert sum(outcomes.values()) == CASES
    assert min(outcomes[one] for one in ("fail", "inconclusive", "refused")) > 25  # each way of not passing is tried


def test_honest_artifacts_at_the_planners_size_mostly_pass() -> None:
    verdicts = Counter(decide(honest(np.random.default_rng([2, number]))).status for number in range(CASES))
    assert verdicts["pass"] >= 0.8 * CASES
    assert verdicts["fail"] <= 0.01 * CASES


@pytest.mark.parametrize("number", range(3))
def test_the_order_of_rows_changes_nothing(number: int) -> None:
    rng = np.random.default_rng([3, number])
    rows = honest(rng)
    assert decide(rows.take(rng.permutation(len(rows.ids)))).digest == decide(rows).digest
