"""Retrain the dense network: ``python -m kiosk.train``.

One thread and deterministic kernels: on one machine the same bytes every time. Another CPU or thread count gives
other weights of the same quality.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch.nn import functional

from fairdeploy.data import Rows, Split
from kiosk.data import splits
from kiosk.drawings import TONES
from kiosk.model import build

WEIGHTS = Path(__file__).resolve().parent.parent / "weights" / "dense.safetensors"
BATCH = 128
EPOCHS = 12


def normalise(images: NDArray[np.uint8]) -> torch.Tensor:
    """Return ``(x - 115) / 64``, as ``model.preprocess`` in fairdeploy.yaml says."""
    return (torch.from_numpy(images).float() - 115) / 64


def fit(images: NDArray[np.uint8], labels: NDArray[np.integer], *, epochs: int, seed: int) -> torch.nn.Module:
    """Train a fresh network with AdamW and a one-cycle rate; images are flipped and rolled by up to 2 px.

    Parameters
    ----------
    images : array of uint8 [n, 3, 32, 32]
    labels : array of int [n]
    epochs, seed : int
    """
    torch.manual_seed(seed)
    model = build().train()
    x, y = normalise(images), torch.from_numpy(labels).long()
    steps = -(-len(x) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=epochs * steps, pct_start=0.2)
    for _ in range(epochs):
        for part in torch.randperm(len(x)).split(BATCH):
            batch = torch.where(torch.rand(len(part), 1, 1, 1) < 0.5, x[part].flip(3), x[part])
            batch = batch.roll(torch.randint(-2, 3, (2,)).tolist(), (2, 3))
            optimizer.zero_grad()
            functional.cross_entropy(model(batch), y[part]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def predict(model: torch.nn.Module, images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the predicted classes [n]."""
    return np.concatenate([model(part).argmax(1).numpy() for part in normalise(images).split(1000)])


def summary(rows: Rows, predicted: NDArray[np.int64]) -> str:
    """Return a table of accuracy, true and false positive rate by skin tone, in percent."""
    lines = [f"{'skin tone':<10}{'rows':>6}{'accuracy':>10}{'TPR':>7}{'FPR':>7}"]
    right, positive = predicted == rows.labels, rows.labels == 1
    for tone in ("all", *TONES):
        here = (rows.attributes["skin_tone"] == tone) | (tone == "all")
        rates = right[here].mean(), predicted[here & positive].mean(), predicted[here & ~positive].mean()
        lines.append(f"{tone:<10}{here.sum():>6}{rates[0]:>10.1%}{rates[1]:>7.1%}{rates[2]:>7.1%}")
    return "\n".join(lines)


def _read(split: Split) -> NDArray[np.uint8]:
    return np.concatenate([batch["image"] for batch in split.batches(1000)])


def main() -> None:
    """Train on *train*, write the weights, print the rates on *tune*."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where the weights go")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    data = splits()
    model = fit(_read(data["train"]), data["train"].rows.labels, epochs=EPOCHS, seed=0)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), out)
    print(summary(data["tune"].rows, predict(model, _read(data["tune"]))))
    print(f"{sum(one.numel() for one in model.parameters())} parameters in {out}")


if __name__ == "__main__":
    main()
