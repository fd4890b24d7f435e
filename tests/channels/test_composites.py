"""Operations that ATen has in one piece: no channel stays for them, and cuts through are exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nets
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yoloprune.channels import trace
from yoloprune.prune.cut import cut_units, self_test


class Through(nn.Module):
    """Convolution, BatchNorm, ReLU → one operation → convolution, in one to three dimensions."""

    def __init__(self, between: Callable[..., Any], dims: int = 2, c_out: int = 16) -> None:
        super().__init__()
        conv, norm = getattr(nn, f"Conv{dims}d"), getattr(nn, f"BatchNorm{dims}d")
        self.a, self.norm = conv(3, 16, 3, padding=1), norm(16)
        self.between = between if isinstance(between, nn.Module) else Calls(between)
        self.out = conv(c_out, 5, 1)
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.between(self.norm(self.a(x)).relu()))
        return out


class Calls(nn.Module):
    def __init__(self, function: Callable[[Tensor, bool], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.training)


def normed() -> nn.InstanceNorm2d:
    norm = nn.InstanceNorm2d(16, affine=True)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias)
    return norm


CASES: dict[str, Callable[[], Through]] = {
    "avg_pool3d": lambda: Through(nn.AvgPool3d(2), 3),
    "adaptive_avg_pool3d": lambda: Through(nn.AdaptiveAvgPool3d(2), 3),
    "adaptive_max_pool3d": lambda: Through(nn.AdaptiveMaxPool3d(1), 3),
    "upsample_nearest3d": lambda: Through(nn.Upsample(scale_factor=2), 3),
    "upsample_trilinear3d": lambda: Through(nn.Upsample(scale_factor=2, mode="trilinear"), 3),
    "replication_pad3d": lambda: Through(nn.ReplicationPad3d(1), 3),
    "reflection_pad3d": lambda: Through(nn.ReflectionPad3d(1), 3),
    "upsample_linear1d": lambda: Through(nn.Upsample(scale_factor=2, mode="linear"), 1),
    "fractional_max_pool2d": lambda: Through(nn.FractionalMaxPool2d(2, output_size=4)),
    "rrelu": lambda: Through(nn.RReLU()),
    "instance_norm": lambda: Through(normed()),
    "instance_norm without a scale": lambda: Through(nn.InstanceNorm2d(16)),
    "instance_norm by its statistics": lambda: Through(
        nn.InstanceNorm2d(16, track_running_stats=True)
    ),
    "glu": lambda: Through(nn.GLU(1), c_out=8),
    "channel_shuffle": lambda: Through(nn.ChannelShuffle(2)),
    "pixel_unshuffle": lambda: Through(nn.PixelUnshuffle(2), c_out=64),
    "dropout2d": lambda: Through(lambda x, training: F.dropout2d(x, 0.2, training)),
    "circular padding": lambda: Through(nn.CircularPad2d(1)),
}


@pytest.mark.parametrize("name", CASES)
def test_channels_pass(name: str) -> None:
    torch.manual_seed(0)
    model = nets.randomised(CASES[name]()).double()
    given = torch.rand(2, 3, *[8] * model.dims, dtype=torch.float64)  # type: ignore[operator]
    graph = trace(model, given)
    assert set(graph.frozen.values()) == {"output of the model"}
    remove = nets.random_units(graph)
    assert remove.size
    torch.manual_seed(1)  # of a pool that draws its places
    slim = cut_units(model, graph, remove, compensate=False)
    assert self_test(model, graph, remove, slim, example=given).max_rel_diff <= 1e-9
    assert slim.a.weight.shape[0] < 16
