"""Every hard case compacts exactly, whatever switched its channels off, and gives up what it was asked for."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from fairdeploy.compaction import CompactModel, Masks, apply_masks, compact

from .hard import (  # noqa: F401
    HARD,
    NARROW,
    depends_on_input,
    exported_once,
    outputs,
    rectangular,
    rows_for,
    subject,
)

Closed = tuple[nn.Module, Masks]
Style = Callable[[str, np.random.Generator], Closed]


def whole_groups(name: str, rng: np.random.Generator) -> Closed:
    model, groups = subject(name)
    masks = {group.name: rectangular(group, rng) for group in groups if group.prunable}
    return apply_masks(model, groups, masks), masks


def ragged(name: str, rng: np.random.Generator) -> Closed:
    """Other counts in every row of the joint groups; the rest whole."""
    model, groups = subject(name)
    masks = {g.name: rng.random(g.size) < 0.6 for g in groups if g.prunable and len(g.shape) == 2}
    return apply_masks(model, groups, masks), masks


def with_zeros(dims: int, share: float) -> Style:
    """Zero slices along the first dimensions of every parameter, in no relation to the groups."""

    def close(name: str, rng: np.random.Generator) -> Closed:
        masked = copy.deepcopy(subject(name)[0])
        with torch.no_grad():
            for key, parameter in masked.named_parameters():
                if key.endswith(("weight_v", "original1")) or (dims == 1 and parameter.ndim == 1):
                    continue  # a direction of zeros has no norm; biases and betas stay, so that constants do
                for dim in range(min(parameter.ndim, dims)):
                    gone = np.flatnonzero(rng.random(parameter.shape[dim]) < share)
                    parameter.index_fill_(dim, torch.from_numpy(gone), 0)
        return masked, {}

    return close


STYLES: dict[str, Style] = {
    "groups": whole_groups,
    "ragged": ragged,
    "producers": with_zeros(1, 0.35),
    "unaligned": with_zeros(2, 0.25),
}

# Single channels that cannot go though it was asked for, and why; rows and columns of joint groups may always be
# unequal once the masks of the groups they meet are carried out.
STAYS = {
    "res2net": "last channel",  # a piece of the split that would be empty
    "shuffle_unit": "last channel",
}


def digest(model: nn.Module) -> str:
    found = hashlib.sha256()
    for key, value in model.state_dict().items():
        found.update(key.encode() + str(value.dtype).encode() + value.numpy().tobytes())
    found.update(repr([(key, type(m), m.training, sorted(vars(m))) for key, m in model.named_modules()]).encode())
    return found.hexdigest()


def assert_equal(name: str, masked: nn.Module, result: CompactModel) -> None:
    tolerance = NARROW.get(name, 1e-9)
    for count in (1, 7):
        inputs = rows_for(name, count, 50 + count)
        want = outputs(masked, inputs)
        for network in (result.module, result.graph_module):
            for a, b in zip(want, outputs(network, inputs), strict=True):
                assert a.dtype == b.dtype
                torch.testing.assert_close(b, a, rtol=tolerance, atol=tolerance * float(a.abs().max()))


def cases() -> list[object]:
    starts = {
        "attention_",
        "multi",
        "encoder",
        "grouped",
        "rope",
        "windows",
        "class_token",
        "einsum",
        "channel_shuffle",
    }
    return [
        pytest.param(name, style, id=f"{name}-{style}")
        for name in HARD
        for style in STYLES
        if style != "ragged" or any(name.startswith(start) for start in starts)
    ]


@pytest.mark.parametrize(("name", "style"), cases())
def test_outputs_stay(name: str, style: str) -> None:
    rng = np.random.default_rng(0)
    drawn = (STYLES[style](name, rng) for _ in range(50))
    masked, masks = next((model, masks) for model, masks in drawn if depends_on_input(model, name))
    before = digest(masked)
    result = compact(masked, rows_for(name, 3, 1))
    assert digest(masked) == before
    assert result.proof.max_difference <= 1e-9
    assert_equal(name, masked, result)
    joint = {group.name for group in subject(name)[1] if len(group.shape) == 2}
    for group, mask in masks.items():
        if result.removed[group][1] > mask.sum():
            allowed = ("keep as many", "last channel") if group in joint else (STAYS[name],)
            assert any(reason in result.kept_because[group] for reason in allowed)
