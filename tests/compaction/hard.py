"""One small network for each hard case of compaction: how channels move, meet, split and are shared."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils import parametrizations
from torch.utils import _pytree as pytree

from fairdeploy.compaction import ChannelGroup, channel_groups
from fairdeploy.compaction import trace as tracing

from .networks import conv_bn, randomise

Rows = Callable[[int, torch.Generator], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Case:
    """A network and the rows that it takes, drawn from a generator."""

    make: Callable[[], nn.Module]
    rows: Rows


HARD: dict[str, Case] = {}


def case(rows: Rows) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    def register(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        HARD[make.__name__] = Case(make, rows)
        return make

    return register


def normal(*shape: int) -> Rows:
    return lambda count, generator: (torch.randn((count, *shape), generator=generator, dtype=torch.float64),)


def numbers(below: int, *shape: int) -> Rows:
    return lambda count, generator: (torch.randint(0, below, (count, *shape), generator=generator),)


def both(*rows: Rows) -> Rows:
    return lambda count, generator: tuple(value for draw in rows for value in draw(count, generator))


IMAGE, TOKENS, SERIES = normal(3, 8, 8), normal(6, 8), normal(3, 16)


class Net(nn.Module):
    """Parts, and a function of them and the input."""

    def __init__(self, run: Callable[[Any, Tensor], Any], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


def classify(m: Any, x: Tensor) -> Tensor:
    return m.head(x.mean((2, 3)))


# attention ------------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """A packed projection, as timm writes it; the number of heads is held, the sizes are read off the weights."""

    def __init__(self, unpack: str, fused: bool = True, dim: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.unpack, self.fused, self.heads = unpack, fused, heads
        self.scale = (dim // heads) ** -0.5
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, count, _ = x.shape
        qkv = self.qkv(x)
        if self.unpack == "unbind":
            q, k, v = qkv.reshape(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k, v = (p.reshape(batch, count, self.heads, -1).transpose(1, 2) for p in qkv.chunk(3, -1))
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(batch, count, -1))


def around(attention: nn.Module) -> nn.Module:
    return Net(
        lambda m, x: m.head((x + m.attention(m.norm(x))).mean(1)),
        norm=nn.LayerNorm(8), attention=attention, head=nn.Linear(8, 3),
    )  # fmt: skip


@case(TOKENS)
def attention_unbind() -> nn.Module:
    return around(Attention("unbind"))


@case(TOKENS)
def attention_unbind_matmul() -> nn.Module:
    return around(Attention("unbind", fused=False))


@case(TOKENS)
def attention_chunk() -> nn.Module:
    return around(Attention("chunk", fused=False))


@case(TOKENS)
def attention_from_the_right() -> nn.Module:
    """Channels before places: the weights, which add up to one, are the right factor of the product."""

    def run(m: Any, x: Tensor) -> Tensor:
        q, k, v = m.qkv(x).transpose(1, 2).split([8, 8, 8], 1)
        weights = (q.transpose(1, 2) @ k / 3).softmax(-1)
        return m.head((v @ weights.transpose(1, 2)).flatten(1))

    return Net(run, qkv=nn.Linear(8, 24), head=nn.Linear(48, 3))


@case(TOKENS)
def multihead_attention() -> nn.Module:
    return Net(
        lambda m, x: m.head(m.attention(m.enter(x), x, x, need_weights=False)[0].flatten(1)),
        enter=nn.Linear(8, 8), attention=nn.MultiheadAttention(8, 2, batch_first=True), head=nn.Linear(48, 3),
    )  # fmt: skip


@case(TOKENS)
def multihead_attention_weights() -> nn.Module:
    def run(m: Any, x: Tensor) -> Any:
        y = m.enter(x)
        return m.attention(y, y, y, need_weights=True)

    return Net(run, enter=nn.Linear(8, 8), attention=nn.MultiheadAttention(8, 2, batch_first=True))


@case(TOKENS)
def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, activation="gelu")
    return Net(
        lambda m, x: m.head(m.layers(x + m.place).mean(1)),
        place=parameter(6, 8), layers=nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), head=nn.Linear(8, 3),
    )  # fmt: skip


@case(TOKENS)
def multi_query() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        q = m.q(x).unflatten(-1, (2, -1)).transpose(1, 2)
        k, v = m.k(x).unsqueeze(1), m.v(x).unsqueeze(1)
        return m.out(F.scaled_dot_product_attention(q, k, v, scale=0.5).transpose(1, 2).flatten(2))

    return Net(run, q=nn.Linear(8, 8), k=nn.Linear(8, 4), v=nn.Linear(8, 5), out=nn.Linear(10, 3))


@case(TOKENS)
def grouped_query() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        q = m.q(x).unflatten(-1, (4, -1)).transpose(1, 2)
        k, v = (p(x).unflatten(-1, (2, -1)).transpose(1, 2).repeat_interleave(2, 1) for p in (m.k, m.v))
        return m.out(((q @ k.transpose(-1, -2)) * 0.5).softmax(-1).matmul(v).transpose(1, 2).flatten(2))

    return Net(run, q=nn.Linear(8, 16), k=nn.Linear(8, 8), v=nn.Linear(8, 8), out=nn.Linear(16, 3))


@case(TOKENS)
def grouped_query_expand() -> nn.Module:
    """Keys and values expanded to the queries' heads, as language models write it."""

    def run(m: Any, x: Tensor) -> Tensor:
        batch, count = x.shape[:2]
        q = m.q(x).view(batch, count, 4, 4).transpose(1, 2)
        k, v = (p(x).view(batch, count, 2, 4).transpose(1, 2) for p in (m.k, m.v))
        k, v = (t[:, :, None].expand(batch, 2, 2, count, 4).reshape(batch, 4, count, 4) for t in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return m.out(y.transpose(1, 2).reshape(batch, count, 16))

    return Net(run, q=nn.Linear(8, 16), k=nn.Linear(8, 8), v=nn.Linear(8, 8), out=nn.Linear(16, 3))


@case(TOKENS)
def grouped_query_fused() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        q = m.q(x).unflatten(-1, (4, -1)).transpose(1, 2)
        k, v = (p(x).unflatten(-1, (2, -1)).transpose(1, 2) for p in (m.k, m.v))
        return m.out(F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(2))

    return Net(run, q=nn.Linear(8, 16), k=nn.Linear(8, 8), v=nn.Linear(8, 8), out=nn.Linear(16, 3))


def angles(count: int, dim: int) -> tuple[Tensor, Tensor]:
    angle = torch.arange(count)[:, None] / 10.0 ** (torch.arange(0, dim, 2) / dim)
    return angle.cos().double(), angle.sin().double()


def rotary(rotate: Callable[[Tensor], Tensor]) -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (2, -1)).transpose(1, 2) for p in (m.q, m.k, m.v))
        y = F.scaled_dot_product_attention(rotate(q), rotate(k), v)
        return m.out(y.transpose(1, 2).flatten(2))

    return Net(run, q=nn.Linear(8, 8), k=nn.Linear(8, 8), v=nn.Linear(8, 8), out=nn.Linear(8, 3))


