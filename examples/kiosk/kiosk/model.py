"""The dense network: a residual network for 32 px, 77,522 parameters, 3.13 million multiply-accumulates."""

from __future__ import annotations

import torch
from torch import nn


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, channels_in: int, channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut = (
            nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))
            if channels_in != channels
            else nn.Identity()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [n, channels_in, h, w] to [n, channels, h / stride, w / stride]."""
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class KioskNet(nn.Module):
    """Preprocessed images [n, 3, 32, 32] to logits [n, 2]: passing, service."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.blocks = nn.Sequential(Block(16, 16, stride=1), Block(16, 32, stride=2), Block(32, 64, stride=2))
        self.head = nn.Linear(64, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return self.head(self.blocks(self.stem(image)).mean((2, 3)))


def build() -> nn.Module:
    """Make the network with fresh weights; ``fairdeploy.yaml`` names this function."""
    return KioskNet()
