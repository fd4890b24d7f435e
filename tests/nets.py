"""Tiny networks whose channel graphs can be worked out by hand, and what tests do to models."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yoloprune.channels import trace
from yoloprune.channels.graph import ChannelGraph, IntArray

CONV = "[convolutional]\nbatch_normalize=1\nfilters={}\nsize=3\nstride=2\npad=1\nactivation=leaky\n"
"""Darknet section that halves the picture; takes its filters."""
SAME = "[convolutional]\nbatch_normalize=1\nfilters={}\nsize=3\nstride=1\npad=1\nactivation=leaky\n"
"""The same, but leaves the size as it is."""


def conv(c_in: int, c_out: int, k: int = 3, groups: int = 1, *, act: bool = True) -> nn.Sequential:
    """Convolution, BatchNorm, SiLU."""
    layers: list[nn.Module] = [
        nn.Conv2d(c_in, c_out, k, padding=k // 2, groups=groups, bias=False),
        nn.BatchNorm2d(c_out),
    ]
    return nn.Sequential(*layers, nn.SiLU()) if act else nn.Sequential(*layers)


class Chain(nn.Module):
    """3 → 8 → 6 → 4."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 8), conv(8, 6)
        self.out = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.b(self.a(x)))


class Residual(nn.Module):
    """``a`` and ``c`` share 8 channels through an addition; ``b`` has 6 of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(8, 6), conv(6, 8)
        self.out = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.out(x + self.c(self.b(x)))


class Concat(nn.Module):
    """``out`` reads 5 channels of ``b``, then 3 of ``a``."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 3), conv(3, 5)
        self.out = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat((self.b(x), self.a(x)), 1))


class Chunked(nn.Module):
    """C2f in small: halves of 4, the second one through a residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.c = 4
        self.a, self.m = conv(3, 8), conv(4, 4)
        self.out = nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.a(x).chunk(2, 1)
        return self.out(torch.cat((left, right, right + self.m(right)), 1))

    def forward_split(self, x: Tensor) -> Tensor:
        left, right = self.a(x).split((self.c, self.c), 1)
        return self.out(torch.cat((left, right, right + self.m(right)), 1))


class GroupedRoute(nn.Module):
    """Darknet's ``route groups=2 group_id=1``: the second half goes on, the whole is joined."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 8), conv(4, 4)
        self.out = nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.out(torch.cat((self.b(x.chunk(2, 1)[1]), x), 1))


class SlicedHalf(GroupedRoute):
    """The same, by a slice whose bounds follow the shape."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        half = x.shape[1] // 2
        return self.out(torch.cat((self.b(x[:, half : half * 2]), x), 1))


class Depthwise(nn.Module):
    """The depthwise layer keeps the 8 channels of ``a``; ``wide`` gives two for each."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.dw = conv(3, 8), conv(8, 8, groups=8)
        self.wide = conv(8, 16, groups=8)
        self.out = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.wide(self.dw(self.a(x))))


class Grouped(nn.Module):
    """Two groups: 4 + 4 channels in, 3 + 3 out."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.g = conv(3, 8), conv(8, 6, groups=2)
        self.out = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.g(self.a(x)))


class Shared(nn.Module):
    """One convolution used on two inputs, which therefore share channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = conv(3, 6), conv(3, 6), conv(6, 5)
        self.out = nn.Conv2d(5, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.out(self.head(self.a(x))), self.out(self.head(self.b(x)))


class SqueezeExcite(nn.Module):
    """The gate's 8 outputs go with the 8 channels that they scale."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 8)
        self.down, self.up = nn.Conv2d(8, 3, 1), nn.Conv2d(3, 8, 1)
        self.out = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        gate = self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))).sigmoid()
        return self.out(x * gate)


class UpDown(nn.Module):
    """Pooling, padding, upsampling and a transposed convolution keep or begin channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 8), conv(8, 8)
        self.up = nn.ConvTranspose2d(8, 5, 2, 2)
        self.out = nn.Conv2d(13, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        small = self.b(F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 2))
        big = F.interpolate(small, size=x.shape[2:], mode="nearest")
        return self.out(torch.cat((x + big, self.up(small)), 1))


class Classifier(nn.Module):
    """A flattened 2 x 2 plane: each channel is four columns of ``fc``."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 6)
        self.fc, self.out = nn.Linear(24, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.a(x), 2).flatten(1)
        return self.out(F.relu(self.fc(x)))


class Heads(nn.Module):
    """Attention over positions: 2 heads of 3 query/key and 4 value dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.key, self.value = 2, 3, 4
        self.scale = self.key**-0.5
        self.a, self.qkv = conv(3, 8), conv(8, 20, 1, act=False)
        self.out = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        b, _, h, w = x.shape
        packed = self.qkv(x).view(b, self.heads, self.key * 2 + self.value, h * w)
        q, k, v = packed.split([self.key, self.key, self.value], dim=2)
        weights = ((q * self.scale).transpose(-2, -1) @ k).softmax(-1)
        return self.out((v @ weights.transpose(-2, -1)).reshape(b, -1, h, w))