@case(TOKENS)
def rope_half() -> nn.Module:
    def rotate(x: Tensor) -> Tensor:
        cos, sin = (torch.cat([t, t], -1) for t in angles(6, 4))
        left, right = x.chunk(2, -1)
        return x * cos + torch.cat([-right, left], -1) * sin

    return rotary(rotate)


@case(TOKENS)
def rope_strided() -> nn.Module:
    def rotate(x: Tensor) -> Tensor:
        cos, sin = angles(6, 4)
        even, odd = x[..., ::2], x[..., 1::2]
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)

    return rotary(rotate)


@case(normal(4, 8, 8))
def windows() -> nn.Module:
    """Shifted windows with a table of relative positions."""
    place = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")).flatten(1)
    apart = (place[:, :, None] - place[:, None] + 3).permute(1, 2, 0)
    index = apart[..., 0] * 7 + apart[..., 1]

    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x).permute(0, 2, 3, 1).roll((-2, -2), (1, 2))
        batch, height, width, dim = x.shape
        x = x.view(batch, height // 4, 4, width // 4, 4, dim).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, dim)
        q, k, v = m.qkv(x).reshape(-1, 16, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        bias = m.table[index.view(-1)].view(16, 16, 2).permute(2, 0, 1)
        y = (0.5 * q @ k.transpose(-2, -1) + bias).softmax(-1) @ v
        y = m.out(y.transpose(1, 2).reshape(-1, 16, 8)).view(-1, 2, 2, 4, 4, 8)
        y = y.permute(0, 1, 3, 2, 4, 5).reshape(-1, 8, 8, 8).roll((2, 2), (1, 2))
        return m.head(F.gelu(y)).mean((1, 2))

    return Net(
        run, stem=nn.Conv2d(4, 8, 1), qkv=nn.Linear(8, 24), table=parameter(49, 2), out=nn.Linear(8, 8),
        head=nn.Linear(8, 3),
    )  # fmt: skip


@case(TOKENS)
def learned_queries() -> nn.Module:
    """Detection: queries that do not depend on the input attend to what does."""

    def run(m: Any, x: Tensor) -> Tensor:
        keys, values = m.keys(x), m.values(x)
        q = m.ask(m.queries).unsqueeze(0).expand(x.shape[0], -1, -1)
        return m.head(F.scaled_dot_product_attention(q, keys, values))

    return Net(
        run, queries=parameter(4, 6), ask=nn.Linear(6, 8), keys=nn.Linear(8, 8), values=nn.Linear(8, 8),
        head=nn.Linear(8, 5),
    )  # fmt: skip


@case(TOKENS)
def class_token() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = torch.cat([m.token.expand(x.shape[0], -1, -1), m.enter(x)], 1) + m.place
        return m.head((x + m.attention(x))[:, 0])

    return Net(
        run, token=parameter(1, 1, 8), place=parameter(1, 7, 8), enter=nn.Linear(8, 8), attention=Attention("unbind"),
        head=nn.Linear(8, 3),
    )  # fmt: skip


@case(TOKENS)
def einsum() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        q, k, v = (torch.einsum("bnc,chd->bnhd", x, w) for w in (m.q, m.k, m.v))
        mixed = torch.einsum("bhnm,bmhd->bnhd", torch.einsum("bnhd,bmhd->bhnm", q, k).softmax(-1), v)
        return m.head(torch.einsum("bnhd,hde->bne", mixed, m.out).relu()).mean(1)

    return Net(
        run, q=parameter(8, 2, 4), k=parameter(8, 2, 4), v=parameter(8, 2, 4), out=parameter(2, 4, 10),
        head=nn.Linear(10, 3),
    )  # fmt: skip


@case(TOKENS)
def causal_mask() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        hidden = m.enter(x)
        hole = torch.ones(6, 6, dtype=torch.bool).triu(1)
        scores = (m.q(hidden) @ m.k(hidden).transpose(1, 2)).masked_fill(hole, -1e9)
        hidden = torch.where(hidden > 0, m.v(hidden), hidden * 0.1)
        return m.head(scores.softmax(-1) @ hidden)

    return Net(
        run, enter=nn.Linear(8, 10), q=nn.Linear(10, 6), k=nn.Linear(10, 6), v=nn.Linear(10, 10), head=nn.Linear(10, 3)
    )


# convolutions ---------------------------------------------------------------------------------------------------


def trunk(*layers: nn.Module, width: int) -> nn.Module:
    return Net(lambda m, x: classify(m, m.layers(x)), layers=nn.Sequential(*layers), head=nn.Linear(width, 3))


@case(IMAGE)
def pixel_shuffle() -> nn.Module:
    return trunk(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.PixelShuffle(2), nn.ReLU(),
        nn.Conv2d(4, 5, 3), nn.PixelUnshuffle(2), nn.Conv2d(20, 6, 1), nn.Tanh(), width=6,
    )  # fmt: skip


@case(IMAGE)
def transposed() -> nn.Module:
    return trunk(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 6, 3, 2, 1, output_padding=1),
        nn.ReLU(), nn.ConvTranspose2d(6, 5, 2), nn.Sigmoid(), nn.Conv2d(5, 4, 1), width=4,
    )  # fmt: skip


@case(IMAGE)
def grouped() -> nn.Module:
    return trunk(
        nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1, groups=2, bias=False), nn.BatchNorm2d(12),
        nn.ReLU(), nn.Conv2d(12, 6, 3, groups=3), nn.SiLU(), width=6,
    )  # fmt: skip


