"""The dense network: a perceptron of two hidden layers, 9,858 parameters."""

from __future__ import annotations

import torch
from torch import nn

FEATURES = 84


class IncomeNet(nn.Module):
    """Features [n, 84] to logits [n, 2]: below, above."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(FEATURES, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(),
            nn.Linear(width, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(),
            nn.Linear(width, 2),
        )  # fmt: skip

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return self.layers(features)


def build() -> nn.Module:
    """Make the network with fresh weights; ``fairdeploy.yaml`` names this function."""
    return IncomeNet()
