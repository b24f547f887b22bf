from pathlib import Path

import pytest

from fairdeploy import yamlfile
from fairdeploy.errors import ConfigError
from fairdeploy.gates import Rule, gates_of, parse_gates
from fairdeploy.project import TargetUsed
from fairdeploy.target import load_target


def parse(tmp_path: Path, text: str, path=("gates",), **options):
    file = tmp_path / "fairdeploy.yaml"
    file.write_text(text)
    return parse_gates(yamlfile.read(file), path, **options)


def test_the_forms_of_the_manual_are_read(tmp_path):
    rules = parse(
        tmp_path,
        """gates:
  true_positive_rate:
    - {max_drop: 0.01, against: compact, confidence: 0.9}
    - {max_drop: 0.04, against: dense}
  selection_rate: {max_drop: 0.02, max_increase: 0.03, min: 0.1, against: dense}
  equalized_odds_difference: {max: 0.15, required: false}
  worst_group_accuracy: {min: 0.85, level: device}
  flip_rate_to_negative: {max: 0.02, against: compact}
  latency_p90_ms: [{max: 5}, {max_ratio: 0.9, against: dense}]
  size_mb:
    max: 20
""",
    )
    assert [(rule.name, rule.bound, rule.where) for rule in rules] == [
        ("true_positive_rate.max_drop.compact", 0.01, "fairdeploy.yaml:3"),
        ("true_positive_rate.max_drop.dense", 0.04, "fairdeploy.yaml:4"),
        ("selection_rate.min", 0.1, "fairdeploy.yaml:5"),
        ("selection_rate.max_drop.dense", 0.02, "fairdeploy.yaml:5"),
        ("selection_rate.max_increase.dense", 0.03, "fairdeploy.yaml:5"),
        ("equalized_odds_difference.max", 0.15, "fairdeploy.yaml:6"),
        ("worst_group_accuracy.min", 0.85, "fairdeploy.yaml:7"),
        ("flip_rate_to_negative.max.compact", 0.02, "fairdeploy.yaml:8"),
        ("latency_p90_ms.max", 5, "fairdeploy.yaml:9"),
        ("latency_p90_ms.max_ratio.dense", 0.9, "fairdeploy.yaml:9"),
        ("size_mb.max", 20, "fairdeploy.yaml:11"),
    ]
    assert (rules[0].confidence, rules[5].required, rules[6].level) == (0.9, False, "device")


def test_gates_of_a_targets_use_are_read_where_they_stand(tmp_path):
    text = "targets:\n  - jetson\n  - use: jetson\n    gates: {latency_p90_ms: {max: 12}}\n"
    (rule,) = parse(tmp_path, text, ("targets", 1, "gates"))
    assert (rule.bound, rule.where) == (12, "fairdeploy.yaml:4")


def test_gates_of_a_projects_own_target_file_are_named_from_its_folder(tmp_path):
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "door.yaml").write_text(
        "version: 1\nid: door\nhardware: {this_host: true}\nruntime: {backend: ort}\ngates:\n  accuracy: {min: 0.8}\n"
    )
    (tmp_path / "fairdeploy.yaml").write_text("gates:\n  size_mb: {max: 20}\ntargets: [door]\n")
    document = yamlfile.read(tmp_path / "fairdeploy.yaml")
    own = yamlfile.read(tmp_path / "targets" / "door.yaml")
    used = TargetUsed(load_target("door", tmp_path), ((document, ("gates",)), (own, ("gates",))))
    rules = gates_of(used, "binary-classification").rules
    assert [rule.where for rule in rules] == ["fairdeploy.yaml:2", "targets/door.yaml:6"]


ONE = "gates:\n  {}\n"


