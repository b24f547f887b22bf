"""Small networks of every family that compaction must handle, with random statistics and no zero weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)
    )


class Basic(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = conv_bn(inputs, outputs, 3, stride)
        self.second = conv_bn(outputs, outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else conv_bn(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + self.shortcut(x))


class ResNet(nn.Module):
    """The shape of the kiosk network: stem, three basic blocks, global average, two logits."""

    def __init__(self, widths: tuple[int, ...] = (16, 16, 32, 64)) -> None:
        super().__init__()
        self.stem = conv_bn(3, widths[0], 3, 2)
        pairs = zip(widths[:-1], widths[1:], (1, 2, 2), strict=True)
        self.blocks = nn.Sequential(*(Basic(a, b, s) for a, b, s in pairs))
        self.head = nn.Linear(widths[-1], 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.stem(x)))
        return self.head(x.mean((2, 3)))


class Dense(nn.Module):
    """Concatenation, pre-activation norms, average pooling."""

    def __init__(self, growth: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        widths = [6, 6 + growth, 6 + 2 * growth]
        self.norms = nn.ModuleList(nn.BatchNorm2d(w) for w in widths)
        self.convs = nn.ModuleList(nn.Conv2d(w, growth, 3, padding=1, bias=False) for w in widths)
        self.reduce = nn.Conv2d(6 + 3 * growth, 8, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(F.relu(norm(x)))], 1)
        x = F.avg_pool2d(F.relu(self.reduce(x)), 2)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Inverted(nn.Module):
    def __init__(self, width: int, expand: int, stride: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            conv_bn(width, expand, 1),
            nn.ReLU6(inplace=True),
            conv_bn(expand, expand, 3, stride, groups=expand),
            nn.ReLU6(inplace=True),
            conv_bn(expand, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Mobile(nn.Module):
    """Inverted residuals: depthwise convolution, batch norm, ReLU6, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 6, 3, 2), nn.ReLU6(inplace=True))
        self.blocks = nn.Sequential(Inverted(6, 12), Inverted(6, 10))
        self.tail = nn.Sequential(conv_bn(6, 14, 1), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(14, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.tail(self.blocks(self.stem(x))))


class Squeeze(nn.Module):
    """Squeeze and excitation: a sigmoid gate on channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 10)
        self.down = nn.Conv2d(10, 4, 1)
        self.up = nn.Conv2d(4, 10, 1)
        self.out = nn.Conv2d(10, 6, 3, padding=1)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.stem(x))
        x = x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))
        return self.head(F.adaptive_max_pool2d(self.out(x), 1).flatten(1))


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(3 * 64, 12), nn.BatchNorm1d(12), nn.LeakyReLU(), nn.Linear(12, 9), nn.GELU(),
        nn.Linear(9, 3),
    )  # fmt: skip


def plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.MaxPool2d(2), nn.Conv2d(8, 7, 2), nn.ReLU(), nn.Flatten(),
        nn.Dropout(0.1), nn.Linear(7 * 2 * 2, 10), nn.Tanh(), nn.Linear(10, 3),
    )  # fmt: skip


NETWORKS = {
    "resnet": lambda: ResNet((6, 6, 8, 10)),
    "dense": Dense,
    "mobile": Mobile,
    "squeeze": Squeeze,
    "mlp": mlp,
    "plain": plain,
}
EXAMPLE = (torch.zeros(1, 3, 8, 8),)


def randomise(model: nn.Module, seed: int) -> nn.Module:
    """Give batch norms, biases and slopes random values, so that no constant is lost unseen."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            tensor.copy_(0.5 + noise.abs())
        elif tensor.ndim > 1:
            tensor.copy_(noise * (2.0 / tensor[0].numel()) ** 0.5)
        else:
            tensor.copy_(0.3 + noise)
    return model.eval()


def network(name: str, seed: int = 0) -> nn.Module:
    return randomise(NETWORKS[name](), seed)
