"""What is counted: groups, contexts, classes, and their order.

This file is shipped to devices: standard library and numpy only, Python 3.8 syntax.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Dict, Mapping, Sequence, Tuple

from fairdeploy.evidence.encoding import BUCKETS

try:
    from fairdeploy.errors import DataError
except ImportError:  # alone on a device
    DataError = ValueError  # type: ignore[misc,assignment]

UNKNOWN = "unknown"
MAX_ROWS = 2**53
OUTCOME = ("label", "reference", "deployed")
Levels = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Schema:
    """What is counted. Names are kept in alphabetical order; ``unknown`` comes last in every list of levels.

    Attributes
    ----------
    attributes : dict of str to tuple of str
        Levels of each sensitive attribute.
    contexts : dict of str to tuple of str
        Levels of each context, such as light or site.
    classes : tuple of str
        Class names by index; with two classes, class 1 is the positive one.
    clustered : bool
        Whether buckets hold clusters (True) or single rows.

    Raises
    ------
    DataError
        If a name is empty, a level is doubled, or there are more cells than an int64 can number.
    """

    attributes: Levels
    contexts: Levels
    classes: Sequence[str]
    clustered: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "attributes", _with_unknown(self.attributes))
        object.__setattr__(self, "contexts", _with_unknown(self.contexts))
        object.__setattr__(self, "classes", tuple(self.classes))
        if len(set(self.axes)) != len(self.axes):
            raise DataError("attributes and contexts need different names, none of " + ", ".join(("bucket",) + OUTCOME))
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise DataError("classes: give at least two different names")
        if math.prod(self.shape) >= MAX_ROWS:
            raise DataError("too many groups x contexts x classes for one tally: declare fewer attributes")

    @property
    def axes(self) -> Tuple[str, ...]:
        """Names of the dimensions, in the order of `shape`."""
        return ("bucket",) + tuple(self.attributes) + tuple(self.contexts) + OUTCOME

    @property
    def shape(self) -> Tuple[int, ...]:
        """Size of each dimension."""
        levels = tuple(len(names) for part in (self.attributes, self.contexts) for names in part.values())
        return (BUCKETS,) + levels + (len(self.classes),) * 3

    def levels(self, axis: str) -> Tuple[str, ...]:
        """Return the levels of an attribute or context, ``unknown`` last."""
        part = self.attributes if axis in self.attributes else self.contexts
        if axis not in part:
            raise DataError("no attribute or context '{}': known: {}".format(axis, ", ".join(self.axes[1:-3])))
        return tuple(part[axis])

    def to_plain(self) -> Dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "attributes": {name: list(levels) for name, levels in self.attributes.items()},
            "contexts": {name: list(levels) for name, levels in self.contexts.items()},
            "classes": list(self.classes),
            "clustered": self.clustered,
        }


def _with_unknown(levels_by_name: Levels) -> Dict[str, Tuple[str, ...]]:
    complete = {}
    for name in sorted(levels_by_name):
        levels = tuple(level for level in levels_by_name[name] if level not in ("", UNKNOWN)) + (UNKNOWN,)
        if not name or len(levels) < 2 or len(set(levels)) != len(levels):
            raise DataError("{!r}: declare at least one level, and none twice".format(name))
        complete[name] = levels
    return complete
