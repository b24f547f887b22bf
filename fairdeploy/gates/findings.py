"""What the evidence says about one rule, cell by cell, before the evidence level is looked at."""

from __future__ import annotations

from fairdeploy.errors import ConfigError
from fairdeploy.evidence import metrics
from fairdeploy.evidence.judge import Evidence, changes_cluster
from fairdeploy.gates.absolute import absolute
from fairdeploy.gates.changes import changes
from fairdeploy.gates.finding import Finding, missing
from fairdeploy.gates.gap_changes import gap_changes
from fairdeploy.gates.gaps import gaps
from fairdeploy.gates.measured import latency, size
from fairdeploy.gates.records import Rule
from fairdeploy.gates.statistics import statistics
from fairdeploy.gates.unpaired import unpaired
from fairdeploy.yamlfile import nearest

COUNTED = {*metrics.RATES, *metrics.FLIPS, "worst_group_accuracy"}


def findings(evidence: Evidence, rule: Rule) -> list[Finding]:
    """Hold a rule against the evidence; at least one finding, whatever is missing."""
    record = evidence.record
    if rule.condition == "max_spread":
        raise ConfigError(f"{rule.name} is over all targets: set it under 'across_targets'")
    if record.failure is not None:
        return [missing(rule, f"it could not be judged: {record.failure}")]
    if rule.kind == "latency":
        return [latency(rule, record)]
    if rule.kind == "size":
        return [size(rule, record)]
    tally = evidence.tallies.get(rule.against) if rule.against else next(iter(evidence.tallies.values()), None)
    if tally is None:
        paired = f" paired with the {rule.reference_words}" if rule.against else ""
        return [missing(rule, f"there are no predictions{paired}")]
    if tally.rows == 0:
        return [missing(rule, "the evaluation has no rows")]
    apart = evidence.unpaired.get(rule.against) if rule.against else None
    if rule.of_class is not None:
        if rule.of_class not in tally.schema.classes:
            return [missing(rule, f"there is no class {rule.of_class} among {', '.join(tally.schema.classes)}")]
        index = tally.schema.classes.index(rule.of_class)
        tally, apart = tally.one_vs_rest(index), None if apart is None else apart.one_vs_rest(index)
    if rule.within is not None and rule.within not in tally.schema.contexts:
        return [missing(rule, f"there is no context {rule.within}{nearest(rule.within, tally.schema.contexts)}")]
    if apart is not None:
        return list(unpaired(rule, tally, apart))
    if rule.metric in metrics.GAPS:
        family = gap_changes if rule.condition == "max_increase" else gaps
        return list(family(rule, tally, seed=record.seed))
    if rule.metric not in COUNTED or rule.condition == "max_ratio":
        return list(statistics(rule, tally, evidence))
    if rule.condition in ("max_drop", "max_increase"):
        assert rule.against is not None  # a rule's own validation
        clustered = changes_cluster(tally, rule.against, record.identical_to)
        return changes(rule, tally, clustered=clustered, seed=record.seed)
    return list(absolute(rule, tally))
