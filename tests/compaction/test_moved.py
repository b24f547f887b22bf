"""Shuffles, constants and totals: what is picked, shared or added up, and how it comes back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fairdeploy
from fairdeploy.compaction import CompactModel, apply_masks, channel_groups, compact, count_macs, groups_and_macs
from fairdeploy.errors import CompactionError
from fairdeploy.export import export_onnx
from fairdeploy.model import ModelSpec, TensorSpec

from .hard import HARD, NARROW, rows_for, subject
from .networks import randomise

IMAGES = (torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0)),)


class Between(nn.Module):
    """Eight channels, something done to them, and a head."""

    def __init__(self, between: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), nn.Linear(4, 2)
        for name, part in parts.items():
            setattr(self, name, part)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.between(self, torch.relu(self.a(x)))).mean((2, 3)))


def shuffled(x: Tensor, rows: int) -> Tensor:
    batch, channels, height, width = x.shape
    return x.view(batch, rows, channels // rows, height, width).transpose(1, 2).reshape(x.shape)


def made(model: nn.Module) -> nn.Module:
    return randomise(model, 0).eval()


def without(model: nn.Module, closed: list[int]) -> CompactModel:
    """Close channels of `a` and compact; the result is the masked network's, in float32 too."""
    masks = {"a.weight": ~np.isin(np.arange(8), closed)}
    result = compact(model, IMAGES, masks)
    with torch.no_grad():
        want = apply_masks(model, channel_groups(model, IMAGES), masks)(*IMAGES)
        torch.testing.assert_close(result(*IMAGES), want, rtol=1e-4, atol=1e-5)
    assert result.proof.max_difference <= 1e-9
    return result


def targets(result: CompactModel) -> list[str]:
    return [str(node.target) for node in result.graph_module.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("rows", [2, 4])
def test_shuffled_channels_go_one_by_one_and_a_shuffle_that_is_left_is_one(rows: int) -> None:
    model = made(Between(lambda m, x: shuffled(x, rows)))
    some = without(model, [0, 3, 5])
    assert some.removed["a.weight"] == (8, 5)
    assert "aten.index_select.default" in targets(some)
    none = without(model, [])
    assert "aten.channel_shuffle.default" in targets(none)
    assert none.not_own_class is None


def test_a_picked_graph_is_saved_evaluated_and_exported(tmp_path: Path) -> None:
    result = without(made(Between(lambda m, x: shuffled(x, 2))), [0, 3, 5])
    assert result.module is result.graph_module
    result.save(tmp_path)
    with torch.no_grad():
        assert torch.equal(fairdeploy.load_graph(str(tmp_path))(*IMAGES), result(*IMAGES))
    assert result.module.eval() is result.module
    rows = {"x": IMAGES[0].numpy()}
    spec = ModelSpec(
        task="multiclass-classification", inputs={"x": TensorSpec(shape=("batch", 3, 6, 6))}, classes=("a", "b")
    )
    assert export_onnx(result.module, rows, tmp_path / "x.onnx", spec=spec, check_inputs=rows).max_difference < 1e-5


def cast_between(m: Any, x: Tensor) -> Tensor:
    batch, _, height, width = x.shape
    above = (x > 0.2).view(batch, 2, 4, height, width).transpose(1, 2).to(x.dtype).reshape(x.shape)
    return x * (1 - above)


@pytest.mark.parametrize(
    ("between", "parts"),
    [
        (cast_between, {}),
        (
            lambda m, x: x.index_select(1, m.order),
            {"order": nn.Parameter(torch.arange(8).flip(0), requires_grad=False)},
        ),
        (lambda m, x: x * (1 + x.index_select(1, m.one)), {"one": torch.tensor(3)}),
        (lambda m, x: x - m.shift, {"shift": torch.linspace(0, 1, 8).view(1, 8, 1, 1)}),
        (lambda m, x: x * torch.tensor([0.5, 2.0] * 4).view(1, 8, 1, 1), {}),
        (lambda m, x: x + x.new_tensor([0.25]), {}),
    ],
    ids=["cast", "parameter", "one", "attribute", "literal", "new"],
)
def test_constants_and_casts_stay_what_they_are(between: Any, parts: dict[str, Any]) -> None:
    model = made(Between(between, **parts))
    result = compact(model, IMAGES)
    with torch.no_grad():
        torch.testing.assert_close(result.graph_module(*IMAGES), model(*IMAGES), rtol=1e-4, atol=1e-5)
        assert result.graph_module(*IMAGES).dtype == torch.float32


def normed_and_sliced(m: Any, x: Tensor) -> Tensor:
    mean = x.mean(1, keepdim=True)
    y = (x - mean) / ((x - mean).square().mean(1, keepdim=True) + 1e-5).sqrt()
    return y * x[:, 1:].mean(1, keepdim=True).sigmoid()


def every_other_centred(m: Any, x: Tensor) -> Tensor:
    y = x - m.odd * x.mean(1, keepdim=True)
    return x / (y.square().mean(1, keepdim=True) + 1e-5).sqrt()


@pytest.mark.parametrize(
    ("between", "parts"),
    [
        (normed_and_sliced, {}),
        (every_other_centred, {"odd": torch.tensor([0.0, 1.0] * 4).view(1, 8, 1, 1)}),
        (lambda m, x: x * (x >= 0).sum(1, keepdim=True), {}),
    ],
    ids=["sliced", "odd", "counted"],
)
def test_what_zeros_do_not_close_is_whole(between: Any, parts: dict[str, Any]) -> None:
    model = made(Between(between, **parts))
    (group,) = [group for group in channel_groups(model, IMAGES) if group.name == "a.weight"]
    assert group.reason is not None
    assert "mixes it" in group.reason


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight / (weight.square().mean((1, 2, 3), keepdim=True) + 1e-5).sqrt(), self.bias)


