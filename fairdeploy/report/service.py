"""A picture of which channels serve whom: what each group of people loses when one channel alone is closed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fairdeploy.bundle import ChannelService, ContributionsRecord
from fairdeploy.report import charts, words
from fairdeploy.report.environment import environment
from fairdeploy.report.tables import Table

MOST_CHANNELS = 48
SHADES = (0.3, 0.1, 0.03, 0.01)  # of the largest rise, darkest first
CELL_LEFT, CELL_HEIGHT, CELL_MOST, ATTRIBUTE_GAP = 76.0, 12.0, 14.0, 4.0
TOP, TITLE, MARKS = 22.0, 16.0, 14.0


@dataclass(frozen=True)
class Shade:
    """All cells of one strength, 0 the strongest; `falls` where the loss falls when the channel is closed."""

    strength: int
    falls: bool
    path: str


@dataclass(frozen=True)
class Strip:
    """Channels x slices of one network, as a heat map."""

    title: str
    y: float
    names: tuple[charts.Label, ...]
    shades: tuple[Shade, ...]


@dataclass(frozen=True)
class Block:
    """One coupled group: the dense network's channels, the largest contributions first; the pruned one's below."""

    group: str
    count: str
    said: str
    height: float
    strips: tuple[Strip, ...]
    kept_y: float
    kept: tuple[float, ...]
    table: Table


@dataclass(frozen=True)
class ServiceView:
    """Which channels serve whom, with the smallest rise of each shade."""

    rows: int
    blocks: tuple[Block, ...]
    legend: tuple[str, ...]


@dataclass(frozen=True)
class _Grid:
    """Where cells go: the left end of each dense channel's column, and how rises become shades."""

    starts: Mapping[int, float]
    width: float
    levels: tuple[tuple[str, str], ...]
    most: float

    @property
    def attributes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(attribute for attribute, _ in self.levels))

    @property
    def height(self) -> float:
        return TITLE + CELL_HEIGHT * len(self.levels) + ATTRIBUTE_GAP * (len(self.attributes) - 1)


def service_view(before: ContributionsRecord, after: ContributionsRecord | None = None) -> ServiceView:
    """Lay out which channels serve whom, before and after pruning.

    Parameters
    ----------
    before : ContributionsRecord
        Of the dense network.
    after : ContributionsRecord, optional
        Of the pruned one, with the numbers that its channels have in the dense one; of a group that is missing
        nothing is said.
    """
    groups = [*before.groups, *(after.groups if after else ())]
    most = max((_largest(one) for group in groups for one in group.channels), default=0.0)
    most = most or 1.0
    levels = tuple((one.attribute, one.level) for one in before.slices)
    left = {group.group: {one.channel: one for one in group.channels} for group in after.groups} if after else {}
    blocks = tuple(_block(group.group, group.channels, left.get(group.group), levels, most) for group in before.groups)
    return ServiceView(before.rows, blocks, tuple(f"{share * most:.2g}" for share in SHADES))


def service_svg(before: ContributionsRecord, after: ContributionsRecord | None = None) -> str:
    """Return which channels serve whom as an SVG file of its own."""
    return environment().get_template("training.svg.j2").render(service=service_view(before, after), course=None)


def _block(
    group: str,
    channels: Sequence[ChannelService],
    left: Mapping[int, ChannelService] | None,
    levels: tuple[tuple[str, str], ...],
    most: float,
) -> Block:
    """Lay out one coupled group; `left` are the pruned network's channels, None where they are not known."""
    shown = sorted(channels, key=_largest, reverse=True)[:MOST_CHANNELS]
    width = min(CELL_MOST, (charts.RIGHT - CELL_LEFT) / len(shown))
    starts = {one.channel: round(CELL_LEFT + place * width, 2) for place, one in enumerate(shown)}
    grid = _Grid(starts, width, levels, most)
    strips = [_strip("dense", TOP, shown, grid)]
    middle = TOP + grid.height
    kept = [one.channel for one in shown if left and one.channel in left]
    if left is not None:
        strips.append(_strip("pruned", middle + MARKS, [left[channel] for channel in kept], grid))
    count = str(len(channels)) if left is None else f"{len(channels)} → {len(left)}"
    return Block(
        group=group,
        count=count + (f" ({len(shown)} shown)" if len(shown) < len(channels) else ""),
        said=_said(channels, grid.attributes),
        height=round(TOP + grid.height * len(strips) + MARKS, 2),
        strips=tuple(strips),
        kept_y=middle,
        kept=tuple(round(starts[channel] + width / 2, 2) for channel in kept),
        table=_table(shown, left, grid),
    )


def _strip(title: str, y: float, channels: Sequence[ChannelService], grid: _Grid) -> Strip:
    names: list[charts.Label] = []
    boxes: dict[tuple[int, bool], str] = {}
    across = round(grid.width * 0.92, 2)
    for place, (attribute, level) in enumerate(grid.levels):
        top = round(y + TITLE + CELL_HEIGHT * place + ATTRIBUTE_GAP * grid.attributes.index(attribute), 2)
        names.append(charts.Label(top + CELL_HEIGHT - 2.5, "end", level if len(level) <= 11 else f"{level[:10]}…"))
        for one in channels:
            rise = one.rises[place] or 0.0
            strength = next((n for n, share in enumerate(SHADES) if abs(rise) > share * grid.most), None)
            if strength is not None:
                down = (CELL_HEIGHT - 1) / (1 if rise > 0 else 2)
                box = f"M{grid.starts[one.channel]} {top + CELL_HEIGHT - 1 - down}h{across}v{down}h-{across}z"
                boxes[strength, rise < 0] = boxes.get((strength, rise < 0), "") + box
    return Strip(title, y, tuple(names), tuple(Shade(*key, path) for key, path in sorted(boxes.items())))


def _table(shown: Sequence[ChannelService], left: Mapping[int, ChannelService] | None, grid: _Grid) -> Table:
    slices = (words.first_upper(words.group_name({attribute: level})) for attribute, level in grid.levels)
    most = (f"Most needed by ({words.group_name({name: ''}).strip()})" for name in grid.attributes)
    rows = []
    for one in shown:
        pruned = left.get(one.channel) if left else None
        rises = [_rise(rise) for rise in one.rises]
        if pruned:
            rises = [f"{before} → {_rise(rise)}" for before, rise in zip(rises, pruned.rises, strict=True)]
        needed = [
            f"{one.most[name]} ({words.percent(one.share[name])} of what rises)" if one.most[name] else words.NONE
            for name in grid.attributes
        ]
        kept = [] if left is None else ["yes" if pruned else "no"]
        rows.append((str(one.channel), *kept, *rises, *needed))
    title = "Rise of the mean loss when the channel alone is closed" + ("" if left is None else ": dense → pruned")
    return Table(title, "", ("Channel", *([] if left is None else ["Kept"]), *slices, *most), tuple(rows))


def _largest(one: ChannelService) -> float:
    return max((abs(rise) for rise in one.rises if rise is not None), default=0.0)


def _rise(value: float | None) -> str:
    return words.NONE if value is None else words.number(value, 4)


def _said(channels: Sequence[ChannelService], attributes: Sequence[str]) -> str:
    """Say how many channels each level needs most."""
    sentences = []
    for name in attributes:
        counts = Counter(one.most[name] for one in channels if one.most[name])
        listed = ", ".join(f"{level} {count}" for level, count in sorted(counts.items(), key=str)) or "none"
        sentences.append(f"Channels most needed by each {name.replace('_', ' ')}: {listed}.")
    return " ".join(sentences)
