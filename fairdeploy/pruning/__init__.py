"""Pruning: which channels a network can do without, and training it to do without them, fairly.

::

    problem      what a method learns from: `Batch`, `Stream`, `Objective`, `Problem`
                     streams: of splits on disk, of a user's loaders       objectives: losses, outcomes, distances
                     stored: the problem of a project                      sampling: which rows in which order
    base         `Pruner`: what a method gives                             methods: by the names of a project
    scored       `ByScore`: the channels of highest score stay             scores, sensitivity: what a channel is worth
    bilevel      `Bilevel`: widths and multipliers above, weights below
                     gates: numbers that multiply channels                 widths: how many stay, along a budget
                     hypergradient: through the lower level's answer
    budget       what masks cost                                           rounding, counts: to round numbers
                     latency, latency_table, latency_search: in a target's runtime
    fair         `FairTraining`: constraints watch one split and weigh the rows of another
                     cells: groups by label, and their rates               constraints: linear in the rates
                     multipliers: what they ask of the loss
    training     `fit`: weights, on any number of processes                checkpoint: to be taken up again
    recover      fine-tuning after removal, and the fair teacher           batch_norm: statistics counted anew
    slices       which channels serve whom                                 concentration: the price of serving one alone
    determinism  the same seed gives the same bytes
"""

from fairdeploy.pruning.base import Pruned, Pruner, StoredSplit
from fairdeploy.pruning.bilevel import Bilevel
from fairdeploy.pruning.determinism import set_deterministic
from fairdeploy.pruning.methods import make_pruner
from fairdeploy.pruning.problem import Batch, Objective, Problem, Stream
from fairdeploy.pruning.recover import Trained, fair_teacher, recover
from fairdeploy.pruning.scored import ByScore
from fairdeploy.pruning.stored import stored_problem
from fairdeploy.pruning.training import Distillation, Progress, Schedule

__all__ = [
    "Batch",
    "Bilevel",
    "ByScore",
    "Distillation",
    "Objective",
    "Problem",
    "Progress",
    "Pruned",
    "Pruner",
    "Schedule",
    "StoredSplit",
    "Stream",
    "Trained",
    "fair_teacher",
    "make_pruner",
    "recover",
    "set_deterministic",
    "stored_problem",
]
