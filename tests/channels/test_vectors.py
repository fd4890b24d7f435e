"""Vectors that are computed from parameters before they meet channels, as in a frozen BatchNorm."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from yoloprune.channels.trace import trace
from yoloprune.prune.cut import cut_units, kept_units, self_test
from yoloprune.prune.repair import repair

SHAPE = (1, 3, 8, 8)


class Frozen(nn.Module):
    """1×1 layers, so that constants can be folded exactly, around a BatchNorm of buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1, bias=False)
        self.bn = FrozenBatchNorm2d(8)
        self.b = nn.Conv2d(8, 5, 1)
        for tensor in self.bn.buffers():
            tensor.uniform_(0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.bn(self.a(x)).relu())  # type: ignore[no-any-return]


class Product(nn.Module):
    """A scale that is the product of two parameters, one of which may be used once more."""

    def __init__(self, *, summed: bool = False, first: bool = False) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 5, 1)
        self.scale, self.other = nn.Parameter(torch.rand(8)), nn.Parameter(torch.rand(8))
        self.summed, self.first = summed, first

    def forward(self, x: Tensor) -> Tensor:
        scale = (self.scale.exp() * self.other).view(1, -1, 1, 1)
        more = scale.sum() if self.first and self.summed else 0.0
        y = self.a(x) * scale
        return self.b(y) + (scale.sum() if self.summed and not self.first else more)  # type: ignore[no-any-return]


def test_a_batchnorm_of_buffers_loses_the_channels_of_its_layer() -> None:
    torch.manual_seed(0)
    net = Frozen().eval()
    graph = trace(net, torch.rand(SHAPE))
    assert graph.prunable.sum() == 8 and graph.norm_of == {"a": "bn"}
    remove = np.array([1, 6])
    slim = cut_units(net, graph, remove)
    assert slim.bn.running_var.shape == slim.bn.weight.shape == (6,)
    assert self_test(net, graph, remove, slim, compensated=True).max_rel_diff < 1e-12
    # What a channel whose scale is zero gives is its shift.
    silent = copy.deepcopy(net)
    silent.bn.weight[remove] = 0
    given = torch.rand(SHAPE)
    assert torch.allclose(slim(given), silent(given), atol=1e-6)


def test_factors_of_a_scale_lose_the_same_channels() -> None:
    net = Product().eval()
    graph = trace(net, torch.rand(SHAPE))
    assert graph.prunable.sum() == 8
    slim = cut_units(net, graph, np.array([0]))
    assert slim.scale.shape == slim.other.shape == (7,)
    assert self_test(net, graph, np.array([0]), slim, compensated=True).passed


def test_a_scale_that_is_summed_too_keeps_its_channels() -> None:
    for first in (True, False):
        graph = trace(Product(summed=True, first=first).eval(), torch.rand(SHAPE))
        assert not graph.prunable.any(), first


def test_a_batchnorm_of_buffers_is_repaired_as_any_other() -> None:
    torch.manual_seed(0)
    frozen, plain = Frozen().eval(), Frozen().eval()
    plain.bn = nn.BatchNorm2d(8)  # type: ignore[assignment]
    plain.load_state_dict(frozen.state_dict(), strict=False)
    pictures, remove = torch.rand(8, *SHAPE[1:]), np.array([1, 6])
    found = []
    for net in (frozen, plain.eval()):
        graph = trace(net, torch.rand(SHAPE))
        slim = cut_units(net, graph, remove)
        done = repair(net, slim, graph, kept_units(graph, remove), pictures)
        assert any(layer.pull is not None for layer in done.record.layers)
        found.append(done.model.eval()(pictures))
    assert torch.allclose(*found, atol=1e-5)
