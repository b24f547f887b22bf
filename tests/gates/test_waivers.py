import json
from datetime import date

import pytest
from pydantic import ValidationError

from fairdeploy import yamlfile
from fairdeploy.errors import ConfigError, ExitCode
from fairdeploy.evidence import judge
from fairdeploy.gates import Gates, Rule, Waiver, gate, parse_waivers, read_gates, worst_exit

FACTS = {
    "target": "here", "level": "device", "level_reason": "this host", "spec_digest": "b" * 64,
    "data_fingerprint": "c" * 64, "reference_digests": {}, "requested_precision": "int8", "seed": 3,
}  # fmt: skip
DROP = Rule(metric="true_positive_rate", condition="max_drop", bound=0.01, against="dense", where="gates.yaml:2")
TODAY = date(2026, 6, 1)
WAIVER = Waiver(
    target="here",
    rule=DROP.name,
    bound=0.01,
    group={"g": "b"},
    reason="b is retrained in the next release",
    approver="R. Officer",
    expires=date(2026, 6, 30),
)


def group(name, n, lost=0):
    return {(name, 1, 1, 1): n - lost, (name, 1, 1, 0): lost}


@pytest.fixture
def harmed(tally_of):
    """Group b lost 5 of 100; everyone together is diluted by a."""
    return judge(tallies={"dense": tally_of({**group("a", 60_000), **group("b", 2000, 100)})}, **FACTS)


def decide(evidence, *waivers, today=TODAY, rules=(DROP,)):
    return gate(evidence, Gates(rules=rules), waivers=waivers, today=today)


def other(**changes):
    return WAIVER.model_copy(update=changes)


def test_a_named_cell_is_waived_never_passed_and_keeps_its_numbers(harmed):
    before, after = decide(harmed), decide(harmed, WAIVER)
    assert (before.status, after.status) == ("fail", "waived")
    failed, waived = before.cells[2], after.cells[2]
    assert waived == failed.model_copy(update={"status": "waived", "waiver": WAIVER})
    assert waived.value == 0.05
    assert after.cells[:2] == before.cells[:2]
    assert worst_exit([after.status]) == ExitCode.DONE
    assert "1 check of 3 waived, the others hold" in after.sentence
    assert "R. Officer until 2026-06-30: b is retrained in the next release" in after.sentence
    assert [use.effect for use in after.waivers] == ["waives"]


@pytest.mark.parametrize(
    ("changes", "effect", "says"),
    [
        ({"expires": date(2026, 5, 31)}, "expired", "expired on 2026-05-31"),
        ({"group": {"g": "a"}}, "unneeded", "its cell passes"),
        ({"group": {"g": "c"}}, "unmatched", "no cell for g c"),
        ({"group": {}}, "unneeded", "its cell passes"),
        ({"context": {"light": "dark"}}, "unmatched", "no cell for g b in light dark"),
        ({"bound": 0.02}, "unmatched", "bound is 0.01, not 0.02"),
        ({"rule": "true_positive_rate.max_drop.compact"}, "unmatched", "did you mean 'true_positive_rate.max_drop.d"),
        ({"target": "there"}, "unmatched", "for the target there"),
    ],
)
def test_any_other_waiver_has_no_effect_and_the_verdict_says_so(harmed, changes, effect, says):
    verdict = decide(harmed, other(**changes))
    assert verdict.status == "fail"
    assert verdict.cells == decide(harmed).cells
    assert [use.effect for use in verdict.waivers] == [effect]
    assert "has no effect" in verdict.sentence
    assert says in verdict.sentence


def test_a_waiver_holds_on_its_last_day_and_not_after(harmed):
    assert decide(harmed, WAIVER, today=date(2026, 6, 30)).status == "waived"
    assert decide(harmed, WAIVER, today=date(2026, 7, 1)).status == "fail"


def test_a_waiver_for_one_cell_leaves_another_failing(tally_of):
    evidence = judge(tallies={"dense": tally_of({**group("a", 2000, 90), **group("b", 2000, 100)})}, **FACTS)
    assert decide(evidence, WAIVER).status == "fail"
    rest = [other(group={"g": "a"}), other(group={})]
    assert decide(evidence, WAIVER, *rest).status == "waived"


