"""Layer shapes under masks, the table of measured layers, and predictions from both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from fairdeploy.compaction import channel_groups, compact, groups_and_macs
from fairdeploy.devices.together import Timed, time_together
from fairdeploy.errors import BackendError, BackendUnavailable
from fairdeploy.pruning import latency_table
from fairdeploy.pruning.latency import Layers, LayerShape, NetworkLatency
from fairdeploy.pruning.latency_table import LatencyTable, write_layer
from fairdeploy.store import Store

EXAMPLE = (torch.zeros(2, 3, 8, 8),)
CONVOLUTION = LayerShape("convolution", 8, 12, (6, 6), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1))
SHAPES = (
    CONVOLUTION,
    LayerShape("convolution", 8, 8, (6, 6), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 8),
    LayerShape("convolution", 5, 7, (9,), (3,), (1,), (2, 2), (2,)),
    LayerShape("linear", 8, 6, (5,)),
    LayerShape("attention", 2, 4, (5, 5)),
)


class Mixed(nn.Module):
    """A convolution, a depthwise one, a strided one, a residual sum and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.point = nn.Conv2d(12, 12, 1)
        self.down = nn.Conv2d(12, 16, 3, stride=2)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = x + self.point(torch.relu(self.depthwise(x)))
        return self.head(torch.relu(self.down(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Mixed().eval()


@pytest.fixture(scope="module")
def masks(model: nn.Module) -> dict[str, np.ndarray]:
    prunable = [group for group in channel_groups(model, EXAMPLE) if group.prunable]
    return {group.name: np.arange(group.size) % 3 != 0 for group in prunable}


def made_up(shapes: object) -> dict[LayerShape, float]:
    return {shape: shape.macs / 1e6 for shape in shapes}


def test_shapes_under_masks_are_those_of_the_compacted_network(model: nn.Module, masks: dict) -> None:
    groups, macs = groups_and_macs(model, EXAMPLE)
    layers = Layers(model, EXAMPLE, groups)
    small = compact(model, EXAMPLE, masks).module
    assert layers.shapes(masks) == Layers(small, EXAMPLE, ()).shapes({}) != layers.shapes({})
    for chosen in ({}, masks):
        assert sum(shape.macs for shape in layers.shapes(chosen)) == macs(chosen)


def test_the_rest_shrinks_with_the_channels(model: nn.Module, masks: dict) -> None:
    layers = Layers(model, EXAMPLE, channel_groups(model, EXAMPLE))
    assert layers.rest({}) == 1.0
    assert 0.5 < layers.rest(masks) < 0.8


def test_a_prediction_is_the_layers_and_the_rest(model: nn.Module, masks: dict) -> None:
    layers = Layers(model, EXAMPLE, channel_groups(model, EXAMPLE))
    dense, pruned = NetworkLatency(layers, made_up, rest_ms=2.0)([{}, masks])
    assert dense == pytest.approx(sum(shape.macs for shape in layers.shapes({})) / 1e6 + 2)
    assert pruned == pytest.approx(sum(shape.macs for shape in layers.shapes(masks)) / 1e6 + 2 * layers.rest(masks))


def test_a_group_costs_what_goes_with_it(model: nn.Module) -> None:
    layers = Layers(model, EXAMPLE, channel_groups(model, EXAMPLE))
    groups = channel_groups(model, EXAMPLE, latency_ms=NetworkLatency(layers, made_up, rest_ms=0.0))
    assert any(group.prunable for group in groups)
    for group in groups:
        assert (group.cost is not None) == group.prunable
        if group.cost is not None:
            left = {group.name: np.arange(group.size) == 0}
            small = compact(model, EXAMPLE, left)
            assert group.cost.macs == small.macs_before - small.macs_after > 0
            assert group.cost.latency_ms == pytest.approx(group.cost.macs / 1e6)
            assert f"{group.cost.macs:,} MACs, {group.cost.latency_ms:.3f} ms" in str(group)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape.kind}-{shape.groups}")
def test_a_written_layer_runs_and_does_not_share_its_work(shape: LayerShape, tmp_path: Path) -> None:
    row = write_layer(tmp_path / "three.onnx", shape, 3)
    session = onnxruntime.InferenceSession(tmp_path / "three.onnx", providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"x": np.ones(row, np.float32)})
    assert np.isfinite(output).all()
    assert output.std() > 0


def test_a_shape_is_measured_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(backend: str, artifacts: list[Timed], *, rounds: int) -> np.ndarray:
        calls.append(len(artifacts))
        return time_together(backend, artifacts, rounds=2)

    monkeypatch.setattr(latency_table, "time_together", counted)
    first = LatencyTable("ort", Store(tmp_path))(SHAPES[:2])
    assert set(first) == set(SHAPES[:2])
    assert all(latency_ms >= 0 for latency_ms in first.values())
    again = LatencyTable("ort", Store(tmp_path))
    assert again(SHAPES[:2]) == first
    assert len(calls) == 1
    again((SHAPES[0], SHAPES[3]))
    assert calls[1] == 4, "the pacemaker and the one new shape, each alone and beside others"


def test_latencies_are_scaled_to_one_pace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pace = 1.0

    def scripted(backend: str, artifacts: list[Timed], *, rounds: int) -> np.ndarray:
        return pace * np.tile(np.arange(1.0, len(artifacts) + 1), (rounds, 1))

    monkeypatch.setattr(latency_table, "time_together", scripted)
    table = LatencyTable("ort", Store(tmp_path))
    before = table([CONVOLUTION])[CONVOLUTION]
    pace = 3.0  # another process came
    wider = LayerShape("convolution", 8, 12, (6, 6), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), 4)
    assert table([wider])[wider] == pytest.approx(before)


def test_what_no_backend_can_time_is_said(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match="tensorrt"):
        LatencyTable("tensorrt", Store(tmp_path))([CONVOLUTION])
    (tmp_path / "bad.onnx").write_bytes(b"no network")
    with pytest.raises(BackendError):
        time_together("ort", [Timed(tmp_path / "bad.onnx", {"x": (1, 2)})], rounds=2)
    assert not list(tmp_path.glob("layer-latency/*/latency_ms.json"))