@pytest.mark.parametrize(
    ("gates", "place", "says"),
    [
        ("{}", "1:1", "no gate is set"),
        ("[]", "1:1", "no gate is set"),
        ("true_positive_rat: {max_drop: 0.01, against: dense}", "2:3", "did you mean 'true_positive_rate'"),
        ("accuracy:", "2:3", "has no condition; it takes min, max, max_drop, max_increase"),
        ("accuracy: []", "2:3", "has no condition"),
        ("accuracy: {}", "2:3", "has no condition"),
        ("accuracy: {required: true}", "2:3", "has no condition"),
        ("accuracy: 0.9", "2:3", "takes a mapping such as {min: 0.9}"),
        ("accuracy: [0.9]", "2:14", "takes a mapping"),
        ("accuracy: {mim: 0.9}", "2:14", "did you mean 'min'"),
        ("accuracy: {max_drop: 0.01}", "2:14", "say 'against: dense' or 'against: compact'"),
        ("accuracy: {max_drop: 0.01, against: dence}", "2:30", "did you mean 'dense'"),
        ("accuracy: {min: 0.9, against: dense}", "2:24", "'against' does not fit 'min'"),
        ("flip_rate: {max: 0.1}", "2:15", "say 'against"),
        ("equalized_odds_difference: {min: 0.1}", "2:31", "'min' does not fit equalized_odds_difference; it takes max"),
        ("equalized_odds_difference: {max_drop: 0.1, against: dense}", "2:31", "does not fit"),
        ("worst_group_accuracy: {max: 0.9}", "2:26", "does not fit"),
        ("size_mb: {max_ratio: 0.9, against: dense}", "2:13", "does not fit"),
        ("latency_p0_ms: {max: 5}", "2:3", "did you mean 'latency_p"),
        ("latency_p100_ms: {max: 5}", "2:3", "unknown metric"),
        ("accuracy: {min: .nan}", "2:14", "give a finite number"),
        ("latency_p90_ms: {max: .inf}", "2:20", "give a finite number"),
        ("accuracy: {min: '0.9'}", "2:14", "give a finite number"),
        ("accuracy: {min: true}", "2:14", "give a finite number"),
        ("accuracy: {min: null}", "2:14", "give a finite number"),
        ("accuracy: {max_drop: -0.01, against: dense}", "2:14", "above 0 and below 1"),
        ("accuracy: {max_drop: 0, against: dense}", "2:14", "above 0 and below 1"),
        ("accuracy: {max_drop: 1, against: dense}", "2:14", "above 0 and below 1"),
        ("accuracy: {min: 85}", "2:14", "0.01 for one point"),
        ("latency_p90_ms: {max: 0}", "2:20", "above 0"),
        ("size_mb: {max: -3}", "2:13", "above 0"),
        ("accuracy: {min: 0.9, confidence: 0}", "2:24", "above 0.5 and below 1"),
        ("accuracy: {min: 0.9, confidence: 1}", "2:24", "above 0.5 and below 1"),
        ("accuracy: {min: 0.9, confidence: .nan}", "2:24", "above 0.5 and below 1"),
        ("accuracy: {min: 0.9, confidence: high}", "2:24", "above 0.5 and below 1"),
        ("accuracy: {min: 0.9, level: devise}", "2:24", "did you mean 'device'"),
        ("accuracy: {min: 0.9, required: 'no'}", "2:24", "give true or false"),
        ("accuracy: [{min: 0.9}, {min: 0.8}]", "2:3", "accuracy.min stands twice"),
    ],
)  # fmt: skip
def test_mistakes_are_refused_with_their_place(tmp_path, gates, place, says):
    with pytest.raises(ConfigError, match=says) as caught:
        parse(tmp_path, ONE.format(gates) if gates not in ("{}", "[]") else f"gates: {gates}\n")
    assert str(caught.value).startswith(f"{tmp_path / 'fairdeploy.yaml'}:{place}: ")


def test_a_file_without_gates_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no gate is set"):
        parse(tmp_path, "name: kiosk\n")


def test_with_many_classes_two_class_metrics_are_refused(tmp_path):
    many = {"task": "multiclass-classification"}
    assert parse(tmp_path, ONE.format("accuracy: {min: 0.9}"), **many)
    with pytest.raises(ConfigError, match="needs two classes; with many, name one as in 'class: cat', or use acc"):
        parse(tmp_path, ONE.format("true_positive_rate: {min: 0.9}"), **many)


@pytest.mark.parametrize(
    "rule",
    [
        {"metric": "acuracy", "condition": "min", "bound": 0.9},
        {"metric": "accuracy", "condition": "max_drop", "bound": 0.1},
        {"metric": "accuracy", "condition": "min", "bound": 0.9, "against": "dense"},
        {"metric": "accuracy", "condition": "min", "bound": float("nan")},
        {"metric": "accuracy", "condition": "min", "bound": 0},
        {"metric": "accuracy", "condition": "max", "bound": 1},
        {"metric": "accuracy", "condition": "min", "bound": 0.9, "confidence": 1},
        {"metric": "latency_p90_ms", "condition": "max", "bound": -1},
    ],
)
def test_rules_made_in_python_are_checked_too(rule):
    with pytest.raises(ValueError, match="validation error"):
        Rule(**rule)
