"""The same seed, the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def set_deterministic(seed: int, threads: int = 1) -> Iterator[None]:
    """Seed torch, fix its threads and its deterministic algorithms; give back its state at the end.

    Parameters
    ----------
    seed : int
    threads : int
        Sums split over another number of threads round differently, so results hold for this number.
    """
    state = torch.get_rng_state()
    before = torch.get_num_threads()
    strict, warn_only = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    try:
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True)
        yield
    finally:
        torch.set_rng_state(state)
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(strict, warn_only=warn_only)