@case(IMAGE)
def grouped_transposed() -> nn.Module:
    return trunk(
        nn.Conv2d(3, 8, 1), nn.ReLU(), nn.ConvTranspose2d(8, 6, 3, 2, groups=2), nn.ReLU(), nn.Conv2d(6, 5, 1),
        nn.Tanh(), width=5,
    )  # fmt: skip


@case(IMAGE)
def depthwise_transposed() -> nn.Module:
    return trunk(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.ConvTranspose2d(6, 6, 2, 2, groups=6), nn.Conv2d(6, 4, 1), width=4)


@case(IMAGE)
def depthwise_multiplier() -> nn.Module:
    return trunk(
        conv_bn(3, 5, 1), nn.Sigmoid(), nn.Conv2d(5, 10, 3, padding=1, groups=5), nn.BatchNorm2d(10), nn.ReLU6(),
        nn.Conv2d(10, 6, 1), nn.ReLU(), width=6,
    )  # fmt: skip


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(rows, None, None, training=True, eps=1e-6).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class StandardisedByHand(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        centred = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = centred / (centred.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


@case(IMAGE)
def weight_standardisation() -> nn.Module:
    return trunk(
        Standardised(3, 8, 3), nn.GroupNorm(4, 8), nn.ReLU(), Standardised(8, 6, 3, padding=1), nn.ReLU(),
        StandardisedByHand(6, 5, 1), nn.ReLU(), nn.Conv2d(5, 4, 1), width=4,
    )  # fmt: skip


@case(IMAGE)
def weight_norm() -> nn.Module:
    return trunk(
        parametrizations.weight_norm(nn.Conv2d(3, 8, 3)), nn.ReLU(),
        parametrizations.weight_norm(nn.Conv2d(8, 6, 1)), nn.Tanh(), width=6,
    )  # fmt: skip


@case(IMAGE)
def old_weight_norm() -> nn.Module:
    """The hook of torch 1, written out: torch warns whenever its own is used."""

    class Hooked(nn.Module):
        def __init__(self, *sizes: int) -> None:
            super().__init__()
            self.weight_v, self.weight_g = parameter(*sizes), parameter(sizes[0], 1, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, torch._weight_norm(self.weight_v, self.weight_g, 0))

    return trunk(Hooked(8, 3, 3, 3), nn.ReLU(), Hooked(6, 8, 1, 1), nn.Tanh(), width=6)


@case(IMAGE)
def group_norm() -> nn.Module:
    return trunk(
        nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=1), nn.GroupNorm(3, 6),
        nn.SiLU(), nn.Conv2d(6, 6, 1), nn.GroupNorm(6, 6), nn.ReLU(), width=6,
    )  # fmt: skip


@case(IMAGE)
def instance_norm() -> nn.Module:
    return trunk(
        nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, affine=True), nn.ReLU(), nn.Conv2d(8, 6, 3),
        nn.InstanceNorm2d(6), nn.PReLU(6), nn.Conv2d(6, 5, 1), width=5,
    )  # fmt: skip


