"""Compaction against oracles: brute force, single channels, perturbation, another runtime, random networks."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from fairdeploy.compaction import apply_masks, channel_groups, compact
from fairdeploy.compaction.dependence import dependence
from fairdeploy.compaction.trace import trace
from fairdeploy.graphs import load_graph, save_graph

from .hard import (  # noqa: F401
    depends_on_input,
    outputs,
    rectangular,
    rows_for,
    subject,
)
from .networks import conv_bn, randomise
from .test_hard import with_zeros

ALONE = ("grouped_transposed", "group_norm", "rope_strided")
PERTURBED = ("attention_unbind_matmul", "detector", "windows", "shuffle_unit")
FREE = ("res2net", "einsum", "unfold_fold", "selective_kernel", "grouped_transposed")
RUNTIME = ("attention_unbind", "grouped", "detector", "pixel_shuffle")


def zeroed(name: str, seed: int, dims: int = 2) -> nn.Module:
    """A case with slices of zeros whose output still depends on its input."""
    rng = np.random.default_rng(seed)
    drawn = (with_zeros(dims, 0.25)(name, rng)[0] for _ in range(50))
    return next(model for model in drawn if depends_on_input(model, name))


@pytest.mark.parametrize("name", FREE)
def test_what_stays_matters(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing any channel that stayed changes the output; activations that saturate would hide that."""

    def leaky(x: Tensor, *_: object, **__: object) -> Tensor:
        return F.leaky_relu(x, 0.3)

    monkeypatch.setattr(F, "relu", leaky)
    monkeypatch.setattr(Tensor, "relu", leaky)
    masked = zeroed(name, 2, dims=1)
    result = compact(masked, rows_for(name, 3, 1))
    inputs = rows_for(name, 16, 3)
    groups = channel_groups(result.graph_module, rows_for(name, 3, 1))
    whole = outputs(result.graph_module, inputs)
    seen = 0
    for group in groups:
        if not group.prunable or group.size == 1 or group.name in result.kept_because:
            continue
        for channel in range(group.size):
            mask = {group.name: np.arange(group.size) != channel}
            closed = outputs(apply_masks(result.graph_module, groups, mask), inputs)
            assert any(not torch.equal(a, b) for a, b in zip(whole, closed, strict=True)), f"{group.name}[{channel}]"
            seen += 1
    assert seen


@pytest.mark.parametrize("name", ALONE)
def test_one_channel_of_each_group_can_go_alone(name: str) -> None:
    """One channel; of a joint group one column in every row, the smallest part that leaves it rectangular."""
    model, groups = subject(name)
    for group in groups:
        if group.prunable and group.size > 1:
            keep = np.ones(group.shape or (group.size,), bool)
            keep[..., -1] = False
            if not keep.any():
                continue
            masks = {group.name: keep.ravel()}
            result = compact(model, rows_for(name, 3, 1), masks)
            assert result.removed[group.name] == (group.size, int(keep.sum())), result.kept_because
            want = outputs(apply_masks(model, groups, masks), rows_for(name, 4, 9))
            for a, b in zip(want, outputs(result.module, rows_for(name, 4, 9)), strict=True):
                torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-9)


class Noisy(fx.Interpreter):
    """Adds noise to every element that is not live."""

    def __init__(self, module: fx.GraphModule, live: dict[fx.Node, Tensor]) -> None:
        super().__init__(module)
        self.live, self.touched = live, 0

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.op == "call_function" and n in self.live and value.is_floating_point():
            dead = self.live[n] == 0
            self.touched += int(dead.sum())
            value = value + torch.randn(value.shape, dtype=value.dtype) * dead
        return value


