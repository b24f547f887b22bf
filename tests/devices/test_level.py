"""Levels from facts: what differs between machine and target lowers them, and the reason says it."""

import pytest

from fairdeploy.devices import DeviceFacts
from fairdeploy.devices.level import level
from fairdeploy.target import Hardware, Runtime, Target, load_target
from fairdeploy.testing import FakeDevice

FACTS = DeviceFacts(arch="x86_64", vendor="amd", model="EPYC", instructions=("avx2", "avx512_vnni"), memory_mb=24000)
ORIN = load_target("jetson")
ORIN_FACTS = FakeDevice.for_target(ORIN).facts


def target(**hardware):
    return Target(id="t", hardware=Hardware(**hardware), runtime=Runtime(backend="ort"))


def judge(one, facts=FACTS, *, is_host=True, simulated=False, version="10.3.0"):
    return level(one, facts, {"version": version}, is_host=is_host, simulated=simulated)


@pytest.mark.parametrize(
    ("hardware", "expected", "said"),
    [
        ({"this_host": True}, "device", "is the machine it ran on"),
        ({"arch": "x86_64"}, "device", "EPYC"),
        ({"arch": "x86_64", "vendor": "amd", "instructions": ("avx2",)}, "device", "EPYC"),
        ({"arch": "aarch64"}, "proxy", "arch aarch64, not x86_64"),
        ({"vendor": "intel"}, "proxy", "vendor intel, not amd"),
        ({"arch": "x86_64", "instructions": ("avx2", "amx_int8")}, "proxy", "instructions amx_int8, which it lacks"),
        ({"compute_capability": "8.7"}, "proxy", "compute capability 8.7, not unknown"),
        ({"memory_mb": 25000}, "device", "EPYC"),
        ({"memory_mb": 8000}, "proxy", "8000 MB of memory, not 24000"),
        ({}, "proxy", "names no hardware"),
    ],
)
def test_on_this_machine(hardware, expected, said):
    found, reason = judge(target(**hardware))
    assert found == expected
    assert said in reason


def test_this_host_elsewhere_is_a_proxy():
    assert judge(target(this_host=True), is_host=False)[0] == "proxy"


@pytest.mark.parametrize(("version", "expected"), [("10.3", "device"), ("10.3.0", "device"), ("10.13.2", "proxy")])
def test_another_version_of_the_runtime_is_a_proxy(version, expected):
    found, reason = judge(ORIN, ORIN_FACTS, is_host=False, version=version)
    assert found == expected
    assert expected == "device" or "asks for version 10.3" in reason


def test_another_runtime_is_simulated_even_on_the_target_itself():
    assert judge(ORIN, ORIN_FACTS, simulated=True)[0] == "simulated"


def test_a_device_that_matches_in_everything():
    assert judge(ORIN, ORIN_FACTS, is_host=False)[0] == "device"


@pytest.mark.parametrize(
    "change", [{"power_mode": "7W"}, {"compute_capability": "7.2"}, {"memory_mb": 15000}, {"memory_mb": None}]
)
def test_a_device_that_differs_in_one_thing_is_a_proxy(change):
    assert judge(ORIN, ORIN_FACTS.model_copy(update=change), is_host=False)[0] == "proxy"


def test_an_emulated_cpu_counts_for_numerics_only_where_the_architecture_fits():
    pi = target(arch="aarch64", vendor="arm", instructions=("asimddp",), memory_mb=4000)
    facts = DeviceFacts(arch="aarch64", vendor="amd", model="qemu", instructions=("asimddp",), emulated=True)
    assert judge(pi, facts)[0] == "emulated"
    assert judge(pi, facts.model_copy(update={"instructions": ()}))[0] == "proxy"
    assert judge(target(arch="x86_64"), facts)[0] == "proxy"