@case(IMAGE)
def local_response() -> nn.Module:
    return trunk(nn.Conv2d(3, 8, 3), nn.LocalResponseNorm(3), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.ReLU(), width=6)


@case(IMAGE)
def padding_modes() -> nn.Module:
    return trunk(
        nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"), nn.Sigmoid(),
        nn.Conv2d(8, 7, 3, padding=1, padding_mode="circular"), nn.Sigmoid(),
        nn.Conv2d(7, 6, 3, padding=1, padding_mode="replicate"), nn.Sigmoid(),
        nn.Conv2d(6, 5, 3, padding="same"), nn.ReLU(), nn.Conv2d(5, 4, (1, 3), padding="same"), width=4,
    )  # fmt: skip


@case(IMAGE)
def constant_padding() -> nn.Module:
    return trunk(nn.Conv2d(3, 8, 3), nn.ConstantPad2d(1, 0.7), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), width=6)


@case(IMAGE)
def pools() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.first(x).sigmoid()
        x = torch.cat([F.max_pool2d(x, 3, 1, 1), F.avg_pool2d(x, 3, 1, 1), F.adaptive_avg_pool2d(x, (8, 8))], 1)
        x = m.second(x).relu()
        return m.head(torch.cat([F.adaptive_avg_pool2d(x, 2), F.adaptive_max_pool2d(x, 2)], 1).flatten(1))

    return Net(run, first=nn.Conv2d(3, 6, 1), second=nn.Conv2d(18, 5, 3), head=nn.Linear(40, 3))


@case(IMAGE)
def interpolation() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.first(x).sigmoid()
        x = F.interpolate(x, scale_factor=2, mode="bilinear") + F.interpolate(x, (16, 16), mode="nearest")
        return classify(m, m.second(F.interpolate(x, (7, 7), mode="bicubic", align_corners=True)).relu())

    return Net(run, first=nn.Conv2d(3, 6, 1), second=nn.Conv2d(6, 5, 3), head=nn.Linear(5, 3))


@case(IMAGE)
def channel_shuffle() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.first(x).relu()
        x = x.view(-1, 2, 4, 8, 8).transpose(1, 2).reshape(-1, 8, 8, 8)
        return classify(m, m.last(F.channel_shuffle(m.second(x).relu(), 2)).relu())

    return Net(
        run, first=nn.Conv2d(3, 8, 1), second=nn.Conv2d(8, 8, 3, groups=2), last=nn.Conv2d(8, 5, 1, groups=1),
        head=nn.Linear(5, 3),
    )  # fmt: skip


@case(IMAGE)
def response_norm() -> nn.Module:
    """Each channel's energy over the mean of all, as in ConvNeXt V2: the mean keeps its old width."""

    def run(m: Any, x: Tensor) -> Tensor:
        x = m.wide(m.stem(x)).relu()
        energy = x.norm(p=2, dim=(2, 3), keepdim=True)
        share = energy / (energy.mean(1, keepdim=True) + 1e-6)
        x = x + torch.addcmul(m.beta.view(1, -1, 1, 1), m.gamma.view(1, -1, 1, 1), x * share)
        return classify(m, m.narrow(x))

    return Net(
        run, stem=nn.Conv2d(3, 4, 3), wide=nn.Conv2d(4, 8, 1), narrow=nn.Conv2d(8, 4, 1), head=nn.Linear(4, 3),
        gamma=nn.Parameter(torch.ones(8)), beta=nn.Parameter(torch.zeros(8)),
    )  # fmt: skip


@case(IMAGE)
def shuffle_unit() -> nn.Module:
    """Half of the channels pass by; concatenated and shuffled with the rest."""

    def run(m: Any, x: Tensor) -> Tensor:
        left, right = m.stem(x).relu().chunk(2, 1)
        right = m.point(m.depth(m.enter(right).relu())).relu()
        return classify(m, m.last(F.channel_shuffle(torch.cat([left, right], 1), 2)).relu())

    return Net(
        run, stem=conv_bn(3, 8), enter=conv_bn(4, 4, 1), depth=conv_bn(4, 4, groups=4), point=conv_bn(4, 4, 1),
        last=nn.Conv2d(8, 6, 1), head=nn.Linear(6, 3),
    )  # fmt: skip


@case(IMAGE)
def res2net() -> nn.Module:
    """Unequal pieces, each convolved with the piece before it added."""

    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x).relu()
        first, second, third, rest = m.enter(x).relu().split([3, 3, 3, 2], 1)
        second = m.second(second).relu()
        third = m.third(third + second).relu()
        return classify(m, (m.leave(torch.cat([first, second, third, rest], 1)) + x).relu())

    return Net(
        run, stem=nn.Conv2d(3, 6, 1), enter=conv_bn(6, 11, 1), second=conv_bn(3, 3), third=conv_bn(3, 3),
        leave=conv_bn(11, 6, 1), head=nn.Linear(6, 3),
    )  # fmt: skip


@case(IMAGE)
def unfold_fold() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        pieces = F.unfold(m.stem(x).relu(), 2, stride=2)
        pieces = m.mix(pieces.transpose(1, 2)).relu().transpose(1, 2)
        return classify(m, m.last(F.fold(pieces, (8, 8), 2, stride=2)).relu())

    return Net(
        run, stem=nn.Conv2d(3, 6, 1), mix=nn.Linear(24, 20), last=nn.Conv2d(5, 4, 3, padding=1), head=nn.Linear(4, 3)
    )


