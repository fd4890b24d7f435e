"""What cuts cost that nobody made equals what those cost that were made."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from random_nets import RandomNet
from torch import Tensor, nn

from yoloprune.channels import trace
from yoloprune.measure.size import count
from yoloprune.models.door import load
from yoloprune.prune.budget import Budget
from yoloprune.prune.cost import Costs
from yoloprune.prune.cut import cut_units, kept_units
from yoloprune.prune.planner import Planner
from yoloprune.prune.score import Scores


def check(model: nn.Module, side: int, seed: int, plans: int = 2) -> None:
    graph = trace(model)
    size = count(model, side)
    known = Costs(model, graph, size)
    assert (known.full.macs, known.full.params) == (size.macs, size.params)
    random = np.random.default_rng(seed)
    for percent in np.linspace(0.2, 0.7, plans):
        scores = Scores(values=random.random(graph.n_units), criterion="random", missing="none")
        budget = Budget(percent=float(percent), min_channels=1)
        remove = Planner(graph).choose(scores, budget)
        thin = cut_units(model, graph, remove, compensate=False)
        told, found = known.of(kept_units(graph, remove)), count(thin, side)
        assert (told.macs, told.params) == (found.macs, found.params)
        numbers = [t.numel() for t in thin.state_dict().values() if t.is_floating_point()]
        assert told.bytes["fp32"] == 4 * sum(numbers) == 2 * told.bytes["fp16"]
        weights = sum(m.weight.numel() for m in thin.modules() if isinstance(m, LAYERS))
        assert told.bytes["int8"] == weights + 4 * (sum(numbers) - weights)


LAYERS = (nn.Conv2d, nn.Linear, nn.ConvTranspose2d)


@pytest.mark.parametrize("seed", range(12))
def test_random_networks(seed: int) -> None:
    check(RandomNet(seed).eval(), 16, seed)


@pytest.mark.parametrize(
    "name", ["yolov8n.yaml", "yolov9t.yaml", "yolov6n.yaml", "yolo11n.yaml", "yolo12n.yaml"]
)
def test_stock_networks(name: str) -> None:
    check(load(name)[0], 64, 0)


class Bare(nn.Module):
    """Convolutions by parameters of the module's own, two of them in a list, and a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(10, 4, 1)
        self.kernels = nn.ParameterList([torch.rand(12, 12, 3, 3), torch.rand(10, 12, 3, 3)])
        self.deep = nn.Parameter(torch.rand(12, 1, 3, 3))
        self.scale = nn.Parameter(torch.rand(10, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(self.first(x).relu(), self.deep, padding=1, groups=self.deep.shape[0])
        for kernel in self.kernels:
            x = F.conv2d(x, kernel, padding=1).relu()
        out: Tensor = self.last(x * self.scale)
        return out


def test_weights_that_are_no_layers() -> None:
    check(Bare().eval(), 16, 0)


TEN = (
    *("yolov8n.yaml", "yolov5n.yaml", "yolov9t.yaml", "yolov10n.yaml", "yolo11n.yaml"),
    *("yolo12n.yaml", "yolo26n.yaml", "yolov8n-seg.yaml", "yolov4-tiny.cfg", "yolov3.cfg"),
)


def test_a_darknet_network() -> None:
    check(load("yolov4-tiny.cfg", scratch=True)[0], 64, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", TEN)
def test_two_hundred_plans_of_ten_architectures(name: str) -> None:
    check(load(name, scratch=name.endswith(".cfg"))[0], 64, 7, plans=20)
