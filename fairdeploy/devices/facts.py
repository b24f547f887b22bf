"""What the runner reads about the machine it runs on; the evidence level is computed from it.

Shipped in the runner's zipapp: standard library only, Python 3.8 syntax.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

# CPU flags that choose other kernels, hence other numerics: integer dot products, half and bfloat16 arithmetic.
X86_FLAGS = ("fma", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16")
AMX_FLAGS = ("amx_tile", "amx_int8", "amx_bf16", "amx_fp16")
ARM_FLAGS = ("neon", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2")
NUMERIC_FLAGS = X86_FLAGS + AMX_FLAGS + ARM_FLAGS
VENDORS = {"AuthenticAMD": "amd", "GenuineIntel": "intel", "0x41": "arm", "0x51": "qualcomm", "0x61": "apple"}
# Tegra chips by device-tree name; NVIDIA's list of compute capabilities (developer.nvidia.com/cuda-gpus).
TEGRA_COMPUTE = {"tegra194": "7.2", "tegra234": "8.7", "tegra264": "11.0"}


def read_facts(root: Path = Path("/")) -> dict[str, Any]:
    """Read architecture, vendor, model, instructions, memory and, on a Jetson, compute capability and power mode.

    Parameters
    ----------
    root : Path
        Where ``proc`` is found.

    Returns
    -------
    dict
        The fields of `fairdeploy.devices.base.DeviceFacts`.
    """
    arch = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine())
    cpu = _fields(root / "proc/cpuinfo")
    flags = set((cpu.get("flags") or cpu.get("Features") or "").split())
    vendor_id = cpu.get("vendor_id") or cpu.get("CPU implementer") or "unknown"
    board, chip = _text(root / "proc/device-tree/model"), _text(root / "proc/device-tree/compatible")
    tegra = next((name for name in TEGRA_COMPUTE if name in chip), None)
    total = _fields(root / "proc/meminfo").get("MemTotal", "").split()
    return {
        "arch": arch,
        "vendor": "nvidia" if tegra else VENDORS.get(vendor_id, vendor_id),
        "model": board or cpu.get("model name") or "unknown",
        "instructions": [flag for flag in NUMERIC_FLAGS if flag in flags],
        "compute_capability": TEGRA_COMPUTE[tegra] if tegra else None,
        "power_mode": _power_mode() if tegra else None,
        "memory_mb": int(total[0]) // 1024 if total else None,
        # An emulated process sees the CPU list of the machine below it.
        "emulated": bool(cpu) and ("vendor_id" in cpu) != (arch == "x86_64"),
    }


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").replace("\0", " ").strip()
    except OSError:
        return ""


def _fields(path: Path) -> dict[str, str]:
    """Return the first value of every ``name : value`` line."""
    found: dict[str, str] = {}
    for line in _text(path).splitlines():
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    return {name: value for name, value in found.items() if name}


def _power_mode() -> str | None:
    """Return the Jetson's power mode, as in "15W"."""
    tool = shutil.which("nvpmodel")
    if tool is None:
        return None
    try:
        said = subprocess.run(
            [tool, "-q"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=10
        ).stdout.decode("utf-8", "replace")
    except (OSError, subprocess.SubprocessError):
        return None
    named = re.search(r"NV Power Mode:\s*(?:MODE_)?(\S+)", said)
    return named.group(1) if named else None
