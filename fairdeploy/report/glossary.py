"""The page's plain words, and where every number of it is written down."""

from __future__ import annotations

TERMS = (
    ("Accuracy", "Of all people in a group, how many were judged rightly."),
    ("True positive rate", "Of the people who should be recognised, how many were. A fall: people are overlooked."),
    ("False positive rate", "Of the people who should not be recognised, how many were: false alarms."),
    ("Selection rate", "Of all people in a group, how many were chosen, rightly or not."),
    ("Point", "One percentage point: from 90.0 % to 89.0 % is a fall of 1.0 points."),
    ("Change", "Deployed minus reference on the same rows, so a fall is negative. It is paired: each row is its own "
     "comparison, which makes the interval several times narrower than comparing two separate sets."),
    ("Equalized odds difference", "The larger of the two gaps between groups: that of the true positive rate and that "
     "of the false positive rate."),
    ("Worst-group accuracy", "The accuracy of the group that is served worst."),
    ("Interval", "The range of values that the evidence is compatible with, at the stated confidence. It shows how "
     "sure we are."),
    ("Bound", "The end of a one-sided interval at the gate's confidence. A cell passes when its bound lies within the "
     "limit. Sizes and memory have none: they are compared as measured."),
    ("Gate", "A rule: a metric, a limit, a confidence. The digest of the gates says which rules were used, not "
     "when they were written."),
    ("Pass, Fail", "Pass: even the unfavourable bound lies within the limit. Fail: even the favourable one lies "
     "beyond it, or a loss beyond the margin was seen that is surely no chance (max-T test over all groups)."),
    ("Not enough evidence", "The interval reaches over the limit, or the evidence is of too low a level. This is "
     "neither good nor bad; it blocks a release until there is more evidence."),
    ("Undefined", "The metric has no denominator here, as a true positive rate without positives."),
    ("Waived", "A named person accepted a named failing cell until a date."),
    ("Forecast", "What evidence of too low a level would have said. It decides nothing."),
    ("Flip", "A row that was judged differently before and after a step."),
    ("Design effect", "How many rows count as one because they belong together, such as pictures of one drawing."),
    ("Dense, compact", "The network before pruning; and the small one after its channels were physically removed and "
     "it was trained again. Both run in ONNX Runtime in fp32 as references."),
    ("Quantised, int8", "Numbers inside the network rounded to 8 bits, so that it runs faster on small devices."),
    ("MACs", "Multiply-accumulate operations for one input: the work the network does."),
    ("p50, p90, p99", "Half, 90 % and 99 % of single inputs were answered within this time."),
)  # fmt: skip

SOURCES = (
    ("Verdict, bound and reason of every cell", "<target>/verdict.json", "cells"),
    ("Rates and their intervals", "<target>/evidence.json", "rates, gaps"),
    ("Changes per group, rows lost and gained", "<target>/evidence.json", "changes"),
    ("Rates at every stage", "<target>/evidence.json", "stages"),
    ("Latency, size, realised precision, level", "<target>/evidence.json", "latency, size_bytes, realised_precision"),
    ("The counts behind all of them", "<target>/tally-<reference>.json", "integer tables per hashed bucket"),
    ("The limits and where they were set", "<target>/gates.json", "rules"),
    ("Candidates, compaction, group counts, decisions", "build.json", "candidates, compaction, group_counts"),
)
