"""Plain words and number formats that the page and the terminal share.

Rates are shown in points with one decimal, a change with its sign, an interval as "88.1 to 91.4", a unit behind a
narrow no-break space.
"""

from __future__ import annotations

from fairdeploy.evidence import metrics
from fairdeploy.evidence.records import Group, Interval, Level
from fairdeploy.gates import CellVerdict, Status
from fairdeploy.gates.across import ALL_TARGETS
from fairdeploy.gates.records import EXCESS, LATENCY, PLAIN_WORDS, Unit

THIN = "\u202f"
MINUS = "\u2212"
NONE = "\u2013"

STATUS_WORD: dict[Status, str] = {
    "pass": "Pass",
    "fail": "Fail",
    "inconclusive": "Not enough evidence",
    "undefined": "Undefined",
    "waived": "Waived",
}
STATUS_SHAPE: dict[Status, str] = {"pass": "✓", "fail": "✕", "inconclusive": "?", "undefined": "∅", "waived": "⚑"}
WORST_FIRST: tuple[Status, ...] = ("fail", "undefined", "inconclusive", "waived", "pass")

METRIC_QUESTION = {
    "accuracy": "How often are people judged rightly?",
    "true_positive_rate": "How often are people recognised who should be?",
    "false_positive_rate": "How often is there a false alarm?",
    "selection_rate": "How often are people chosen, rightly or not?",
}
LEVEL_PHRASE: dict[Level, str] = {
    "device": "measured on the target hardware",
    "emulated": "the target's runtime under CPU emulation; latency does not count",
    "proxy": "same runtime and precision on other hardware",
    "simulated": "simulated: the graph ran in another runtime, not on the target",
    "compiled": "compiled only: it was built and never run",
}


def metric_name(metric: str) -> str:
    """Return a metric's name in the field's words, as in "true positive rate"."""
    percentile = LATENCY.fullmatch(metric)
    return f"p{percentile[1]} latency" if percentile else PLAIN_WORDS.get(metric, metric.replace("_", " "))


def target_name(target: str) -> str:
    """Return a target's name; "*" is all of them together."""
    return "all targets together" if target == ALL_TARGETS else target


def group_name(group: Group) -> str:
    """Return a group's name, as in "skin tone VI", or "everyone"."""
    return metrics.words(group)


def cell_name(cell: CellVerdict) -> str:
    """Return what a cell is about, as in "accuracy, skin tone VI, light dim"; a latency or a size is nobody's."""
    name = metric_name(cell.metric) + (f" of class {cell.of_class}" if cell.of_class else "")
    if not is_fairness(cell):
        return name
    return ", ".join([name, group_name(cell.group), *([group_name(cell.context)] if cell.context else [])])


def is_fairness(cell: CellVerdict) -> bool:
    """Whether a cell is about people, not about latency, size or memory."""
    return not LATENCY.fullmatch(cell.metric) and cell.unit not in ("MB", "MiB")


def waiver(cell: CellVerdict) -> str:
    """Say who accepted a cell, why and until when; empty where nobody did."""
    one = cell.waiver
    return f"Waived by {one.approver} until {one.expires.isoformat()}: {full_stop(one.reason)}" if one else ""


def first_upper(text: str) -> str:
    """Return a text with its first letter large and the others as they are."""
    return text[:1].upper() + text[1:]


def full_stop(text: str) -> str:
    """Return a sentence that ends as one."""
    return text if not text or text.endswith((".", "!", "?", ":")) else f"{text}."


def level_phrase(level: Level | None) -> str:
    """Say in one phrase what an evidence level means."""
    return LEVEL_PHRASE[level] if level else "no evidence level"


def number(value: float, decimals: int = 1) -> str:
    """Return a number with a real minus sign, and no "−0.0"."""
    text = f"{value:.{decimals}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", MINUS)


def count(value: int | None) -> str:
    """Return a whole number with thin spaces between thousands."""
    return NONE if value is None else f"{value:,}".replace(",", THIN)


def rate(value: float | None) -> str:
    """Return a fraction in points, as in "88.1"."""
    return NONE if value is None else number(100 * value)


def percent(value: float | None) -> str:
    """Return a fraction with its unit, as in "88.1 %"."""
    return NONE if value is None else f"{rate(value)}{THIN}%"


