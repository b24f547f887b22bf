"""The level of evidence: computed from what the runner read on the machine, never declared."""

from __future__ import annotations

from collections.abc import Mapping

from fairdeploy.devices.base import DeviceFacts
from fairdeploy.evidence.records import Level
from fairdeploy.target import Hardware, Target

# Firmware and the kernel keep a part of the memory for themselves, and not the same part in every release.
MEMORY_TOLERANCE = 0.1


def level(
    target: Target, facts: DeviceFacts, runtime: Mapping[str, str], *, is_host: bool, simulated: bool
) -> tuple[Level, str]:
    """Return how much evidence from a run says about a target, and why in one sentence.

    Parameters
    ----------
    target : Target
    facts : DeviceFacts
        What the runner read.
    runtime : mapping of str to str
        The runtime's name and version, as the runner read them.
    is_host : bool
        Whether it ran on the machine that runs fairdeploy.
    simulated : bool
        Whether another runtime than the target's ran it.

    Returns
    -------
    level : {"device", "emulated", "proxy", "simulated"}
    reason : str
    """
    backend = target.runtime.backend
    if simulated:
        return "simulated", f"another runtime than {backend} ran the network, on {_name(facts)}"
    wanted, ran = target.runtime.version, runtime.get("version", "unknown")
    if wanted and not f"{ran}.".startswith(f"{wanted}."):
        return "proxy", f"{backend} {ran} ran the network, but {target.id} asks for version {wanted}"
    if target.hardware.this_host:
        if contradictions := _differences(target.hardware, facts):
            return "proxy", f"it ran on {_name(facts)}, but {target.id} asks for {'; '.join(contradictions)}"
        if is_host:
            return "device", f"{target.id} is the machine it ran on, {_name(facts)}"
        return "proxy", f"{target.id} means the machine that runs fairdeploy, but it ran on {_name(facts)}"
    if facts.emulated:
        differences = _differences(target.hardware.model_copy(update=_UNSEEN_UNDER_EMULATION), facts)
        if not differences:
            return "emulated", f"{backend} ran on an emulated {facts.arch}: its numerics count, its latency does not"
    else:
        differences = _differences(target.hardware, facts)
        if not differences and target.hardware != Hardware():
            return "device", f"it ran on {_name(facts)}, which is all that {target.id} asks for"
    if not differences:
        return "proxy", f"{target.id} names no hardware, so no machine can be told to be it"
    return "proxy", f"it ran on {_name(facts)}, but {target.id} asks for {'; '.join(differences)}"


_UNSEEN_UNDER_EMULATION = {"vendor": None, "compute_capability": None, "power_mode": None, "memory_mb": None}


def _name(facts: DeviceFacts) -> str:
    return f"{facts.model} ({facts.arch})"


def _differences(hardware: Hardware, facts: DeviceFacts) -> list[str]:
    found = []
    for field in ("arch", "vendor", "compute_capability", "power_mode"):
        wanted, read = getattr(hardware, field), getattr(facts, field)
        if wanted is not None and wanted != read:
            found.append(f"{field.replace('_', ' ')} {wanted}, not {read or 'unknown'}")
    missing = [flag for flag in hardware.instructions if flag not in facts.instructions]
    if missing:
        found.append(f"instructions {', '.join(missing)}, which it lacks")
    wanted_mb, read_mb = hardware.memory_mb, facts.memory_mb
    if wanted_mb is not None and (read_mb is None or abs(read_mb - wanted_mb) > MEMORY_TOLERANCE * wanted_mb):
        found.append(f"{wanted_mb} MB of memory, not {read_mb or 'unknown'}")
    return found
