"""A detector in the manner of YOLOX that is written from scratch: someone else's own network.

Focus stem, CSP backbone, spatial pyramid pooling, PAN neck, decoupled heads without anchors; what
it gives is decoded in its forward pass. It is here so that the benchmark slims a YOLO that no line
of yoloprune knows.

Reference: Ge et al. 2021, YOLOX: Exceeding YOLO Series in 2021, section 2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Conv(nn.Sequential):
    """Convolution, BatchNorm, SiLU."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(c_out),
            nn.SiLU(inplace=True),
        )


class Focus(nn.Module):
    """Every second pixel of both axes, as four times the channels."""

    def __init__(self, c_out: int) -> None:
        super().__init__()
        self.conv = Conv(12, c_out, 3)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, 3, H, W]`` → ``[B, c_out, H/2, W/2]``."""
        parts = [x[..., i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.conv(torch.cat(parts, 1))


class Bottleneck(nn.Module):
    """1×1, 3×3, and a shortcut where it is wanted."""

    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = Conv(channels, channels), Conv(channels, channels, 3)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` → the same shape."""
        y = self.conv2(self.conv1(x))
        return x + y if self.shortcut else y


class CSP(nn.Module):
    """Half of the channels through bottlenecks, half past them."""

    def __init__(self, c_in: int, c_out: int, depth: int, *, shortcut: bool) -> None:
        super().__init__()
        half = c_out // 2
        self.main, self.side = Conv(c_in, half), Conv(c_in, half)
        self.blocks = nn.Sequential(*(Bottleneck(half, shortcut) for _ in range(depth)))
        self.join = Conv(2 * half, c_out)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, c_in, H, W]`` → ``[B, c_out, H, W]``."""
        return self.join(torch.cat((self.blocks(self.main(x)), self.side(x)), 1))


class SPP(nn.Module):
    """A map beside its maxima over three neighbourhoods."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.narrow, self.widen = Conv(channels, channels // 2), Conv(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` → the same shape."""
        x = self.narrow(x)
        pools = [F.max_pool2d(x, size, 1, size // 2) for size in (5, 9, 13)]
        return self.widen(torch.cat((x, *pools), 1))


class Head(nn.Module):
    """Classes on one branch, box and objectness on another."""

    def __init__(self, c_in: int, width: int, classes: int) -> None:
        super().__init__()
        self.stem = Conv(c_in, width)
        self.cls_convs = nn.Sequential(Conv(width, width, 3), Conv(width, width, 3))
        self.reg_convs = nn.Sequential(Conv(width, width, 3), Conv(width, width, 3))
        self.cls, self.reg, self.obj = (nn.Conv2d(width, n, 1) for n in (classes, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, c_in, H, W]`` → ``[B, 5 + classes, H, W]``: box, objectness, classes."""
        x = self.stem(x)
        box = self.reg_convs(x)
        scores = self.cls(self.cls_convs(x)).sigmoid()
        return torch.cat((self.reg(box), self.obj(box).sigmoid(), scores), 1)


class YoloxLike(nn.Module):
    """The whole detector.

    Args:
        width: channels behind the stem; 16 is the size of YOLOX-Nano, 32 of YOLOX-S.
        depth: bottlenecks of the shallowest block.
        classes: that are told apart.
    """

    strides = (8, 16, 32)

    def __init__(self, width: int = 32, depth: int = 1, classes: int = 80) -> None:
        super().__init__()
        w, d = width, depth
        self.stem = nn.Sequential(
            Focus(w), Conv(w, 2 * w, 3, 2), CSP(2 * w, 2 * w, d, shortcut=True)
        )
        self.dark3 = nn.Sequential(
            Conv(2 * w, 4 * w, 3, 2), CSP(4 * w, 4 * w, 3 * d, shortcut=True)
        )
        self.dark4 = nn.Sequential(
            Conv(4 * w, 8 * w, 3, 2), CSP(8 * w, 8 * w, 3 * d, shortcut=True)
        )
        self.dark5 = nn.Sequential(
            Conv(8 * w, 16 * w, 3, 2), SPP(16 * w), CSP(16 * w, 16 * w, d, shortcut=False)
        )
        self.lateral5, self.lateral4 = Conv(16 * w, 8 * w), Conv(8 * w, 4 * w)
        self.down4 = CSP(16 * w, 8 * w, d, shortcut=False)
        self.down3 = CSP(8 * w, 4 * w, d, shortcut=False)
        self.stride3, self.stride4 = Conv(4 * w, 4 * w, 3, 2), Conv(8 * w, 8 * w, 3, 2)
        self.up4 = CSP(8 * w, 8 * w, d, shortcut=False)
        self.up5 = CSP(16 * w, 16 * w, d, shortcut=False)
        self.heads = nn.ModuleList(Head(c * w, 4 * w, classes) for c in (4, 8, 16))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Detections of a batch.

        Args:
            x: ``[B, 3, H, W]`` in 0 … 1, H and W multiples of 32.

        Returns:
            Boxes ``[B, N, 4]`` as ``[x, y, w, h]`` in pixels, and scores ``[B, N, classes]``.
        """
        c3 = self.dark3(self.stem(x))
        c4 = self.dark4(c3)
        l5 = self.lateral5(self.dark5(c4))
        l4 = self.lateral4(self.down4(torch.cat((F.interpolate(l5, scale_factor=2.0), c4), 1)))
        p3 = self.down3(torch.cat((F.interpolate(l4, scale_factor=2.0), c3), 1))
        p4 = self.up4(torch.cat((self.stride3(p3), l4), 1))
        p5 = self.up5(torch.cat((self.stride4(p4), l5), 1))
        maps = [head(p) for head, p in zip(self.heads, (p3, p4, p5), strict=True)]
        found = [_decoded(m, s) for m, s in zip(maps, self.strides, strict=True)]
        boxes, scores = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
        return boxes, scores


def _decoded(raw: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """``[B, 5 + classes, H, W]`` of one level → boxes ``[B, H·W, 4]``, scores of classes."""
    height, width = raw.shape[2:]
    rows, columns = torch.arange(height).to(raw), torch.arange(width).to(raw)
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy")).flatten(1).T
    flat = raw.flatten(2).permute(0, 2, 1)
    centre = (flat[..., :2] + grid) * stride
    boxes = torch.cat((centre, flat[..., 2:4].exp() * stride), 2)
    return boxes, flat[..., 4:5] * flat[..., 5:]
