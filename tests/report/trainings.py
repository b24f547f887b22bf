"""Fabricated records of fair pruning: whom channels serve, before and after, and how a training went."""

from __future__ import annotations

from collections.abc import Sequence

from fairdeploy.bundle import (
    ChannelService,
    ConstraintCourse,
    ContributionsRecord,
    GroupCount,
    GroupService,
    TrainingCourse,
)

LEVELS = ("I-II", "VI")


def channel(number: int, rises: Sequence[float | None]) -> ChannelService:
    known = [rise or 0.0 for rise in rises]
    total = sum(max(rise, 0.0) for rise in known)
    most = LEVELS[known.index(max(known))] if total else None
    share = max(known) / total if total else None
    return ChannelService(channel=number, rises=tuple(rises), most={"skin_tone": most}, share={"skin_tone": share})


def record(**groups: Sequence[ChannelService]) -> ContributionsRecord:
    return ContributionsRecord(
        rows=200,
        slices=tuple(GroupCount(split="prune", attribute="skin_tone", level=level, rows=100) for level in LEVELS),
        groups=tuple(GroupService(group=name, channels=tuple(channels)) for name, channels in groups.items()),
    )


DENSE = record(
    conv1=[channel(0, (0.01, 0.02)), channel(1, (0.5, 0.1)), channel(2, (0.0, 0.0)), channel(3, (-0.2, None))],
    conv2=[channel(0, (0.1, 0.1))],
)
PRUNED = record(conv1=[channel(1, (0.8, 0.4)), channel(3, (0.3, 1.0))], conv2=[channel(0, (0.2, 0.2))])


def course(**changes: object) -> TrainingCourse:
    parts = {
        "station": "recover, 10 % of the MACs",
        "steps": (10, 20, 30),
        "losses": (0.7, 0.5, 0.4),
        "constraints": (
            ConstraintCourse(
                name="equalized_odds_difference",
                quantity="recall of class 1 by skin_tone",
                limit=0.05,
                values=(0.2, 0.1, 0.04),
                multipliers=(0.0, 0.5, 0.75),
            ),
            ConstraintCourse(
                name="accuracy_drop",
                quantity="accuracy lost",
                limit=0.02,
                values=(0.0, -0.01, 0.03),
                multipliers=(0.0, 0.0, 1.0),
            ),
        ),
    }
    return TrainingCourse.model_validate(parts | changes)
