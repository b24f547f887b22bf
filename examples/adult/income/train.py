"""Train the dense network again: ``python -m income.train`` in the example's folder, a few seconds.

One thread and deterministic kernels: on one machine the same bytes every time. Another CPU or thread count gives
other weights of the same quality.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional

from fairdeploy.data import Split
from income.data import splits
from income.model import build

WEIGHTS = Path(__file__).resolve().parent.parent / "weights" / "dense.safetensors"
BATCH = 256
EPOCHS = 12
RATE = 4e-3


def fit(split: Split, *, epochs: int = EPOCHS, seed: int = 0) -> torch.nn.Module:
    """Train a fresh network on a split with AdamW and a one-cycle rate."""
    torch.manual_seed(seed)
    model = build().train()
    x, y = features(split), torch.from_numpy(split.rows.labels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=1e-2)
    steps = epochs * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, total_steps=steps, pct_start=0.2)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def features(split: Split) -> torch.Tensor:
    """Return a split's inputs [n, features]."""
    return torch.from_numpy(np.concatenate([batch["features"] for batch in split.batches(4096)]))


@torch.no_grad()
def accuracy(model: torch.nn.Module, split: Split) -> float:
    """Return the share of a split's rows that is predicted right."""
    return float(np.mean(model(features(split)).argmax(1).numpy() == split.rows.labels))


def main() -> None:
    """Train on *train*, write the weights, print the accuracy on *tune*."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where the weights go")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    data = splits()
    model = fit(data["train"])
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), out)
    print(f"accuracy on tune: {accuracy(model, data['tune']):.1%}")
    print(f"{sum(one.numel() for one in model.parameters())} parameters in {out}")


if __name__ == "__main__":
    main()
