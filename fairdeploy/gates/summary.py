"""A verdict in one word and one sentence, for whoever must sign."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fairdeploy.gates.records import CellVerdict, Status

WOULD: dict[Status, str] = {"fail": "fail", "inconclusive": "stay open", "undefined": "be undefined", "pass": "pass"}


def overall(cells: Iterable[CellVerdict]) -> Status:
    """Return the one word for all required cells."""
    required = {cell.status for cell in cells if cell.required}
    if "fail" in required:
        return "fail"
    if not required or required & {"inconclusive", "undefined"}:
        return "inconclusive"
    return "waived" if "waived" in required else "pass"


def summary(subject: str, status: Status, cells: Sequence[CellVerdict], *, unmeasured: str) -> str:
    """Say how many checks decided and which is closest or worst.

    Parameters
    ----------
    subject : str
        As in "On door-cam".
    status : str
    cells : sequence of CellVerdict
        Those that are only reported are passed over.
    unmeasured : str
        What to say where evidence is of too low a level.
    """
    cells = [cell for cell in cells if cell.required]
    if not cells:
        return f"{subject}, no gate that must hold was checked, so nothing was shown."
    alike: dict[Status, set[Status]] = {"inconclusive": {"inconclusive", "undefined"}}
    deciding = [cell for cell in cells if cell.status in alike.get(status, {status})]
    forecasts = [cell.forecast for cell in deciding if cell.forecast]
    if status == "inconclusive" and forecasts:
        would = ", ".join(f"{forecasts.count(one)} would {WOULD[one]}" for one in WOULD if one in forecasts)
        open_ = f"{_checks(len(deciding))} of {len(cells)} cannot be decided"
        return f"{unmeasured}, so {open_}; on the evidence there is, {would}."
    worst = max(deciding, key=nearness)
    reason = worst.reason[0].lower() + worst.reason[1:]
    if status == "pass":
        hold = f"all {len(cells)} checks hold" if len(cells) > 1 else "the one check holds"
        return f"{subject}, {hold}; closest: {reason}"
    if status == "waived":
        rest = ", the others hold" if len(cells) > len(deciding) else ""
        return f"{subject}, {_checks(len(deciding))} of {len(cells)} waived{rest}; foremost: {reason}"
    if status == "fail":
        return f"{subject}, {_checks(len(deciding))} of {len(cells)} failed; worst: {reason}"
    return f"{subject}, {_checks(len(deciding))} of {len(cells)} cannot be decided; foremost: {reason}"


def _checks(count: int) -> str:
    return f"{count} check{'s' if count != 1 else ''}"


def nearness(cell: CellVerdict) -> float:
    """Rank cells by how much of what is allowed they use up: by their value if failed, else by their bound."""
    decisive = cell.value if cell.status == "fail" else cell.lower if cell.condition == "min" else cell.upper
    if decisive is None:
        return float("inf")
    return (1 - decisive) / (1 - cell.bound) if cell.condition == "min" else decisive / cell.bound