class PackedHeads(nn.Module):
    """A vision transformer's attention: q, k and v packed in one axis, then unbound."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.scale = 2, 0.5
        self.a = conv(3, 8)
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 6)
        self.out = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        b, _, h, w = x.shape
        packed = self.qkv(x.flatten(2).transpose(1, 2))
        packed = packed.reshape(b, h * w, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = packed.unbind(0)
        weights = ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1)
        mixed = self.proj((weights @ v).transpose(1, 2).reshape(b, h * w, -1))
        return self.out(mixed.transpose(1, 2).reshape(b, -1, h, w))


class WholeHeads(nn.Module):
    """The width of a head enters the arithmetic, so only whole heads can go."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.width = 4, 3
        self.all_width = self.heads * self.width
        self.a, self.qkv = conv(3, 8), conv(8, 36, 1, act=False)
        self.out = nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        packed = self.qkv(self.a(x)).flatten(2).transpose(1, 2)
        packed = packed.view(b, h * w, self.heads, self.width * 3).permute(0, 2, 3, 1)
        q, k, v = packed.split([self.width, self.width, self.width], dim=2)
        weights = ((q * self.width**-0.5).transpose(-2, -1) @ k).softmax(-1)
        mixed = (v @ weights.transpose(-2, -1)).permute(0, 3, 1, 2)
        return self.out(mixed.reshape(b, h, w, self.all_width).permute(0, 3, 1, 2))


class Wrapped(nn.Module):
    """``a`` (8 channels) → some function → ``out``; for one operation at a time."""

    def __init__(self, c_out: int = 8) -> None:
        super().__init__()
        self.a = conv(3, 8)
        self.out = nn.Conv2d(c_out, 4, 1)

    def between(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.between(self.a(x)))


class ChannelSoftmax(Wrapped):
    def between(self, x: Tensor) -> Tensor:
        return x.softmax(1)


class UnknownOp(Wrapped):
    def between(self, x: Tensor) -> Tensor:
        return torch.fft.fft(x).real + x.flip(1).cumsum(1)


class GroupNormed(Wrapped):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, 8)

    def between(self, x: Tensor) -> Tensor:
        return self.norm(x)


class UnevenSplit(Wrapped):
    def between(self, x: Tensor) -> Tensor:
        left, right = x.split((3, 5), 1)
        return torch.cat((right, left), 1)


class StridedSlice(Wrapped):
    def __init__(self) -> None:
        super().__init__(4)

    def between(self, x: Tensor) -> Tensor:
        return x[:, ::2]


class Literal(Wrapped):
    """A view with a number written into the code."""

    def between(self, x: Tensor) -> Tensor:
        return x.view(1, 8, -1).view(x.shape)


class FixedVector(Wrapped):
    """Adds a number for each channel that no tensor of the model holds."""

    def between(self, x: Tensor) -> Tensor:
        return x + torch.arange(8, dtype=x.dtype).view(1, 8, 1, 1)


class MeanOverChannels(Wrapped):
    def between(self, x: Tensor) -> Tensor:
        return x - x.mean(1, keepdim=True)


class Scaled(Wrapped):
    """A parameter of the model, one number a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.linspace(0.5, 1.5, 8))

    def between(self, x: Tensor) -> Tensor:
        return x * self.gain.view(1, -1, 1, 1)


class InPlace(Wrapped):
    def between(self, x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        y += x
        return F.relu_(y).mul_(2).add_(x)


class Shuffled(Wrapped):
    """ShuffleNet's channel shuffle over two groups: equal indices must go in both."""

    def between(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        return x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)