@case(IMAGE)
def involution() -> nn.Module:
    """Each place gets a kernel of its own, over the unfolded neighbourhood."""

    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x).relu()
        kernel = m.kernel(x).softmax(1).view(-1, 1, 9, 64)
        around = F.unfold(x, 3, padding=1).view(-1, 6, 9, 64)
        return classify(m, m.last((kernel * around).sum(2).view(-1, 6, 8, 8)).relu())

    return Net(run, stem=nn.Conv2d(3, 6, 1), kernel=nn.Conv2d(6, 9, 1), last=nn.Conv2d(6, 4, 1), head=nn.Linear(4, 3))


@case(IMAGE)
def efficient_channel_attention() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x).relu()
        gate = m.along(x.mean((2, 3))[:, None]).sigmoid().view(-1, 8, 1, 1)
        return classify(m, m.last(x * gate).relu())

    return Net(
        run, stem=conv_bn(3, 8), along=nn.Conv1d(1, 1, 3, padding=1, bias=False), last=nn.Conv2d(8, 5, 1),
        head=nn.Linear(5, 3),
    )  # fmt: skip


@case(IMAGE)
def cbam() -> nn.Module:
    """Channel gate from mean and maximum through shared layers, then a gate from both over the channels."""

    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x).relu()
        gate = m.gate(x.mean((2, 3), keepdim=True)) + m.gate(x.amax((2, 3), keepdim=True))
        x = x * gate.sigmoid()
        place = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return classify(m, m.last(x * m.place(place).sigmoid()).relu())

    gate = nn.Sequential(nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 1))
    return Net(
        run, stem=conv_bn(3, 8), gate=gate, place=nn.Conv2d(2, 1, 3, padding=1), last=nn.Conv2d(8, 5, 1),
        head=nn.Linear(5, 3),
    )  # fmt: skip


@case(IMAGE)
def selective_kernel() -> nn.Module:
    """Two branches, weighed against each other for every channel by a softmax."""

    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x).relu()
        both = torch.stack([m.three(x).relu(), m.one(x).relu()], 1)
        weigh = m.up(m.down(both.sum(1).mean((2, 3), keepdim=True)).relu()).view(-1, 2, 6, 1, 1).softmax(1)
        return classify(m, (both * weigh).sum(1))

    return Net(
        run, stem=nn.Conv2d(3, 5, 1), three=conv_bn(5, 6), one=conv_bn(5, 6, 1), down=nn.Conv2d(6, 4, 1),
        up=nn.Conv2d(4, 12, 1), head=nn.Linear(6, 3),
    )  # fmt: skip


@case(IMAGE)
def coordinate_attention() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x).relu()
        rows, columns = x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)
        rows, columns = m.squeeze(torch.cat([rows, columns], 2)).relu().split([8, 8], 2)
        gate = m.rows(rows).sigmoid() * m.columns(columns.transpose(2, 3)).sigmoid()
        return classify(m, m.last(x * gate).relu())

    return Net(
        run, stem=conv_bn(3, 6), squeeze=conv_bn(6, 4, 1), rows=nn.Conv2d(4, 6, 1), columns=nn.Conv2d(4, 6, 1),
        last=nn.Conv2d(6, 5, 3), head=nn.Linear(5, 3),
    )  # fmt: skip


@case(IMAGE)
def unet() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        one = m.one(x).relu()
        two = m.two(F.max_pool2d(one, 2)).relu()
        three = m.three(F.max_pool2d(two, 2)).relu()
        two = m.join(torch.cat([m.up(three), two], 1)).relu()
        return m.last(torch.cat([F.interpolate(two, scale_factor=2, mode="nearest"), one], 1))

    return Net(
        run, one=conv_bn(3, 6), two=conv_bn(6, 8), three=conv_bn(8, 10), up=nn.ConvTranspose2d(10, 7, 2, 2),
        join=conv_bn(15, 5), last=nn.Conv2d(11, 2, 1),
    )  # fmt: skip


@case(IMAGE)
def detector() -> nn.Module:
    """A pyramid with shared heads, boxes and scores of every level joined; also its features as a nested output."""

    def run(m: Any, x: Tensor) -> dict[str, Any]:
        fine = m.stem(x).relu()
        coarse = m.down(fine).relu()
        levels = [m.fine(fine) + F.interpolate(m.coarse(coarse), scale_factor=2), m.coarse(coarse)]
        outputs = [m.head(level.relu()).flatten(2).transpose(1, 2) for level in levels]
        boxes, scores = torch.cat(outputs, 1).split([4, 3], 2)
        return {"boxes": boxes.sigmoid(), "levels": [{"scores": scores.softmax(2)}, (outputs[0][..., :2],)]}

    return Net(
        run, stem=conv_bn(3, 6), down=conv_bn(6, 8, 3, 2), fine=nn.Conv2d(6, 5, 1), coarse=nn.Conv2d(8, 5, 1),
        head=nn.Sequential(nn.Conv2d(5, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 7, 1)),
    )  # fmt: skip