def test_an_inconclusive_or_empty_group_may_be_accepted_by_name(tally_of):
    for counts in ({**group("a", 60_000), **group("b", 20)}, group("a", 60_000)):
        evidence = judge(tallies={"dense": tally_of(counts)}, **FACTS)
        assert decide(evidence).status == "inconclusive"
        assert decide(evidence, WAIVER).status == "waived"


def test_a_crash_and_a_missing_reference_cannot_be_waived(tally_of):
    everyone = other(group={})
    crashed = judge(failure="it crashed", **FACTS)
    alone = judge(tallies={"compact": tally_of(group("a", 60_000))}, **FACTS)
    for evidence in (crashed, alone):
        verdict = decide(evidence, everyone)
        assert verdict.status == "inconclusive"
        assert "nothing to accept" in verdict.sentence


def test_a_rule_that_is_only_reported_needs_no_waiver(harmed):
    verdict = decide(harmed, WAIVER, rules=(DROP.model_copy(update={"required": False}),))
    assert verdict.status == "inconclusive"
    assert verdict.waivers[0].effect == "unneeded"


def test_two_waivers_for_one_cell_and_waivers_without_a_date_are_refused(harmed):
    with pytest.raises(ConfigError, match="two waivers name true_positive_rate.max_drop.dense of g b"):
        decide(harmed, WAIVER, other(approver="Somebody Else"))
    with pytest.raises(ConfigError, match="say the date"):
        decide(harmed, WAIVER, today=None)


def test_a_verdict_with_waivers_says_on_which_day_it_was_judged(harmed):
    late = other(group={"g": "c"}, expires=date(2026, 1, 1))
    verdict, again = (decide(harmed, WAIVER, late, today=today) for today in (TODAY, date(2026, 6, 2)))
    assert [use.judged_on for use in verdict.waivers] == [TODAY, TODAY]
    assert verdict.sentence.endswith("Waivers were held against 2026-06-01.")
    assert again.sentence.endswith("Waivers were held against 2026-06-02.")
    assert verdict.cells == again.cells
    assert decide(harmed, WAIVER, late).digest == verdict.digest != again.digest
    assert decide(harmed, today=TODAY).digest == decide(harmed, today=None).digest


ONE = """waivers:
  - target: here
    rule: true_positive_rate.max_drop.dense
    bound: 0.01
    group: {{g: b}}
    reason: b is retrained in the next release
    approver: R. Officer
    expires: {}
"""


@pytest.mark.parametrize("day", ["2026-06-30", "'2026-06-30'"])
def test_waivers_are_read_with_the_date_quoted_or_not(tmp_path, day):
    file = tmp_path / "fairdeploy.yaml"
    file.write_text(ONE.format(day))
    assert parse_waivers(yamlfile.read(file)) == (WAIVER,)


@pytest.mark.parametrize(
    ("old", "new", "place", "says"),
    [
        ("    approver: R. Officer\n", "", "2:5", "lacks the key 'approver'"),
        ("R. Officer", "''", "7:5", "at least 2 letters"),
        ("R. Officer", "'   '", "7:5", "at least 2 letters"),
        ("    reason: b is retrained in the next release\n", "", "2:5", "lacks the key 'reason'"),
        ("b is retrained in the next release", "ok", "6:5", "at least 10 visible characters"),
        ("2026-06-30", "20260630", "8:5", "write a date"),
        ("2026-06-30", "never", "8:5", "date"),
        ("    expires: 2026-06-30\n", "", "2:5", "lacks the key 'expires'"),
        ("bound: 0.01", "bound: '0.01'", "4:5", "number"),
        ("{g: b}", "{g: 3}", "5:13", "must be text"),
        ("    reason", "    aprover: R.\n    reason", "6:5", "did you mean 'approver'"),
        ("    bound: 0.01\n", "", "2:5", "lacks the key 'bound'"),
    ],
)
def test_mistakes_are_refused_with_their_place(tmp_path, old, new, place, says):
    file = tmp_path / "gates.yaml"
    text = ONE.format("2026-06-30")
    assert old in text
    file.write_text("accuracy: {min: 0.9}\n" + text.replace(old, new))
    line, column = place.split(":")
    with pytest.raises(ConfigError, match=says) as caught:
        read_gates(file, task="binary-classification")
    assert str(caught.value).startswith(f"{file}:{int(line) + 1}:{column}: ")


