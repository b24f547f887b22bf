"""What evidence looks like on disk: numbers with intervals, nothing computed later by anyone who shows them.

Rates are fractions in [0, 1]. A change is ``deployed - reference``, so a fall is negative. A group is a mapping
from sensitive attribute to level; the empty mapping is everyone.
"""

from __future__ import annotations

from typing import Literal

from fairdeploy.records import Record

Level = Literal["compiled", "simulated", "proxy", "emulated", "device"]
LEVELS: tuple[Level, ...] = ("compiled", "simulated", "proxy", "emulated", "device")
Reference = Literal["dense", "compact", "reference"]
REFERENCES: tuple[Reference, ...] = ("dense", "compact", "reference")
StageName = Literal["dense", "pruned", "compact", "exported", "quantised", "runtime"]
Group = dict[str, str]


class Interval(Record):
    """Two-sided interval for showing; a gate computes its own one-sided bound."""

    lower: float
    upper: float
    confidence: float
    method: str


class Rate(Record):
    """One metric of one cell; `value` and `interval` are None where it is undefined.

    `against` is said of flip rates only: whose predictions the flipped ones differ from. `quantisation` is by how much
    the value may differ from that of unbinned scores; 0 for what is counted.
    """

    metric: str
    against: Reference | None = None
    group: Group
    context: Group = {}
    n: int
    clusters: int | None
    value: float | None
    interval: Interval | None
    quantisation: float = 0.0


class Change(Record):
    """Paired change of one metric in one cell.

    `lost` counts rows whose indicator fell from 1 (reference) to 0 (deployed), `gained` the reverse.
    """

    metric: str
    against: Reference
    group: Group
    context: Group = {}
    n: int
    clusters: int | None
    lost: int
    gained: int
    reference: float | None
    deployed: float | None
    change: float | None
    design_effect: float
    interval: Interval | None


class Shift(Record):
    """Change of a metric that is no sum over paired rows.

    A ratio of counts, a mean of rates, a score metric, a drop beyond everyone's; or any metric where the reference saw
    other rows (`paired` is False). `quantisation` is as for `Rate`, of each of the two values.
    """

    metric: str
    against: Reference
    group: Group
    context: Group = {}
    n: int
    reference: float | None
    deployed: float | None
    change: float | None
    paired: bool = True
    interval: Interval | None
    quantisation: float = 0.0


class Reversal(Record):
    """Simpson's reversal: a group's number over everything has one sign, within every level of a context the other.

    `change` and `within` are changes of a statistic or excess drops against a reference, `metric` says which; or, where
    `than` names another group, by how much the deployed rate of `group` is above that one's.
    """

    metric: str
    against: Reference | None
    group: Group
    than: Group | None = None
    context: str
    change: float
    within: dict[str, float]


class Gap(Record):
    """A disparity over the levels of one attribute: largest minus smallest rate, in fairlearn's convention."""

    metric: str
    attribute: str
    value: float | None
    interval: Interval | None
    highest: str | None
    lowest: str | None
    undefined: tuple[str, ...] = ()


class Latency(Record):
    """Single-stream latency in milliseconds; bounds are distribution-free from order statistics.

    `percentiles` and `intervals` are keyed "p50", "p90"; `samples_ms` are all runs in the order in which they were
    run, rounded to 1e-4 ms, so that a gate or an auditor can compute any other bound and how far runs are correlated.
    """

    runs: int
    threads: int
    mean_ms: float
    percentiles: dict[str, float]
    intervals: dict[str, Interval]
    samples_ms: tuple[float, ...]


class Stage(Record):
    """Rates per group at one stage of the line, and what changed against the dense network."""

    stage: StageName
    tally_digest: str
    rates: tuple[Rate, ...]
    changes: tuple[Change, ...]


class EvidenceRecord(Record):
    """Everything known about one artifact on one target.

    `level_mend` says what would raise the level. `identical_to` names the references whose very file it is, run by the
    same runtime on the same device: there the rows of one cluster cannot change together, so they count as independent.
    `unpaired_digests` are the tallies of references that saw other rows.
    """

    schema_version: Literal[1] = 1
    target: str
    level: Level | None
    level_reason: str
    level_mend: str = ""
    fake_device: bool = False
    artifact_digest: str | None
    spec_digest: str
    data_fingerprint: str
    reference_digests: dict[str, str]
    identical_to: tuple[Reference, ...] = ()
    tally_digests: dict[Reference, str]
    unpaired_digests: dict[Reference, str] = {}
    score_digests: dict[str, str] = {}
    failure: str | None = None
    runtime: dict[str, str]
    requested_precision: str
    realised_precision: dict[str, int]
    size_bytes: int | None
    peak_memory_mb: float | None
    rates: tuple[Rate, ...]
    changes: tuple[Change, ...]
    gaps: tuple[Gap, ...]
    shifts: tuple[Shift, ...] = ()
    reversals: tuple[Reversal, ...] = ()
    latency: Latency | None
    reference_latency: dict[str, Latency]
    stages: tuple[Stage, ...]
    seed: int
