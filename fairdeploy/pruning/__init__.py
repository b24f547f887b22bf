"""Pruning: which channels a network can do without, and fine-tuning once they are gone.

::

    base         `Pruner`: what a method gives; `StoredSplit`: the rows it may learn from
    magnitude    the channels of smallest L2 norm, to a budget of multiply-accumulates
    recover      fine-tuning after removal   (sampling: which rows in which order)
    determinism  the same seed gives the same bytes
"""

from fairdeploy.pruning.base import Pruner, StoredSplit
from fairdeploy.pruning.determinism import set_deterministic
from fairdeploy.pruning.magnitude import Magnitude, magnitude_masks
from fairdeploy.pruning.recover import recover

__all__ = ["Magnitude", "Pruner", "StoredSplit", "magnitude_masks", "recover", "set_deterministic"]