def change(value: float | None) -> str:
    """Return a change of a fraction in points with its sign, as in "−3.1" or "+0.4"."""
    if value is None:
        return NONE
    text = rate(value)
    return text if text == "0.0" or text.startswith(MINUS) else f"+{text}"


def span(interval: Interval | None, *, signed: bool = False) -> str:
    """Return an interval of fractions in points, as in "88.1 to 91.4"."""
    if interval is None:
        return NONE
    show = change if signed else rate
    return f"{show(interval.lower)} to {show(interval.upper)}"


def significant(value: float) -> str:
    """Return three significant digits without an exponent, as in "0.058" or "12.3"."""
    decimals = next((places for limit, places in ((100, 0), (10, 1), (1, 2), (0.1, 3)) if abs(value) >= limit), 4)
    return number(value, decimals)


def milliseconds(value: float | None) -> str:
    """Return a latency with its unit, as in "0.058 ms"."""
    return NONE if value is None else f"{significant(value)}{THIN}ms"


def size(value_bytes: int | None) -> str:
    """Return a size in kB or MB (powers of ten)."""
    if value_bytes is None:
        return NONE
    scale, unit = (1e6, "MB") if value_bytes >= 1e6 else (1e3, "kB")
    return f"{significant(value_bytes / scale)}{THIN}{unit}"


def quantity(value: float | None, unit: Unit, *, decimals: int = 1) -> str:
    """Return a gated quantity in its unit; rates and their differences in points, without a unit."""
    if value is None:
        return NONE
    if unit == "rate":
        return number(100 * value, decimals)
    if unit == "ratio":
        return number(value, 2)
    return f"{significant(value)}{THIN}{unit}"


def allowed(cell: CellVerdict) -> str:
    """Say what a rule asks of a cell, as in "at least 85.0 %" or "at most 1.0 points lower than compact"."""
    bound = quantity(cell.bound, cell.unit)
    points = " points" if cell.unit == "rate" else ""
    of_points = cell.metric in metrics.GAPS or cell.metric.endswith(EXCESS)
    level = percent(cell.bound) if cell.unit == "rate" and not of_points else f"{bound}{points}"
    than = f" than {cell.against}"
    return {
        "min": f"at least {level}",
        "max": f"at most {level}" + (f" against {cell.against}" if cell.against else ""),
        "max_drop": f"at most {bound}{points} lower{than}",
        "max_increase": f"at most {bound}{points} higher{than}",
        "max_ratio": f"at most {number(cell.bound, 2)} times {cell.against}",
        "max_spread": f"at most {bound}{points} between any two targets",
    }[cell.condition]


def found(cell: CellVerdict) -> str:
    """Return what was found in a cell and its one-sided bounds, as in "3.1 (2.2 to 4.0)"."""
    value = quantity(cell.value, cell.unit)
    if cell.lower is None and cell.upper is None:
        return value
    number_only = [quantity(bound, cell.unit).removesuffix(f"{THIN}{cell.unit}") for bound in (cell.lower, cell.upper)]
    return f"{value} ({' to '.join(number_only)})"


def confidence(value: float) -> str:
    """Return a confidence, as in "95 %"."""
    return f"{100 * value:g}{THIN}%"


def judged_before(looks: int, gate_sets: int) -> str:
    """Say how often the same rows were judged from one folder."""
    return (
        f"These rows were judged {count(looks)} times from this folder, under {count(gate_sets)} "
        f"{'set' if gate_sets == 1 else 'sets'} of gates: the more looks, the less a pass says."
    )


def looks(attempts: int, gate_sets: int) -> str:
    """Say how often an evaluate split was looked at, and under how many different sets of gates."""
    builds = "1 build was" if attempts == 1 else f"{count(attempts)} builds were"
    sets = "one set" if gate_sets == 1 else f"{count(gate_sets)} different sets"
    return f"{builds} judged on this evaluate split in this folder, under {sets} of gates"


def precision(layers: dict[str, int]) -> str:
    """Return the realised precision, as in "int8 12, fp32 1 layers"."""
    return ", ".join(f"{name} × {n}" for name, n in sorted(layers.items(), key=lambda item: -item[1])) or NONE
