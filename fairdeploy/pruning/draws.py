"""The generators that a loader draws from, kept apart from everybody else's."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


class Draws:
    """The global generators of torch, NumPy and Python, and those that a loader and its samplers hold.

    Parameters
    ----------
    loader : object
        Whose ``generator``, and those of its ``sampler`` and of its ``batch_sampler``, are looked for.
    """

    def __init__(self, loader: Any) -> None:
        batch_sampler = getattr(loader, "batch_sampler", None)
        holders = (loader, getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None))
        own = [getattr(holder, "generator", None) for holder in holders]
        self._own = list(dict.fromkeys(one for one in own if isinstance(one, torch.Generator)))

    def seed(self, seed: int) -> None:
        """Seed all of them."""
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        for one in self._own:
            one.manual_seed(seed)

    def states(self) -> Any:
        """Return where they stand."""
        return torch.get_rng_state(), np.random.get_state(), random.getstate(), [one.get_state() for one in self._own]

    def go_on(self, states: Any) -> None:
        """Go on from there."""
        of_torch, of_numpy, of_python, own = states
        torch.set_rng_state(of_torch)
        np.random.set_state(of_numpy)
        random.setstate(of_python)
        for one, state in zip(self._own, own, strict=True):
            one.set_state(state)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Put them back at the end to where they stood."""
        before = self.states()
        try:
            yield
        finally:
            self.go_on(before)
