"""Facts read from recorded /proc files of other machines."""

import os
import stat

import pytest

from fairdeploy.devices import DeviceFacts
from fairdeploy.devices.facts import read_facts

X86 = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Xeon\nflags\t\t: fpu avx2 amx_int8 avx512_bf16 sse\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp bf16 crc32\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n"


def make_root(root, cpuinfo, *, model=None, compatible=None):
    (root / "proc/device-tree").mkdir(parents=True)
    (root / "proc/cpuinfo").write_text(cpuinfo)
    (root / "proc/meminfo").write_text("MemTotal:        7802880 kB\nMemFree:  1 kB\n")
    if model:
        (root / "proc/device-tree/model").write_bytes(model)
        (root / "proc/device-tree/compatible").write_bytes(compatible)
    return root


def read(root, monkeypatch, machine):
    monkeypatch.setattr("platform.machine", lambda: machine)
    return DeviceFacts.model_validate(read_facts(root))


def test_x86(tmp_path, monkeypatch):
    facts = read(make_root(tmp_path, X86), monkeypatch, "AMD64")
    assert facts.model_dump() == {
        "arch": "x86_64", "vendor": "intel", "model": "Xeon", "instructions": ("avx2", "avx512_bf16", "amx_int8"),
        "compute_capability": None, "power_mode": None, "memory_mb": 7620, "emulated": False,
    }  # fmt: skip


def test_a_jetson_with_its_power_mode(tmp_path, monkeypatch):
    root = make_root(
        tmp_path, ARM, model=b"NVIDIA Jetson Orin Nano Developer Kit\0",
        compatible=b"nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0nvidia,tegra234\0",
    )  # fmt: skip
    tool = tmp_path / "nvpmodel"
    tool.write_text("#!/bin/sh\necho 'NV Power Mode: 15W'\necho 0\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    facts = read(root, monkeypatch, "aarch64")
    assert (facts.vendor, facts.compute_capability, facts.power_mode) == ("nvidia", "8.7", "15W")
    assert facts.model == "NVIDIA Jetson Orin Nano Developer Kit"
    assert facts.instructions == ("asimd", "asimddp", "bf16")
    assert not facts.emulated


def test_a_jetson_without_the_tool_has_an_unknown_power_mode(tmp_path, monkeypatch):
    root = make_root(tmp_path, ARM, model=b"NVIDIA Jetson\0", compatible=b"nvidia,tegra194\0")
    monkeypatch.setenv("PATH", "")
    facts = read(root, monkeypatch, "aarch64")
    assert (facts.compute_capability, facts.power_mode) == ("7.2", None)


@pytest.mark.parametrize(("machine", "cpuinfo"), [("aarch64", X86), ("x86_64", ARM)])
def test_a_cpu_list_of_another_architecture_means_emulation(tmp_path, monkeypatch, machine, cpuinfo):
    assert read(make_root(tmp_path, cpuinfo), monkeypatch, machine).emulated


def test_a_machine_that_tells_nothing(tmp_path, monkeypatch):
    facts = read(tmp_path, monkeypatch, "riscv64")
    assert (facts.arch, facts.vendor, facts.memory_mb, facts.emulated) == ("riscv64", "unknown", None, False)
