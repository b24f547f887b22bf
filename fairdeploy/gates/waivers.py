"""Waivers: a named person accepts one named cell until a date. A cell that is waived never passes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from fairdeploy.errors import ConfigError
from fairdeploy.gates.finding import named
from fairdeploy.gates.records import CellVerdict, Effect, Waiver, WaiverUse
from fairdeploy.yamlfile import nearest


def waive(
    cells: Sequence[CellVerdict], target: str, waivers: Sequence[Waiver], today: date | None
) -> tuple[tuple[CellVerdict, ...], tuple[WaiverUse, ...]]:
    """Waive the cells that valid waivers name, and say what became of every waiver.

    Only a required cell that blocks is waived, and only where something was measured or a group has no rows: a crash
    leaves nothing to accept. Its numbers and its reason stay.

    Raises
    ------
    ConfigError
        If there are waivers but no date to hold them against, or two for one cell.
    """
    if not waivers:
        return tuple(cells), ()
    if today is None:
        raise ConfigError("waivers expire: say the date that they are held against")
    uses = tuple(_use(waiver, cells, target, today) for waiver in waivers)
    valid = [use.waiver for use in uses if use.effect == "waives"]
    for at, waiver in enumerate(valid):
        if any(_covers(other, waiver) for other in valid[:at]):
            raise ConfigError(f"two waivers name {waiver.rule} of {named(waiver.group, waiver.context)}: keep one")
    waived = []
    for cell in cells:
        found = [one for one in valid if _covers(one, cell) and _blocks(cell)]
        waived.append(cell.model_copy(update={"status": "waived", "waiver": found[0]}) if found else cell)
    return tuple(waived), uses


def _use(waiver: Waiver, cells: Sequence[CellVerdict], target: str, today: date) -> WaiverUse:
    effect, note = _effect(waiver, cells, target, today)
    return WaiverUse(waiver=waiver, effect=effect, note=note, judged_on=today)


def _effect(waiver: Waiver, cells: Sequence[CellVerdict], target: str, today: date) -> tuple[Effect, str]:
    matching = [cell for cell in cells if _covers(waiver, cell)]
    if waiver.target != target:
        return "unmatched", f"it is for the target {waiver.target}"
    if today > waiver.expires:
        return "expired", f"it expired on {waiver.expires}"
    if not matching:
        return "unmatched", _why_unmatched(waiver, cells)
    if any(_blocks(cell) for cell in matching):
        return "waives", f"accepted by {waiver.approver} until {waiver.expires}: {waiver.reason}"
    return "unneeded", _why_unneeded(matching[0])


def _covers(waiver: Waiver, cell: CellVerdict | Waiver) -> bool:
    same_rule = (waiver.rule, waiver.bound) == (cell.rule, cell.bound)
    return same_rule and waiver.group == cell.group and waiver.context == cell.context


def _blocks(cell: CellVerdict) -> bool:
    known = cell.value is not None or cell.status == "undefined"
    return cell.required and known and cell.status in ("fail", "inconclusive", "undefined")


def _why_unneeded(cell: CellVerdict) -> str:
    if cell.status == "pass":
        return "its cell passes"
    if not cell.required:
        return "its cell is only reported, so it blocks nothing"
    return "nothing was measured there, so there is nothing to accept"


def _why_unmatched(waiver: Waiver, cells: Sequence[CellVerdict]) -> str:
    rules = {cell.rule for cell in cells}
    if waiver.rule not in rules:
        return f"there is no rule {waiver.rule}{nearest(waiver.rule, rules)}"
    bounds = sorted({cell.bound for cell in cells if cell.rule == waiver.rule})
    if waiver.bound not in bounds:
        return f"the rule's bound is {', '.join(f'{bound:g}' for bound in bounds)}, not {waiver.bound:g}"
    return f"the rule has no cell for {named(waiver.group, waiver.context)}"


def waiver_sentences(uses: Sequence[WaiverUse]) -> list[str]:
    """Say what was waived, by whom and until when, which waivers have no effect, and the day they were held against."""
    said = []
    for use in uses:
        what = f"{use.waiver.rule} of {named(use.waiver.group, use.waiver.context)}"
        waives = use.effect == "waives"
        said.append(f"Waived: {what}, {use.note}." if waives else f"The waiver for {what} has no effect: {use.note}.")
    return [*said, *(f"Waivers were held against {use.judged_on}." for use in uses[:1])]