@case(IMAGE)
def layer_scale() -> nn.Module:
    """ConvNeXt's block: depthwise, norm over the channels last, linear layers, scale, residual."""

    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x)
        y = m.norm(m.depth(x).permute(0, 2, 3, 1))
        y = m.down(F.gelu(m.up(y))) * m.scale
        return classify(m, x + y.permute(0, 3, 1, 2))

    return Net(
        run, stem=nn.Conv2d(3, 6, 2, 2), depth=nn.Conv2d(6, 6, 3, padding=1, groups=6), norm=nn.LayerNorm(6),
        up=nn.Linear(6, 12), down=nn.Linear(12, 6), scale=parameter(6), head=nn.Linear(6, 3),
    )  # fmt: skip


@case(IMAGE)
def gated_units() -> nn.Module:
    """GLU by halves, maxout by views, and a spatial gate."""

    def run(m: Any, x: Tensor) -> Tensor:
        value, gate = m.first(x).chunk(2, 1)
        x = F.glu(m.second(value * gate.sigmoid()), 1)
        x = m.third(x).unflatten(1, (4, 2)).amax(2)
        return classify(m, x * m.place(x).sigmoid())

    return Net(
        run, first=nn.Conv2d(3, 12, 1), second=nn.Conv2d(6, 10, 1), third=nn.Conv2d(5, 8, 1),
        place=nn.Conv2d(4, 1, 3, padding=1), head=nn.Linear(4, 3),
    )  # fmt: skip


@case(SERIES)
def one_dimensional() -> nn.Module:
    layers = nn.Sequential(
        nn.Conv1d(3, 8, 3, padding=1), nn.BatchNorm1d(8), nn.PReLU(), nn.MaxPool1d(2), nn.Conv1d(8, 6, 3, dilation=2),
        nn.ELU(), nn.ConvTranspose1d(6, 5, 2), nn.AdaptiveAvgPool1d(2), nn.Flatten(),
    )  # fmt: skip
    return Net(lambda m, x: m.head(m.layers(x)), layers=layers, head=nn.Linear(10, 3))


@case(normal(2, 4, 6, 6))
def three_dimensional() -> nn.Module:
    layers = nn.Sequential(
        nn.Conv3d(2, 6, 3, padding=1), nn.BatchNorm3d(6), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(6, 8, (1, 2, 2)),
        nn.ReLU(), nn.ConvTranspose3d(8, 4, 2), nn.AdaptiveAvgPool3d(1), nn.Flatten(),
    )  # fmt: skip
    return Net(lambda m, x: m.head(m.layers(x)), layers=layers, head=nn.Linear(4, 3))


# mixing, products, sharing --------------------------------------------------------------------------------------


@case(TOKENS)
def mixer() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.enter(x)
        x = x + m.tokens(x.transpose(1, 2)).transpose(1, 2)
        return m.head((x + m.channels(x)).mean(1))

    def two(size: int, wide: int) -> nn.Module:
        return nn.Sequential(nn.Linear(size, wide), nn.GELU(), nn.Linear(wide, size))

    return Net(run, enter=nn.Linear(8, 7), tokens=two(6, 9), channels=two(7, 10), head=nn.Linear(7, 3))


@case(normal(6))
def bilinear() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        left, right = m.left(x).relu(), m.right(x).tanh()
        outer = (left[:, :, None] * right[:, None, :]).flatten(1)
        return m.head(outer) + m.bilinear(left, right)

    return Net(run, left=nn.Linear(6, 5), right=nn.Linear(6, 4), bilinear=nn.Bilinear(5, 4, 3), head=nn.Linear(20, 3))


@case(IMAGE)
def bilinear_pooling() -> nn.Module:
    """Second-order features: a product of features with themselves over all places."""

    def run(m: Any, x: Tensor) -> Tensor:
        left, right = m.left(x).relu().flatten(2), m.right(x).relu().flatten(2)
        return m.head((left @ right.transpose(1, 2) / 64).flatten(1))

    return Net(run, left=nn.Conv2d(3, 5, 1), right=nn.Conv2d(3, 4, 1), head=nn.Linear(20, 3))


@case(IMAGE)
def channel_sums() -> nn.Module:
    def run(m: Any, x: Tensor) -> list[Tensor]:
        x = m.stem(x).relu()
        y = m.next(x)
        return [x.sum(1), y.square().mean(1), y.logsumexp(1), classify(m, y.relu())]

    return Net(run, stem=nn.Conv2d(3, 6, 3), next=nn.Conv2d(6, 5, 1), head=nn.Linear(5, 3))


@case(normal(6))
def moves() -> nn.Module:
    """Expand, repeat, gather by constants, flip, roll, strided slices, tile."""

    def run(m: Any, x: Tensor) -> Tensor:
        x = m.enter(x).relu()
        places = x[:, :, None].expand(-1, -1, 3).flatten(1)
        order = torch.tensor([3, 1, 7, 0, 0])
        parts = [places, x.repeat(1, 2), x[:, order], x.flip(1), x.roll(3, 1), x[:, 1::3], x.tile((1, 2))]
        return m.head(torch.cat(parts, 1))

    return Net(run, enter=nn.Linear(6, 8), head=nn.Linear(24 + 16 + 5 + 8 + 8 + 3 + 16, 3))


