"""A copy of the user's module whose masks and parametrisations have become plain tensors."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


def private_copy(model: nn.Module) -> nn.Module:
    """Return a deep copy, also of modules that hold computed tensors, as ``torch.nn.utils.prune`` leaves them."""
    memo: dict[int, object] = {}
    for part in model.modules():
        for value in vars(part).values():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                memo[id(value)] = value.detach().clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, when it copies a graph
        copied: nn.Module = copy.deepcopy(model, memo)
    return copied


def baked(model: nn.Module) -> nn.Module:
    """Return a copy in which masks of ``torch.nn.utils.prune`` and parametrisations are plain parameters."""
    copied = private_copy(model)
    with torch.no_grad():
        for part in copied.modules():
            for key, hook in list(part._forward_pre_hooks.items()):
                if isinstance(hook, prune.BasePruningMethod | WeightNorm | SpectralNorm):
                    hook.remove(part)
                    del part._forward_pre_hooks[key]
        for part in list(copied.modules()):
            if parametrize.is_parametrized(part):
                _unparametrise(part)
    return copied


def _unparametrise(part: nn.Module) -> None:
    """Make parametrised tensors plain ones; torch's own way would change the class, which the original shares."""
    named = {name: (getattr(part, name).detach(), chain) for name, chain in part.parametrizations.items()}  # type: ignore[union-attr, operator]
    part.__class__ = type(part).__bases__[0]
    del part.parametrizations
    for name, (value, chain) in named.items():
        if any(True for _ in chain.parameters(recurse=False)):
            part.register_parameter(name, nn.Parameter(value.clone()))
        else:
            part.register_buffer(name, value.clone())
