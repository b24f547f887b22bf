"""Rounding by measured latency against multiples, on networks of known shape: `python benchmarks/rounding.py`.

For each network and runtime, channels are kept at a budget by each rule: multiples of 1, 8 and 16, and, at the MACs
that each of those reached, by measured latency. All are compacted, exported and timed in turns, one thread, fp32.
Where Torch-Pruning is installed, its `round_to=8` at the same ratio of channels stands beside them.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tables import RESULTS, machine, markdown, write
from torch import Tensor, nn

from fairdeploy.compaction import compact, count_macs
from fairdeploy.devices.together import Timed, circumstances, time_together
from fairdeploy.export import export_onnx
from fairdeploy.model import ModelSpec, TensorSpec
from fairdeploy.project import Budget
from fairdeploy.pruning.budget import BudgetUse, groups_and_costs
from fairdeploy.pruning.counts import masks_of
from fairdeploy.pruning.latency_table import LatencyTable, network_latency, time_whole
from fairdeploy.pruning.rounding import round_counts
from fairdeploy.pruning.scores import Subject, l2
from fairdeploy.store import Store

BACKENDS = ("ort", "openvino")
MULTIPLES = (1, 8, 16)
KEEP_MACS = 0.6
ROUNDS = 200
CLASSES = 10
FAR = 0.15


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class Basic(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = conv_bn(inputs, outputs, 3, stride), conv_bn(outputs, outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else conv_bn(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


class ResNet18(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 64, 7, 2)
        pairs = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2)]
        self.blocks = nn.Sequential(*(Basic(*pair) for pair in pairs), Basic(512, 512, 1))
        self.head = nn.Linear(512, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2, 1)
        return self.head(self.blocks(x).mean((2, 3)))


class Inverted(nn.Module):
    def __init__(self, inputs: int, outputs: int, expand: int, stride: int) -> None:
        super().__init__()
        self.residual, wide = stride == 1 and inputs == outputs, inputs * expand
        self.layers = nn.Sequential(
            conv_bn(inputs, wide, 1), nn.ReLU6(), conv_bn(wide, wide, 3, stride, wide), nn.ReLU6(),
            conv_bn(wide, outputs, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


class MobileNetV2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        stages = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2)]
        blocks: list[nn.Module] = [conv_bn(3, 32, 3, 2), nn.ReLU6()]
        width = 32
        for expand, outputs, count, stride in [*stages, (6, 320, 1, 1)]:
            for index in range(count):
                blocks.append(Inverted(width, outputs, expand, stride if index == 0 else 1))
                width = outputs
        self.blocks = nn.Sequential(*blocks, conv_bn(width, 1280, 1), nn.ReLU6())
        self.head = nn.Linear(1280, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x).mean((2, 3)))


class Encoder(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        packed = self.query_key_value(self.norm1(x)).reshape(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = x + self.project(mixed)
        return x + self.narrow(F.gelu(self.wide(self.norm2(x))))


class ViTTiny(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 192, 16, 16)
        self.position = nn.Parameter(torch.randn(1, (size // 16) ** 2, 192))
        self.blocks = nn.Sequential(*(Encoder(192, 3, 768) for _ in range(12)))
        self.norm, self.head = nn.LayerNorm(192), nn.Linear(192, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(x)).mean(1))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18": (ResNet18, 112),
    "mobilenetv2": (MobileNetV2, 128),
    "vit_tiny": (lambda: ViTTiny(128), 128),
}


@dataclass(frozen=True)
class Variant:
    """One network as a rule made it; `against` is the rule at whose MACs it was made."""

    rule: str
    against: str
    macs: float
    predicted_ms: float | None
    file: Path


def spread(model: nn.Module, size: int) -> nn.Module:
    """Give batch norms random scales and the statistics of random inputs, so that outputs depend on the inputs."""
    generator = torch.Generator().manual_seed(0)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None
            with torch.no_grad():
                part.weight.copy_(0.75 + 0.5 * torch.rand(part.weight.shape, generator=generator))
                part.bias.copy_(0.1 * torch.randn(part.bias.shape, generator=generator))
    with torch.no_grad():
        model.train()(torch.randn(16, 3, size, size, generator=generator))
    return model.eval()


def export(module: nn.Module, size: int, file: Path) -> Path:
    spec = ModelSpec(
        task="multiclass-classification",
        inputs={"image": TensorSpec(shape=("batch", 3, size, size))},
        classes=tuple(f"class {index}" for index in range(CLASSES)),
    )
    rows = np.random.default_rng(0).standard_normal((2, 3, size, size)).astype(np.float32)
    export_onnx(module, {"image": rows}, file, spec=spec, check_inputs={"image": rows})
    return file


def torch_pruning(model: nn.Module, example: Tensor, macs: float) -> nn.Module | None:
    """Prune by magnitude with `round_to=8` until at most these MACs are left; None where it is not installed."""
    try:
        import torch_pruning as tp
    except ImportError:
        return None
    import copy

    heads = [part for part in model.modules() if isinstance(part, nn.Linear) and part.out_features == CLASSES]
    for ratio in np.arange(0.02, 0.98, 0.01):
        small = copy.deepcopy(model)
        ignored = [dict(small.named_modules())[n] for n, part in model.named_modules() if part in heads]
        pruner = tp.pruner.MagnitudePruner(
            small, example, tp.importance.MagnitudeImportance(p=2), pruning_ratio=float(ratio), round_to=8,
            ignored_layers=ignored,
        )  # fmt: skip
        pruner.step()
        try:
            if count_macs(small, (example,)) <= macs:
                return small.eval()
        except RuntimeError:  # heads and reshapes that it does not rewrite
            return None
    return None


def variants(name: str, backend: str, store: Store, folder: Path) -> list[Variant]:
    build, size = NETWORKS[name]
    torch.manual_seed(0)
    model = spread(build(), size)
    example = (torch.randn(2, 3, size, size),)
    groups, costs = groups_and_costs(model, example)
    scores = l2(Subject(model, groups))
    dense_file = export(model, size, folder / "dense.onnx")
    inputs: dict[str, tuple[int, ...]] = {"image": (1, 3, size, size)}
    table = LatencyTable(backend, store)
    latency = network_latency(table, model, example, Timed(dense_file, inputs))
    measured = time_whole(table, model, example, lambda module, file: export(module, size, file), inputs)
    dense = costs.macs({})
    found = [Variant("dense", "", 1.0, latency([{}])[0], dense_file)]

    def add(rule: str, against: str, keep: float, round_to: Any) -> float:
        last_word = measured if callable(round_to) else None
        use = BudgetUse(Budget(macs=keep), costs)
        counts = round_counts(groups, scores, use, round_to=round_to, last_word=last_word)
        masks = masks_of(groups, scores, counts)
        file = folder / f"{len(found)}.onnx"
        small = compact(model, example, masks)
        found.append(
            Variant(rule, against, small.macs_after / dense, latency([masks])[0], export(small.module, size, file))
        )
        return costs.macs(masks) / dense

    for multiple in MULTIPLES:
        rule = f"multiples of {multiple}"
        add("latency", rule, add(rule, rule, KEEP_MACS, multiple), latency)
    theirs = torch_pruning(model, example[0], KEEP_MACS * dense)
    if theirs is not None:
        rule, reached = "Torch-Pruning round_to=8", count_macs(theirs, example) / dense
        found.append(Variant(rule, rule, reached, None, export(theirs, size, folder / "theirs.onnx")))
        add("latency", rule, reached, latency)
    return found


def measure(name: str, backend: str, store: Store, rounds: int) -> list[dict[str, Any]]:
    size = NETWORKS[name][1]
    with tempfile.TemporaryDirectory(prefix="rounding-") as folder:
        made = variants(name, backend, store, Path(folder))
        timed = [Timed(one.file, {"image": (1, 3, size, size)}) for one in made]
        times_ms = time_together(backend, timed, rounds=rounds)
    medians = np.median(times_ms, axis=0)
    # One pace for both: as shares of the dense network.
    pace = medians[0] / (made[0].predicted_ms or medians[0])
    by_rule = {one.rule: float(ms) for one, ms in zip(made, medians, strict=True) if one.rule != "latency"}
    rows = []
    for one, measured_ms in zip(made, medians, strict=True):
        predicted = one.predicted_ms
        rows.append(
            {
                "network": name,
                "runtime": backend,
                "rule": f"latency, at the MACs of {one.against}" if one.rule == "latency" else one.rule,
                "MACs": f"{one.macs:.3f}",
                "predicted ms": "" if predicted is None else f"{predicted:.3f}",
                "p50 ms": f"{measured_ms:.3f}",
                "predicted / p50, of dense": "" if predicted is None else f"{predicted * pace / measured_ms:.2f}",
                "against multiples of 1": f"{measured_ms / by_rule['multiples of 1']:.3f}",
                "against that rule": f"{measured_ms / by_rule[one.against]:.3f}" if one.rule == "latency" else "",
            }
        )
    return rows


def text_of(rows: list[dict[str, Any]], rounds: int, runtimes: dict[str, Any]) -> str:
    ratios = [float(row["against that rule"]) for row in rows if row["against that rule"]]
    errors = [
        abs(float(row["predicted / p50, of dense"]) - 1)
        for row in rows
        if row["predicted / p50, of dense"] and row["rule"] != "dense"
    ]
    versions = ", ".join(f"{name} {facts['version']}" for name, facts in runtimes.items())
    slower = [row for row in rows if row["against that rule"] and float(row["against that rule"]) > 1]
    own = sum(_same(row, rows) for row in slower)
    far = sum(error > FAR for error in errors)
    return (
        "# Rounding by measured latency\n\n"
        f"{machine()}; {versions}; one thread, fp32, one row; p50 of {rounds} rounds in turns; random weights, "
        f"{KEEP_MACS:g} of the MACs. Compare ratios, not milliseconds. Predictions are compared as shares of the "
        "dense network, whose own latency goes into them.\n\n"
        f"Slower than the rule at whose MACs it was made: {len(slower)} of {len(ratios)}, by at most "
        f"{max(0.0, max(ratios) - 1):.1%}; {own} of these are the rule's own network, so that the difference is the "
        f"clock's. Fastest against its rule: {1 - min(ratios):.1%}. Prediction off by more than {FAR:.0%}: {far} of "
        f"{len(errors)}, by at most {max(errors):.0%}; {np.median(errors):.0%} at the median.\n\n"
        + markdown(rows)
        + "\n"
    )


def _same(row: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
    """Return whether rounding by latency chose what the rule at whose MACs it was made had chosen."""
    facts = ("network", "runtime", "MACs", "predicted ms")
    others = [other for other in rows if row["rule"] == f"latency, at the MACs of {other['rule']}"]
    return any(all(row[fact] == other[fact] for fact in facts) for other in others)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="rounding-store-") as folder:
        store, rows = Store(Path(folder)), list[dict[str, Any]]()
        runtimes = {backend: circumstances(backend) for backend in BACKENDS}
        for name, backend in product(options.networks, BACKENDS):
            rows += measure(name, backend, store, options.rounds)
            text = text_of(rows, options.rounds, runtimes)
            write("rounding", {"rows": rows, "rounds": options.rounds}, text, folder=options.out)


if __name__ == "__main__":
    main()
