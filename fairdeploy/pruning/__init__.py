"""Pruning: which channels a network can do without, and fine-tuning once they are gone.

::

    base         `Pruner`: what a method gives; `StoredSplit`: the rows it may learn from
    scored       `ByScore`: the channels of highest score stay, to a budget
                 (scores: by weights alone; sensitivity: by what the loss would feel)
    recover      fine-tuning after removal   (sampling: which rows in which order)
    determinism  the same seed gives the same bytes
"""

from fairdeploy.pruning.base import Pruner, StoredSplit
from fairdeploy.pruning.determinism import set_deterministic
from fairdeploy.pruning.recover import recover
from fairdeploy.pruning.scored import ByScore

__all__ = ["ByScore", "Pruner", "StoredSplit", "recover", "set_deterministic"]