NOBODY = ["---", "...", "TBD", "tbd.", "N/A", "n / a", "null", "None", "no-body", "\uff34\uff22\uff24", "A.", "123"]
UNSEEN = [
    "\u200b" * 12,
    "\u2060" * 12,
    "\u3164" * 12,
    "\u2800" * 12,
    "Ann\u202e Bee with reason",
    "Ann\x07 Bee with reason",
]


@pytest.mark.parametrize(
    ("key", "text", "says"),
    [
        *(("approver", text, "names nobody") for text in NOBODY),
        *((key, text, "cannot be seen") for key in ("approver", "reason") for text in UNSEEN),
        ("reason", "o k   o k   o k", "10 visible characters"),
        ("reason", "a\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301", "10 visible characters"),
    ],
)
def test_an_approver_is_somebody_and_a_reason_can_be_read(tmp_path, key, text, says):
    given = {**WAIVER.model_dump(mode="json"), key: text}
    with pytest.raises(ValidationError, match=says):
        Waiver(**given)
    file = tmp_path / "gates.yaml"
    file.write_text(json.dumps({"accuracy": {"min": 0.9}, "waivers": [given]}))
    with pytest.raises(ConfigError, match=f"'waivers.0.{key}': .*{says}"):
        read_gates(file, task="binary-classification")


@pytest.mark.parametrize("name", ["R. Officer", "Zoë", "김민수", "Nguyễn Văn A", "O'Neil-Smith, CRO"])
def test_names_of_any_script_are_names(name):
    assert Waiver(**{**WAIVER.model_dump(), "approver": name}).approver == name


def test_a_gates_file_holds_metrics_waivers_and_what_holds_over_all_targets(tmp_path):
    file = tmp_path / "gates.yaml"
    for first in ("accuracy: {min: 0.9}", "gates: {accuracy: {min: 0.9}}"):
        file.write_text(first + "\nacross_targets: {accuracy: {max_spread: 0.02}}\n" + ONE.format("2026-06-30"))
        found = read_gates(file, task="binary-classification")
        assert [rule.name for rule in found.gates.rules] == ["accuracy.min"]
        assert [rule.name for rule in found.across.rules] == ["accuracy.max_spread"]
        assert found.waivers == (WAIVER,)


def test_the_lone_reference_is_meant_where_none_is_named(tmp_path):
    file = tmp_path / "gates.yaml"
    file.write_text("accuracy: [{max_drop: 0.01}, {min: 0.9}]\nflip_rate: {max: 0.1, against: dense}")
    rules = read_gates(file, task="binary-classification", lone="reference").gates.rules
    assert [rule.against for rule in rules] == ["reference", None, "dense"]
    with pytest.raises(ConfigError, match="say 'against"):
        read_gates(file, task="binary-classification")


def test_a_gates_file_that_is_no_such_file_is_refused(tmp_path):
    file = tmp_path / "gates.yaml"
    for text, says in (
        ("gates: {accuracy: {min: 0.9}}\naccuracy: {min: 0.9}", "unknown key 'accuracy'"),
        (ONE.format("2026-06-30"), "no gate is set"),
        ("accuracy: {max_spread: 0.02}", "does not fit accuracy"),
        ("accuracy: {min: 0.9}\naccuracy: {min: 0.8}", "not valid YAML"),
        ('{"rules": []}', "no gate is set"),
        (ONE.format("2026-02-30"), "day is out of range"),
        ('{"rules": [{"metric": "accuracy", "condition": "min", "bound": 1.5}]}', "can never pass"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=says):
            read_gates(file, task="binary-classification")


def test_a_sealed_gates_file_keeps_its_digest(tmp_path):
    gates = Gates(rules=(DROP, Rule(metric="accuracy", condition="min", bound=1e-05)))
    gates.save(tmp_path / "gates.json")
    assert read_gates(tmp_path / "gates.json", task="binary-classification").gates.digest == gates.digest
