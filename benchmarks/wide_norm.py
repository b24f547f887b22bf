"""What a layer norm costs that lost channels: ``python benchmarks/wide_norm.py``.

Transformer encoder layers with half their channels closed are compacted twice, layer norms kept whole and written out
over the old width (``wide_layer_norm=True``); both run in ONNX Runtime in turns, one thread, float32. The norm alone is
timed too. Writes ``results/wide_norm.json`` and ``results/wide_norm.md``; the numbers are ratios within one run.
"""

from __future__ import annotations

import statistics
import time
import warnings
from typing import Any

import numpy as np
import onnxruntime
import torch
from tables import machine, markdown, write
from torch import Tensor, nn

import fairdeploy
from fairdeploy.compaction import CompactModel

ROUNDS, TOKENS = 300, 197
WIDTHS = (192, 384)


class Norm(nn.Module):
    """A layer norm between two small linear layers, so that its channels can go."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter, self.norm, self.leave = nn.Linear(4, width), nn.LayerNorm(width), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.norm(self.enter(x)))


class Encoder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(48, width), nn.Linear(width, 10)
        layers = [nn.TransformerEncoderLayer(width, 3, 4 * width, batch_first=True, norm_first=True) for _ in range(2)]
        self.layers, self.norm = nn.Sequential(*layers), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.norm(self.layers(self.enter(x))).mean(1))


def halved(model: nn.Module, example: Tensor, *, wide: bool) -> CompactModel:
    """Compact a network with half of each prunable group closed."""
    groups = fairdeploy.channel_groups(model, (example,), wide_layer_norm=wide)
    masks = {g.name: np.arange(g.size) % g.shape[-1] < g.shape[-1] // 2 for g in groups if g.prunable}
    return fairdeploy.compact(model, (example,), masks, wide_layer_norm=wide)


def session(module: nn.Module, example: Tensor) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(module, (example,), dynamo=True, opset_version=18, verbose=False)
    assert program is not None
    return onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def in_turns(sessions: list[onnxruntime.InferenceSession], example: Tensor) -> list[float]:
    """Return the median milliseconds of each session, all run once in every round."""
    spent: list[list[float]] = [[] for _ in sessions]
    for round_ in range(ROUNDS + 20):
        for times, one in zip(spent, sessions, strict=True):
            start = time.perf_counter()
            one.run(None, {one.get_inputs()[0].name: example.numpy()})
            if round_ >= 20:
                times.append((time.perf_counter() - start) * 1e3)
    return [statistics.median(times) for times in spent]


def main() -> None:
    rows: list[dict[str, Any]] = []
    for width in WIDTHS:
        for name, model, inputs in (("norm alone", Norm(width), 4), ("2 encoder layers", Encoder(width), 48)):
            torch.manual_seed(0)
            example = torch.randn(1, TOKENS, inputs)
            models = [model.eval(), *(halved(model, example, wide=wide) for wide in (False, True))]
            graphs = [m.graph_module if isinstance(m, CompactModel) else m for m in models]
            dense, kept, wide = in_turns([session(graph, example) for graph in graphs], example)
            macs = [m.macs_after / m.macs_before for m in models[1:] if isinstance(m, CompactModel)]
            rows.append(
                {
                    "network": f"{name}, width {width}",
                    "MACs, norms whole": f"{macs[0]:.2f}",
                    "MACs, wide": f"{macs[1]:.2f}",
                    "p50 / dense, norms whole": f"{kept / dense:.2f}",
                    "p50 / dense, wide": f"{wide / dense:.2f}",
                }
            )
    text = (
        "# Layer norms written out over the old width\n\nHalf of each prunable group closed; ONNX Runtime, one thread, "
        f"float32, {TOKENS} tokens, medians of {ROUNDS} rounds in turns. {machine()}.\n\n{markdown(rows)}\n"
    )
    write("wide_norm", {"machine": machine(), "rows": rows}, text)


if __name__ == "__main__":
    main()