class PixelShuffled(Wrapped):
    """Four channels become one: 2 units."""

    def __init__(self) -> None:
        super().__init__(2)

    def between(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(x, 2)


class Reorg(Wrapped):
    """Darknet's reorg: each channel is four inputs of what follows."""

    def __init__(self) -> None:
        super().__init__(32)

    def between(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        x = x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4)
        return x.reshape(b, c * 4, h // 2, w // 2)


class SummedStack(Wrapped):
    """``sum(stack(...))``: an addition in disguise (CBFuse)."""

    def __init__(self) -> None:
        super().__init__()
        self.b = conv(3, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.sum(torch.stack([self.a(x), self.b(x)]), dim=0))


class ChunkThree(Wrapped):
    def __init__(self) -> None:
        super().__init__(3)
        self.a = conv(3, 9)

    def between(self, x: Tensor) -> Tensor:
        a, b, c = x.chunk(3, 1)
        return a * b + c


class EfficientChannelAttention(Wrapped):
    """ECA: a convolution *over* the axis of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def between(self, x: Tensor) -> Tensor:
        gate = self.mix(x.mean((2, 3), keepdim=True).squeeze(-1).transpose(-1, -2))
        return x * gate.transpose(-1, -2).unsqueeze(-1).sigmoid()


class Einsum(Wrapped):
    """Bilinear attention over positions; contracted channels are one."""

    def __init__(self) -> None:
        super().__init__()
        self.b = conv(3, 8)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.a(x), self.b(x)
        weights = torch.einsum("bchw,bcij->bhwij", left, right)
        return self.out(torch.einsum("bhwij,bcij->bchw", weights, left))


class MultiHead(Wrapped):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def between(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        mixed, _ = self.attention(tokens, tokens, tokens)
        return mixed.transpose(1, 2).reshape(x.shape)


class ReusedPool(Wrapped):
    """SPPF: one pooling module three times."""

    def __init__(self) -> None:
        super().__init__(32)
        self.pool = nn.MaxPool2d(5, 1, 2)

    def between(self, x: Tensor) -> Tensor:
        y = [x]
        y.extend(self.pool(y[-1]) for _ in range(3))
        return torch.cat(y, 1)


class SpatialGate(Wrapped):
    """A one-channel map spread over all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Conv2d(8, 1, 1)

    def between(self, x: Tensor) -> Tensor:
        return x * self.gate(x).sigmoid()


class Unreached(Wrapped):
    """``aux`` reads what enters the block, but only when nobody watches."""

    def __init__(self) -> None:
        super().__init__()
        self.block = AuxBlock()

    def between(self, x: Tensor) -> Tensor:
        return self.block(x)


class AuxBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.main, self.aux = conv(8, 8), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x)


class TrainOnly(Wrapped):
    """A second head that only training runs."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.a(x)
        return (self.out(x), self.aux(x)) if self.training else self.out(x)


class HandsOn(nn.Module):
    """Returns what the last layer reads beside its result; it is no head of Ultralytics."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 8)
        self.head = HandingHead()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.head(self.a(x))


class HandingHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"scores": self.out(x), "feats": x.detach()}


class Normed(Wrapped):
    """LayerNorm over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def between(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


EXACT: tuple[type[nn.Module], ...] = (
    Chain, Residual, Concat, Chunked, GroupedRoute, SlicedHalf, Depthwise, Grouped, Shared,
    SqueezeExcite, UpDown, Classifier, Heads, PackedHeads, WholeHeads, Scaled, InPlace, Shuffled,
    PixelShuffled, Reorg, SummedStack, ChunkThree, Einsum, ReusedPool, SpatialGate, TrainOnly,
)  # fmt: skip
"""Nets of which channels can go."""

FROZEN: tuple[tuple[type[nn.Module], str], ...] = (
    (ChannelSoftmax, "softmax over channels"),
    (UnknownOp, "fft_r2c has no rule"),
    (GroupNormed, "GroupNorm over channels is not exact after a cut"),
    (UnevenSplit, "split in the model"),
    (StridedSlice, "fixed slice of channels"),
    (Literal, "a reshape in the model asks for a fixed number of channels"),
    (FixedVector, "add with a tensor that was made for this many channels"),
    (MeanOverChannels, "mean over channels"),
    (EfficientChannelAttention, "the layer mix works along an axis of channels"),
    (MultiHead, "nn.MultiheadAttention"),
    (Normed, "LayerNorm over channels is not exact after a cut"),
)
"""Nets in which the 8 channels of ``a`` must stay, and why."""


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every BatchNorm scales and statistics, so that no channel is trivial; eval mode."""
    generator = torch.Generator().manual_seed(seed)

    def draw(like: Tensor, low: float, high: float) -> Tensor:
        return torch.rand(like.shape, generator=generator, dtype=like.dtype) * (high - low) + low

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.weight.copy_(draw(module.weight, 0.5, 1.5))
                module.bias.copy_(draw(module.bias, -1, 1))
                module.running_mean.copy_(draw(module.bias, -0.5, 0.5))
                module.running_var.copy_(draw(module.bias, 0.5, 1.5))
    return model.eval()


def traced(model: nn.Module) -> ChannelGraph:
    """The graph of a tiny net, on a picture as small as it takes."""
    return trace(model, imgsz=16)


def random_units(graph: ChannelGraph, share: float = 0.4, seed: int = 0) -> IntArray:
    """Units to remove: about this share, balances respected, a channel left everywhere."""
    label = np.arange(graph.n_units)
    for balance in graph.balances:
        for part in balance.parts[1:]:
            for a, b in zip(balance.parts[0], part, strict=True):
                low, high = sorted((label[a], label[b]))
                label[label == high] = low
    stuck = np.unique(label[~graph.prunable])
    bundles = np.setdiff1d(np.unique(label), stuck)
    np.random.default_rng(seed).shuffle(bundles)
    gone = np.isin(label, bundles[: math.ceil(share * bundles.size)])
    for axis in graph.axes:
        for row in np.atleast_2d(axis.units):
            if gone[row].all():
                gone[label == label[row[0]]] = False
    return np.flatnonzero(gone).astype(np.int64)
