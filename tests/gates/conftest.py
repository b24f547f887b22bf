from collections.abc import Callable, Mapping

import numpy as np
import pytest

from fairdeploy.evidence import Schema, Tally

Counts = Mapping[tuple[str, int, int, int], int]


@pytest.fixture
def build() -> Callable[..., Tally]:
    """Make a tally from {(group, label, reference, deployed): rows}."""

    def make(counts: Counts, levels: tuple[str, ...] = ("a", "b"), classes: tuple[str, ...] = ("no", "yes")) -> Tally:
        rows = [key for key, count in counts.items() for _ in range(count)]
        group, label, reference, deployed = zip(*rows, strict=True) if rows else ((), (), (), ())
        return Tally.count(
            Schema(attributes={"g": levels}, contexts={}, classes=classes),
            ids=[str(at) for at in range(len(rows))],
            labels=np.array(label, int),
            attributes={"g": np.array(group, str)},
            contexts={},
            clusters=None,
            reference=np.array(reference, int),
            deployed=np.array(deployed, int),
        )

    return make
