"""The modules that Darknet's sections become, where torch has none of the kind.

Reference: AlexeyAB/darknet, the layer's own source file.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from ultralytics.nn.modules import Conv


class DarknetConv(Conv):
    """``[convolutional]``: a conv, a BatchNorm where the cfg asks for one, an activation.

    It is an Ultralytics ``Conv``, so that Ultralytics fuses and exports it.
    """

    def __init__(self, conv: nn.Conv2d, bn: nn.BatchNorm2d | None, act: nn.Module) -> None:
        nn.Module.__init__(self)
        self.conv = conv
        if bn is not None:
            self.bn = bn
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C_in, H, W]`` → ``[B, filters, H', W']``."""
        y = self.conv(x)
        return self.act(self.bn(y) if hasattr(self, "bn") else y)  # type: ignore[no-any-return]

    def darknet_tensors(self) -> list[Tensor]:
        """The tensors that a ``.weights`` file holds for this layer, in its order."""
        if not hasattr(self, "bn"):
            assert self.conv.bias is not None
            return [self.conv.bias, self.conv.weight]
        bn = self.bn
        assert bn.running_mean is not None and bn.running_var is not None
        return [bn.bias, bn.weight, bn.running_mean, bn.running_var, self.conv.weight]


class DarknetPool(nn.Module):
    """``[maxpool]`` and ``[local_avgpool]``: Darknet pads more at the right and the bottom.

    Args:
        size: kernel.
        stride: rows, columns.
        padding: total padding of an axis; half of it, rounded down, stands left and above.
        average: mean over the positions inside the picture, instead of the maximum.
    """

    def __init__(
        self, size: int, stride: tuple[int, int], padding: int, average: bool = False
    ) -> None:
        super().__init__()
        self.size, self.stride, self.average = size, stride, average
        first = padding // 2
        self.pads = (first, padding - first)

    def extra_repr(self) -> str:
        """The settings, as printed."""
        return f"size={self.size}, stride={self.stride}, pads={self.pads}"

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` → ``[B, C, (H + padding - size) // stride + 1, …]``."""
        first, last = self.pads
        if first == last and first <= self.size // 2:
            if self.average:
                return F.avg_pool2d(x, self.size, self.stride, first, count_include_pad=False)
            return F.max_pool2d(x, self.size, self.stride, first)
        pads = (first, last, first, last)
        if not self.average:
            least = torch.finfo(x.dtype).min  # ncnn's files cannot spell -inf
            return F.max_pool2d(F.pad(x, pads, value=least), self.size, self.stride)
        inside = F.pad(torch.ones_like(x[:1, :1]), pads)
        return F.avg_pool2d(F.pad(x, pads), self.size, self.stride) / F.avg_pool2d(
            inside, self.size, self.stride
        )


class Upsample(nn.Module):
    """``[upsample]``: nearest neighbour, times ``scale``."""

    def __init__(self, stride: int, scale: float) -> None:
        super().__init__()
        self.stride, self.scale = stride, scale

    def extra_repr(self) -> str:
        """The settings, as printed."""
        return f"stride={self.stride}, scale={self.scale}"

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` → ``[B, C, H · stride, W · stride]``."""
        y = F.interpolate(x, scale_factor=float(self.stride), mode="nearest")
        return y if self.scale == 1 else y * self.scale


class Route(nn.Module):
    """``[route]``: join layers along the channels, take one of ``groups`` equal parts."""

    def __init__(self, groups: int, group: int) -> None:
        super().__init__()
        self.groups, self.group = groups, group

    def extra_repr(self) -> str:
        """The settings, as printed."""
        return f"groups={self.groups}, group={self.group}"

    def forward(self, inputs: Tensor | list[Tensor]) -> Tensor:
        """``[B, C_i, H, W]`` each → ``[B, sum(C_i) / groups, H, W]``."""
        parts = [inputs] if isinstance(inputs, Tensor) else inputs
        if self.groups > 1:  # Darknet takes the part of every input, then joins them
            parts = [part.chunk(self.groups, 1)[self.group] for part in parts]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


class Shortcut(nn.Module):
    """``[shortcut]``: the layer before plus others, each weighted where the cfg says so.

    Where the others have more channels or fewer, the channels that both have are added.

    Args:
        act: activation of the sum.
        weights: ``[n + 1]`` (a number an input) or ``[n + 1, C]`` (one a channel), or None.
        normalization: ``none``, ``relu`` or ``softmax`` over the inputs.

    Reference: AlexeyAB/darknet ``src/blas.c`` ``shortcut_multilayer_cpu``.
    """

    def __init__(self, act: nn.Module, weights: Tensor | None, normalization: str) -> None:
        super().__init__()
        self.act = act
        self.weights = None if weights is None else nn.Parameter(weights)
        self.normalization = normalization

    def darknet_tensors(self) -> list[Tensor]:
        """The tensors that a ``.weights`` file holds for this layer, in its order."""
        return [] if self.weights is None else [self.weights]

    def factors(self) -> Tensor | None:
        """The weights after normalization, shaped ``[n + 1, 1 or C]``."""
        if self.weights is None:
            return None
        w = self.weights.reshape(len(self.weights), -1)
        if self.normalization == "relu":
            w = F.relu(w)
            return w / (w.sum(0) + 1e-4)
        if self.normalization == "softmax":
            w = torch.exp(w - w.amax(0))
            return w / (w.sum(0) + 1e-4)
        return w

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """``[B, C, H, W]`` each → ``[B, C, H, W]``."""
        w = self.factors()
        total = inputs[0] if w is None else inputs[0] * w[0].view(1, -1, 1, 1)
        for i, other in enumerate(inputs[1:], start=1):
            common = min(total.shape[1], other.shape[1])
            part = other[:, :common]
            if w is not None:
                part = part * w[i].view(1, -1, 1, 1)[:, :common]
            if common == total.shape[1]:
                total = total + part
            else:
                total = torch.cat((total[:, :common] + part, total[:, common:]), 1)
        return self.act(total)  # type: ignore[no-any-return]


class Reorg(nn.Module):
    """``[reorg]``: YOLOv2's passthrough, which shuffles channels *and* rows.

    It reads the memory of ``[C, H, W]`` as ``[C / s², H · s, W · s]``, so that an output channel
    mixes several input channels unless H and W happen to be multiples of s².

    Reference: AlexeyAB/darknet ``src/reorg_old_layer.c``, ``src/blas.c`` ``reorg_cpu``.
    """

    opaque_channels = "[reorg] mixes channels with rows"

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` → ``[B, C · s², H / s, W / s]``."""
        b, c, h, w = x.shape
        s = self.stride
        y = x.reshape(b, c // (s * s), h, s, w, s).permute(0, 3, 5, 1, 2, 4)
        return y.reshape(b, c * s * s, h // s, w // s)


class Reorg3d(nn.Module):
    """``[reorg3d]``: space to depth, positions before channels."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` → ``[B, C · s², H / s, W / s]``."""
        s = self.stride
        parts = [x[:, :, i::s, j::s] for i in range(s) for j in range(s)]
        return torch.cat(parts, 1)


class Multiply(nn.Module):
    """``[sam]`` and ``[scale_channels]``: the product of two layers, activated."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.act = act

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """``[B, C, H, W]`` times ``[B, C, H, W]``, ``[B, C, 1, 1]`` or ``[B, 1, H, W]``."""
        return self.act(inputs[0] * inputs[1])  # type: ignore[no-any-return]