@case(numbers(20, 5))
def embeddings() -> nn.Module:
    """A table of words that is the classifier as well."""
    model = Net(
        lambda m, x: m.classifier(m.up(F.gelu(m.down(m.words(x) + m.places.weight)))),
        words=nn.Embedding(20, 8), places=nn.Embedding(5, 8), down=nn.Linear(8, 12), up=nn.Linear(12, 8),
        classifier=nn.Linear(8, 20, bias=False),
    )  # fmt: skip
    model.classifier.weight = model.words.weight
    return model


@case(IMAGE)
def tied_convolutions() -> nn.Module:
    """One convolution applied twice, one weight under two names, one used transposed."""

    def run(m: Any, x: Tensor) -> Tensor:
        x = m.again(m.again(m.stem(x).relu()).relu()).relu()
        x = m.second(m.first(x).sigmoid()).sigmoid().mean((2, 3))
        return m.head(F.linear(m.coder(x).relu(), m.coder.weight.t()))

    model = Net(
        run, stem=nn.Conv2d(3, 6, 1), again=nn.Conv2d(6, 6, 3, padding=1), first=nn.Conv2d(6, 6, 1),
        second=nn.Conv2d(6, 6, 1), coder=nn.Linear(6, 4), head=nn.Linear(6, 3),
    )  # fmt: skip
    model.second.weight = model.first.weight
    return model


class Several(nn.Module):
    """Image and numbers in; `input` and `list` are names of its arguments and parameters, as fx would choose them."""

    def __init__(self) -> None:
        super().__init__()
        self.input, self.list = nn.Parameter(torch.randn(6)), nn.Linear(4, 6)
        self.input_1, self.words, self.head = nn.Conv2d(3, 6, 3), nn.Embedding(9, 6), nn.Linear(6, 2)
        self.register_buffer("shift", torch.randn(6), persistent=False)

    def forward(self, input: Tensor, list: Tensor, words: Tensor) -> dict[str, Any]:  # noqa: A002
        image = (self.input_1(input).mean((2, 3)) * self.input).relu()
        hidden = image + self.list(list).tanh() + self.words(words).sum(1) + self.shift
        return {"logits": self.head(hidden), "also": [self.head(image), (list * 2,)]}


@case(both(IMAGE, normal(4), numbers(9, 2)))
def several_inputs() -> nn.Module:
    return Several()


@case(IMAGE)
def autocast() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            x = m.first(x).relu()
        with torch.autocast("cpu", enabled=False):
            return classify(m, m.second(x.float()).relu())

    return Net(run, first=conv_bn(3, 8), second=conv_bn(8, 5), head=nn.Linear(5, 3))


@case(IMAGE)
def casts() -> nn.Module:
    """A softmax and a norm computed in another precision, as attention and RMS norms often are."""

    def run(m: Any, x: Tensor) -> Tensor:
        x = m.first(x).relu()
        weigh = m.weigh(x).float().flatten(2).softmax(-1).to(x.dtype).view(-1, 1, 8, 8)
        scale = torch.rsqrt(x.float().pow(2).mean((2, 3), keepdim=True) + 1e-6).type_as(x)
        return classify(m, m.second(x * weigh * scale).relu())

    return Net(run, first=conv_bn(3, 8, 3), weigh=nn.Conv2d(8, 1, 1), second=nn.Conv2d(8, 5, 1), head=nn.Linear(5, 3))