@pytest.mark.parametrize("name", PERTURBED)
def test_constants_do_not_move_and_dead_elements_are_not_read(name: str) -> None:
    traced = trace(zeroed(name, 3), rows_for(name, 2, 0))
    first, second = (replace(traced, inputs=rows_for(name, 2, seed)).run() for seed in (5, 6))
    known = dependence(traced.graph_module.graph, first)
    constants = 0
    for node, taint in known.taint.items():
        if isinstance(first[node], Tensor) and first[node].is_floating_point():
            same = (taint == 0).expand(first[node].shape)
            constants += int(same.sum()) * (node.op == "call_function")
            torch.testing.assert_close(first[node][same], second[node][same], rtol=1e-12, atol=1e-12)
    noisy = Noisy(traced.graph_module, known.live)
    inputs = rows_for(name, 2, 5)
    with torch.no_grad():
        want, got = traced.graph_module(*inputs), noisy.run(*inputs)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    assert constants
    assert noisy.touched


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", RUNTIME)
def test_onnx_runtime_agrees(name: str, tmp_path: Path) -> None:
    model = copy.deepcopy(subject(name)[0]).float()
    groups, rng = subject(name)[1], np.random.default_rng(2)
    masks = {group.name: rectangular(group, rng) for group in groups if group.prunable}
    example = tuple(value.float() for value in rows_for(name, 2, 1))
    graph = compact(model, example, masks).graph_module
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(graph, example, dynamic_shapes=tuple({0: batch} for _ in example))
    torch.onnx.export(program, f=str(tmp_path / "m.onnx"), dynamo=True, opset_version=18, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 5):
        inputs = tuple(value.float() for value in rows_for(name, count, 8))
        fed = {put.name: value.numpy() for put, value in zip(session.get_inputs(), inputs, strict=True)}
        for want, got in zip(outputs(graph, inputs), session.run(None, fed), strict=True):
            np.testing.assert_allclose(got, want.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["windows"])
def test_the_same_masks_give_the_same_bytes(name: str, tmp_path: Path) -> None:
    masked = zeroed(name, 4)
    for folder in ("a", "b"):
        save_graph(compact(masked, rows_for(name, 3, 1)).graph_module, tmp_path / folder)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    loaded = load_graph(tmp_path / "a")
    for a, b in zip(outputs(loaded, rows_for(name, 2, 5)), outputs(masked, rows_for(name, 2, 5)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


class Residual(nn.Module):
    """Blocks over one stream, each plain, grouped, dense or gated."""

    def __init__(self, kinds: list[str], width: int) -> None:
        super().__init__()
        self.kinds, self.stem = kinds, conv_bn(2, width)
        self.blocks = nn.ModuleList(
            conv_bn(width, width, 3, groups=2 if kind == "grouped" else width if kind == "depthwise" else 1)
            for kind in kinds
        )
        self.head = nn.Linear(width * (1 + kinds.count("dense")), 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        kept = []
        for kind, block in zip(self.kinds, self.blocks, strict=True):
            y = block(x)
            if kind == "dense":
                kept.append(y.tanh())
            elif kind == "gated":
                x = x * y.sigmoid()
            else:
                x = (x + y).relu()
        return self.head(torch.cat([x, *kept], 1).mean((2, 3)))


@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    kinds=st.lists(st.sampled_from(["plain", "grouped", "depthwise", "dense", "gated"]), min_size=1, max_size=3),
    width=st.sampled_from([4, 6]),
    share=st.floats(0, 0.5),
    seed=st.integers(0, 999),
)
def test_any_zeros_on_any_residual_network(kinds: list[str], width: int, share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = randomise(Residual(kinds, width), seed).double()
    with torch.no_grad():
        for parameter in model.parameters():
            for dim in range(min(parameter.ndim, 2)):
                gone = np.flatnonzero(rng.random(parameter.shape[dim]) < share)
                if len(gone) < parameter.shape[dim]:
                    parameter.index_fill_(dim, torch.from_numpy(gone), 0)
        x = torch.randn(4, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
        want = model(x)
        if float((want - model(x.roll(1, 0))).abs().max()) < 1e-3 * float(want.abs().max()):
            return
        result = compact(model, (x[:2],))
        for network in (result.module, result.graph_module):
            torch.testing.assert_close(network(x), want, rtol=1e-9, atol=1e-9 * float(want.abs().max()))
