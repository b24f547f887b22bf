from datetime import date
from types import SimpleNamespace

import pytest

from fairdeploy import policy, yamlfile
from fairdeploy.errors import ConfigError
from fairdeploy.policy import Policy

WAIVER = """waivers:
  - target: {}
    rule: accuracy.min
    bound: 0.9
    group: {{}}
    reason: accepted for the pilot
    approver: R. Officer
    expires: 2026-12-31
"""


@pytest.fixture
def read(tmp_path, monkeypatch):
    targets = [SimpleNamespace(target=SimpleNamespace(id=name)) for name in ("door-cam", "kiosk")]
    monkeypatch.setattr(policy, "resolve_targets", lambda *_: targets)

    def read(text):
        file = tmp_path / "fairdeploy.yaml"
        file.write_text(text)
        project = SimpleNamespace(task="binary-classification")
        return Policy.read(project, yamlfile.read(file), tmp_path, today=date(2026, 6, 1))

    return read


def test_a_waiver_goes_to_its_own_target(read):
    found = read("name: x\n" + WAIVER.format("kiosk"))
    assert found.targets == ("door-cam", "kiosk")
    assert [len(found._waivers(name)) for name in found.targets] == [0, 1]
    assert found.gate_across([]) is None


def test_a_waiver_for_a_target_that_there_is_not_is_refused_with_its_line(read):
    with pytest.raises(ConfigError, match=r"yaml:3:5: no target 'kiosc' .*did you mean 'kiosk'"):
        read("name: x\n" + WAIVER.format("kiosc"))


def test_a_waiver_over_all_targets_needs_a_rule_over_all_targets(read):
    with pytest.raises(ConfigError, match="no target '\\*'"):
        read("name: x\n" + WAIVER.format("'*'"))
    found = read("across_targets: {accuracy: {min: 0.9}}\n" + WAIVER.format("'*'"))
    assert [rule.name for rule in found.across.rules] == ["accuracy.min"]


def test_an_empty_view_over_all_targets_is_refused(read):
    with pytest.raises(ConfigError, match="no gate is set"):
        read("across_targets: {}\n")