class Path(nn.Module):
    """Stochastic depth as timm writes it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        if self.training:
            y = y * y.new_empty((len(y), 1, 1, 1)).bernoulli_(0.8).div_(0.8)
        return x + y


@case(IMAGE)
def stochastic_depth() -> nn.Module:
    return trunk(
        conv_bn(3, 6), nn.ReLU(), Path(nn.Sequential(conv_bn(6, 9), nn.ReLU(), nn.Dropout2d(0.2), conv_bn(9, 6))),
        nn.ReLU(), nn.AlphaDropout(0.1), Path(conv_bn(6, 6, groups=3)), width=6,
    )  # fmt: skip


@case(IMAGE)
def dead_and_constant() -> nn.Module:
    """One branch that is never used, one that is the same for every input, and a layer of zeros."""

    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x).relu()
        dead = m.dead(x).sigmoid() * 0.0
        constant = m.constant(m.silent(x).relu()).sigmoid()
        return classify(m, m.last(x + dead + constant).relu())

    class Zero(nn.Conv2d):
        """Its weight stays zero whatever the other weights are."""

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.weight * 0, self.bias, padding=1)

    return Net(
        run, stem=conv_bn(3, 6), dead=nn.Conv2d(6, 6, 1), silent=Zero(6, 5, 3), constant=nn.Conv2d(5, 6, 3, padding=1),
        last=nn.Conv2d(6, 5, 3), head=nn.Linear(5, 3),
    )  # fmt: skip


@case(IMAGE)
def in_place() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.first(x)
        x += m.shortcut(x)
        x.relu_()
        y = torch.zeros(x.shape[0], 8, 6, 6, dtype=x.dtype)
        y[:, :5] = x
        y[:, 5:].add_(0.5)
        return classify(m, F.relu(m.second(y), inplace=True))

    return Net(
        run, first=nn.Conv2d(3, 5, 3), shortcut=nn.Conv2d(5, 5, 1), second=nn.Conv2d(8, 6, 1), head=nn.Linear(6, 3)
    )


@case(normal(6))
def normalised_features() -> nn.Module:
    """Distances and cosines, as metric learning has them."""

    def run(m: Any, x: Tensor) -> Tensor:
        x = F.normalize(m.enter(x).relu() + 0.1, dim=1)
        return torch.cat(
            [
                x @ F.normalize(m.classes, dim=1).t(),
                torch.cdist(x, m.classes, compute_mode="donot_use_mm_for_euclid_dist"),
            ],
            1,
        )

    return Net(run, enter=nn.Linear(6, 8), classes=parameter(3, 8))


@case(normal(8))
def holds_sizes() -> nn.Module:
    def run(m: Any, x: Tensor) -> Tensor:
        left, right = m.enter(x).relu().split([6, 4], 1)
        return m.left(left) + m.right(right.view(-1, 4))

    return Net(run, enter=nn.Linear(8, 10), left=nn.Linear(6, 2), right=nn.Linear(4, 2))


@case(TOKENS)
def recurrent() -> nn.Module:
    return Net(
        lambda m, x: m.head(m.gru(m.lstm(x)[0])[0][:, -1]),
        lstm=nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True), gru=nn.GRU(12, 5, batch_first=True),
        head=nn.Linear(5, 3),
    )  # fmt: skip


@case(TOKENS)
def gates_between_layers() -> nn.Module:
    """SwiGLU and RMS norm, as language models have them."""

    def run(m: Any, x: Tensor) -> Tensor:
        x = m.enter(x)
        y = m.norm(x)
        return m.head(x + m.down(F.silu(m.gate(y)) * m.up(y)))

    return Net(
        run, enter=nn.Linear(8, 6), norm=nn.RMSNorm(6), gate=nn.Linear(6, 10, bias=False),
        up=nn.Linear(6, 10, bias=False), down=nn.Linear(10, 6, bias=False), head=nn.Linear(6, 3),
    )  # fmt: skip


@case(IMAGE)
def experts() -> nn.Module:
    """Dense mixture of experts: a batch of matrices weighed by a gate."""

    def run(m: Any, x: Tensor) -> Tensor:
        x = m.stem(x).relu().mean((2, 3))
        hidden = torch.einsum("bi,eih->beh", x, m.enter).relu()
        mixed = torch.einsum("beh,eho->beo", hidden, m.leave)
        return (mixed * m.gate(x).softmax(1)[:, :, None]).sum(1)

    return Net(run, stem=nn.Conv2d(3, 6, 1), gate=nn.Linear(6, 3), enter=parameter(3, 6, 7), leave=parameter(3, 7, 4))


# what the tests share --------------------------------------------------------------------------------------------

NARROW = {"autocast": 0.1, "casts": 1e-5}  # these ask for less than float64 themselves; the tolerance that leaves


def rows_for(name: str, count: int, seed: int) -> tuple[Tensor, ...]:
    """Draw inputs for a case, in the dtype of its network."""
    drawn = HARD[name].rows(count, torch.Generator().manual_seed(seed))
    return tuple(value.float() if name in NARROW and value.is_floating_point() else value for value in drawn)


@cache
def subject(name: str) -> tuple[nn.Module, tuple[ChannelGroup, ...]]:
    """Return a case's network with random weights, and its channel groups."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = randomise(HARD[name].make(), 3)
    model = model if name in NARROW else model.double()
    model.case = name  # type: ignore[assignment]
    return model, channel_groups(model, rows_for(name, 3, 0))


def outputs(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Return all tensors that a network gives."""
    with torch.no_grad():
        return [leaf for leaf in pytree.tree_leaves(model(*inputs)) if isinstance(leaf, Tensor)]


def depends_on_input(model: nn.Module, name: str) -> bool:
    pairs = zip(outputs(model, rows_for(name, 8, 98)), outputs(model, rows_for(name, 8, 99)), strict=True)
    return any(float((a - b).abs().max()) > 1e-4 * float(a.abs().max()) for a, b in pairs)


def rectangular(group: ChannelGroup, rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Draw a mask that a group can take as it is: rows that stay keep equally many, or the same columns."""
    if len(group.shape) == 1:
        keep = rng.random(group.size) < 0.5
    else:
        rows, columns = group.shape
        stay = rng.random(rows) < 0.7
        chosen = rng.permutation(columns) < rng.integers(1, columns + 1)
        keep = np.array([chosen if group.same_columns else rng.permutation(chosen) for _ in range(rows)])
        keep = (keep & stay[:, None]).ravel()
    keep[0] |= not keep.any()
    return keep


@pytest.fixture(scope="module", autouse=True)
def exported_once() -> Iterator[None]:
    """Let the styles of a network share its export, which does not depend on the values of its weights."""
    exported, known = tracing.exported, {}

    def once(model: nn.Module, *inputs: object) -> fx.GraphModule:
        case = vars(model).get("case")
        if case is None:
            return exported(model, *inputs)  # type: ignore[arg-type]
        key = repr((case, [(key, tuple(value.shape)) for key, value in model.state_dict().items()]))
        if key not in known:
            known[key] = exported(model, *inputs)  # type: ignore[arg-type]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's, when it copies a graph
            return copy.deepcopy(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracing, "exported", once)
        yield
