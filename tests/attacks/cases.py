"""Cases to attack: rows of an honest artifact at the planner's size, and evidence from tallies alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fairdeploy.evidence import Evidence, Schema, Tally
from fairdeploy.evidence.planner import rows_needed
from fairdeploy.evidence.records import EvidenceRecord
from fairdeploy.gates import Gates, Rule, Verdict, gate

MARGIN, FLIP_RATE, LEVELS = 0.02, 0.01, ("a", "b", "c")
DROP = Rule(metric="true_positive_rate", condition="max_drop", bound=MARGIN, against="dense", where="gates.yaml:1")
GATES = Gates(rules=(DROP,))
SCHEMA = Schema(attributes={"g": LEVELS}, contexts={}, classes=("no", "yes"))
PLANNED = rows_needed(MARGIN, FLIP_RATE, power=0.9, groups=len(LEVELS) + 1)
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Rows as they go into a tally."""

    ids: NDArray[np.str_]
    groups: NDArray[np.str_]
    labels: Ints
    reference: Ints
    deployed: Ints
    schema: Schema = SCHEMA

    def but(self, **columns: Any) -> Rows:
        """Return rows with other columns."""
        return replace(self, **columns)

    def take(self, chosen: Any) -> Rows:
        """Return some of the rows."""
        columns = {name: getattr(self, name)[chosen] for name in ("ids", "groups", "labels", "reference", "deployed")}
        return replace(self, **columns)

    def tally(self, reference: Any = None) -> Tally:
        """Count."""
        return Tally.count(
            self.schema,
            ids=self.ids,
            labels=self.labels,
            attributes={"g": self.groups},
            contexts={},
            clusters=None,
            reference=self.reference if reference is None else reference,
            deployed=self.deployed,
        )

    def in_group(self, level: str) -> NDArray[np.bool_]:
        """Positives of one group."""
        return (self.groups == level) & (self.labels == 1)


def honest(rng: np.random.Generator, positives: int = PLANNED) -> Rows:
    """Make so many positives and a few negatives per group; predictions flip, half of them for the better."""
    groups = np.repeat(np.array(LEVELS), positives + 50)
    labels = np.tile(np.repeat([1, 0], [positives, 50]), len(LEVELS))
    reference = np.where(rng.random(len(labels)) < 0.9, labels, 1 - labels)
    chance = rng.random(len(labels))
    flip = np.where(reference == labels, chance < FLIP_RATE / 2 / 0.9, chance < FLIP_RATE / 2 / 0.1)
    ids = np.array([f"row {at}" for at in rng.permutation(len(labels))])
    return Rows(ids, groups, labels, reference, np.where(flip, 1 - reference, reference))


def harmed(rng: np.random.Generator, rows: Rows, level: str, loss: float) -> Rows:
    """Let one group lose so much more of its true positives, in truth and not by chance."""
    right = rows.in_group(level) & (rows.deployed == 1)
    lost = right & (rng.random(len(right)) < loss / right[rows.in_group(level)].mean())
    return rows.but(deployed=np.where(lost, 0, rows.deployed))


def evidence_of(**tallies: Tally) -> Evidence:
    """Return evidence that states nothing but its tallies: all that a gate on fairness reads."""
    record = EvidenceRecord(
        target="here", level="device", level_reason="this host", artifact_digest="a" * 64, spec_digest="b" * 64,
        data_fingerprint="c" * 64, reference_digests={}, runtime={}, requested_precision="int8", realised_precision={},
        tally_digests={name: tally.digest for name, tally in tallies.items()}, size_bytes=None, peak_memory_mb=None,
        rates=(), changes=(), gaps=(), latency=None, reference_latency={}, stages=(), seed=0,
    )  # fmt: skip
    return Evidence(record, dict(tallies))


def decide(rows: Rows, gates: Gates = GATES) -> Verdict:
    """Count, and hold against the gates."""
    return gate(evidence_of(dense=rows.tally()), gates)