def test_a_standardised_layer_loses_what_a_mean_adds_up() -> None:
    model = Between(lambda m, x: x / (1 + x.mean(1, keepdim=True)))
    model.a = Standardised(3, 8, 3)
    assert without(made(model), [1, 2]).removed["a.weight"] == (8, 6)


class Rotated(nn.Module):
    """Two attention layers that read one table of sines."""

    def __init__(self) -> None:
        super().__init__()
        angle = torch.arange(6)[:, None] / 10.0 ** torch.arange(4)
        self.register_buffer("table", torch.stack([angle.cos(), angle.sin()]).repeat(1, 1, 2))
        self.layers = nn.ModuleList(nn.Linear(8, 24) for _ in range(2))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        cos, sin = self.table.unbind(0)
        for layer in self.layers:
            q, k, v = layer(x).split(8, -1)
            q, k = (t * cos + torch.cat([-t[..., 4:], t[..., :4]], -1) * sin for t in (q, k))
            x = x + nn.functional.scaled_dot_product_attention(q, k, v)
        return self.head(x.mean(1))


def test_layers_that_share_a_table_lose_other_features() -> None:
    model, tokens = made(Rotated()), (torch.randn(3, 6, 8),)
    groups = [g for g in channel_groups(model, tokens) if g.prunable and len(g.members) > 1 and "layers" in g.name]
    turned = [group for group in groups if len(group.members[0].indices) > group.size]
    assert len(turned) == 2
    masks = {group.name: np.arange(group.size) != place for place, group in enumerate(turned)}
    result = compact(model, tokens, masks)
    assert [result.removed[group.name] for group in turned] == [(4, 3), (4, 3)]
    assert len([name for name, _ in result.graph_module.named_buffers()]) <= 4
    whole = compact(model, tokens)
    assert whole.bytes_after == whole.bytes_before


class Scaled(nn.Module):
    """One table read by two layers, one of them batch-normalised, and a table in double precision."""

    def __init__(self, table: Tensor, exact: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table, persistent=False)
        self.register_buffer("exact", exact)
        self.a, self.b, self.c = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.norm(self.b(torch.relu(self.a(x)) * self.table)) * self.table
        return self.c(y), y.mean(1, keepdim=True) * self.exact[:1] + self.exact[1:]


def scaled(table: Tensor | None = None) -> tuple[Scaled, tuple[Tensor, ...], dict[str, Any]]:
    ones = torch.ones(8) if table is None else table
    model = Scaled(ones, torch.tensor([1 / 3, 2 / 3], dtype=torch.float64)).eval()
    masks = {"a.weight": np.arange(8) > 2, "b.weight": np.arange(8) != 5}
    return model, (torch.randn(16, 5, generator=torch.Generator().manual_seed(1)),), masks


def test_a_table_is_not_taken_for_statistics_that_have_its_values() -> None:
    """A new batch norm's running variance is all ones, and changes in training."""
    model, rows, masks = scaled()
    masked = apply_masks(model, channel_groups(model, rows), masks).train()
    small = compact(model, rows, masks).trainable().train()
    for network in (masked, small):
        for _ in range(3):
            network(*rows)
    for want, got in zip(masked.eval()(*rows), small.eval()(*rows), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_tables_keep_their_precision_and_their_size() -> None:
    model, rows, masks = scaled(torch.linspace(0.5, 1, 8, dtype=torch.float16))
    for chosen in (None, masks):
        result = compact(model, rows, chosen)
        masked = apply_masks(model, channel_groups(model, rows), chosen or {})
        for want, got in zip(masked(*rows), result(*rows), strict=True):
            assert got.dtype == want.dtype
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
        assert (result.bytes_after < result.bytes_before) == (chosen is not None)
        assert result.bytes_after <= result.bytes_before


def test_what_was_compacted_can_be_compacted_again(tmp_path: Path) -> None:
    model, rows, masks = scaled(torch.linspace(0.5, 1, 8))
    compact(model, rows, masks).save(tmp_path)
    first = fairdeploy.load_graph(tmp_path)
    (group,) = [group for group in channel_groups(first, rows) if group.prunable and group.size == 5]
    second = compact(first, rows, {group.name: np.arange(5) != 3})
    assert second.removed[group.name] == (5, 4)
    masked = apply_masks(first, channel_groups(first, rows), {group.name: np.arange(5) != 3})
    for want, got in zip(masked(*rows), second(*rows), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


COUNTED_APART = {"learned_queries"}  # computes from a parameter, in every pass, what the graph holds


@pytest.mark.parametrize("name", sorted(set(HARD) - COUNTED_APART))
def test_what_masks_would_cost_without_any_is_what_the_network_costs(name: str) -> None:
    model, inputs = subject(name)[0], rows_for(name, 2, 0)
    assert groups_and_macs(model, inputs)[1]({}) == count_macs(model, inputs), NARROW.get(name)


def test_a_run_without_gradients_finds_the_same() -> None:
    model = made(Between(lambda m, x: x))
    with torch.inference_mode():
        assert without(model, [0, 1]).removed["a.weight"] == (8, 6)


@pytest.mark.parametrize("given", ["net", Between, None, {"a": 1}])
def test_what_is_no_network_is_said(given: Any) -> None:
    with pytest.raises(CompactionError, match="takes a module or an exported program"):
        compact(given, IMAGES)
