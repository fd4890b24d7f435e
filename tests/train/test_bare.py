"""Channels that a layer without a BatchNorm makes, too: never taken for dead, brought to zero."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from ultralytics.nn.modules.block import CBFuse, CBLinear

from yoloprune.channels import trace
from yoloprune.channels.graph import ChannelGraph
from yoloprune.channels.table import tensors_in
from yoloprune.darknet.cfg import parse_cfg
from yoloprune.darknet.network import DarknetModel
from yoloprune.models.description import load_description
from yoloprune.prune.budget import Budget
from yoloprune.prune.cut import cut_units
from yoloprune.prune.planner import Planner
from yoloprune.prune.score import score
from yoloprune.train.options import SparsityOptions
from yoloprune.train.sparsity import PlannedShrinking, Sparsity, sparsity_of


class Fused(nn.Module):
    """yolov9's auxiliary branch, small: a ``CBLinear`` that is added to a normed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.an = nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.b, self.bn = nn.Conv2d(16, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.linear = CBLinear(16, [16])
        self.fuse = CBFuse([0])
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.an(self.a(x)).relu()
        b = self.bn(self.b(a)).relu()
        return self.head(self.fuse([self.linear(a), b]).relu())


SHORTCUT = """[net]
width=64
height=64
channels=3
[convolutional]
batch_normalize=1
filters=16
size=3
stride=2
pad=1
activation=leaky
[convolutional]
filters=16
size=1
activation=linear
[shortcut]
from=-2
activation=leaky
[convolutional]
filters=7
size=1
activation=linear
[yolo]
mask=0
anchors=10,10
classes=2
num=1
"""


def fused() -> nn.Module:
    return nets.randomised(Fused())


def darknet() -> nn.Module:
    return nets.randomised(DarknetModel(parse_cfg(SHORTCUT)))


NETS = {"CBLinear": fused, "shortcut": darknet}
BUDGET = Budget(percent=0.2, min_channels=2)


def change(model: nn.Module, graph: ChannelGraph, budget: Budget, side: int = 64) -> float:
    """How much a cut by gamma changes the decoded output, relative to its scale."""
    remove = Planner(graph).choose(score(model, graph), budget)
    assert remove.size
    thin = cut_units(model, graph, remove, compensate=False).eval()
    x = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before, after = tensors_in(model.eval()(x))[0], tensors_in(thin(x))[0]
    return float((before - after).abs().max() / before.abs().max())


def deaden(model: nn.Module) -> None:
    """Zero gammas and betas on every fourth channel of every BatchNorm; all else is alive."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data[::4] = 0
            module.bias.data[::4] = 0


def test_the_graph_names_layers_without_a_batchnorm() -> None:
    assert trace(fused()).bare == ("linear.conv", "head")
    assert trace(darknet()).bare == ("model.1.conv", "model.3.conv")


class Gated(nn.Module):
    """Normed channels, multiplied by a gate without a BatchNorm, which may be added, too."""

    def __init__(self, use: str) -> None:
        super().__init__()
        self.use = use
        self.conv, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.gate, self.out = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y, gate = self.norm(self.conv(x)).relu(), self.gate(x.mean((2, 3), keepdim=True)).sigmoid()
        y = y + gate if self.use == "adds" else y * gate
        if self.use == "both":
            y = y + gate
        out: Tensor = self.out(y)
        return out


@pytest.mark.parametrize(("use", "gates"), [("gates", ("gate",)), ("adds", ()), ("both", ())])
def test_a_gate_makes_nothing_alive(use: str, gates: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    model = Gated(use).eval()
    deaden(model)
    model.norm.bias.data[4] = -0.3
    graph = trace(model)
    assert graph.gates == gates and ("gate" in graph.bare) is not bool(gates)
    values = score(model, graph).values[
        next(axis.units for axis in graph.axes if axis.tensor == "norm.weight")
    ]
    dead = np.arange(16) % 4 == 0
    assert (values[dead] > 0).all() or gates
    if gates:  # a beta behind the gate is no constant
        assert values[dead].tolist() == [0, pytest.approx(0.3), 0, 0]


@pytest.mark.parametrize("name", NETS)
def test_a_unit_is_worth_what_its_most_alive_producer_gives(name: str) -> None:
    model = NETS[name]()
    deaden(model)
    graph = trace(model)
    weight = model.get_parameter(f"{graph.bare[0]}.weight")
    bias = model.get_parameter(f"{graph.bare[0]}.bias")
    weight.data[4], bias.data[4] = 0, 0
    units = next(a.units for a in graph.out_axes if a.module == graph.bare[0])
    values = score(model, graph).values[units]
    expected = weight.detach().flatten(1).norm(dim=1) + bias.detach().abs()
    dead = np.arange(16) % 4 == 0
    np.testing.assert_allclose(values[dead], expected.numpy()[dead], rtol=1e-6)
    assert values[4] == 0
    assert (values[~dead] >= expected.numpy()[~dead] * (1 - 1e-6)).all()


def test_scores_without_such_layers_are_the_gammas_alone() -> None:
    model = load_description(Path("yolov8n.yaml"))
    nets.randomised(model)
    graph = trace(model)
    found = score(model, graph).values
    gammas: dict[int, list[float]] = {}
    for axis in graph.axes:
        module = model.get_submodule(axis.module)
        if isinstance(module, nn.BatchNorm2d) and axis.tensor.endswith("weight"):
            for unit, value in zip(axis.units, module.weight.detach().abs(), strict=True):
                gammas.setdefault(int(unit), []).append(float(value))
    for unit, several in gammas.items():
        assert found[unit] == np.float64(sum(several)) / len(several)


@pytest.mark.parametrize("name", NETS)
def test_live_channels_are_not_taken_for_dead(name: str) -> None:
    model = NETS[name]()
    deaden(model)
    graph = trace(model)
    bare = graph.bare[0]
    model.get_parameter(f"{bare}.weight").data[::4] = 0
    model.get_parameter(f"{bare}.bias").data[::4] = 0
    assert change(model, graph, Budget(percent=0.1, min_channels=2)) < 1e-5
    model.get_parameter(f"{bare}.bias").data[::4] = 1
    dead = score(model, graph).values[next(a.units for a in graph.out_axes if a.module == bare)]
    assert (dead[::4] == 1).all()


def shrink(model: nn.Module, sparsity: Sparsity, steps: int, start: int = 0) -> None:
    """Steps of a training whose gradients push scales, shifts and bare rows about."""
    how = torch.optim.SGD(model.parameters(), lr=0.01)
    for step in range(start, steps):
        generator = torch.Generator().manual_seed(step)
        for parameter in model.parameters():
            parameter.data += 0.01 * torch.randn(parameter.shape, generator=generator)
        sparsity.step(model, how, (step + 1) / steps)


def auto(model: nn.Module, graph: ChannelGraph, budget: Budget = BUDGET, **more: Any) -> Sparsity:
    return sparsity_of(
        model, graph, SparsityOptions(budget=budget, **{"criterion": "gamma", **more})
    )


@pytest.mark.parametrize("name", NETS)
def test_auto_ends_in_a_cut_that_changes_nothing(name: str) -> None:
    model = NETS[name]()
    graph = trace(model)
    assert change(model, graph, BUDGET) > 1e-3
    ema = copy.deepcopy(model)
    sparsity = auto(model, graph)
    shrink(model, sparsity, steps=40)
    sparsity.follow(model, ema)
    zero = np.flatnonzero(sparsity.gammas.zero_units(model))
    np.testing.assert_array_equal(zero, np.sort(Planner(graph).choose(score(model, graph), BUDGET)))
    assert change(model, graph, BUDGET) < 1e-5
    np.testing.assert_array_equal(
        sparsity.gammas.zero_units(ema), sparsity.gammas.zero_units(model)
    )
    assert change(ema, graph, BUDGET) < 1e-5


class Turned(nn.Module):
    """A transposed convolution without a BatchNorm is added to a normed convolution."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.a, self.b = nets.conv(3, 8), nets.conv(3, 12)
        self.up = nn.ConvTranspose2d(8, 12, 1, groups=groups)
        self.head = nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.up(self.a(x)) + self.b(x))


@pytest.mark.parametrize("criterion", ["gamma", "taylor"])
@pytest.mark.parametrize("groups", [1, 2])
def test_rows_of_transposed_convolutions_go_too(groups: int, criterion: str) -> None:
    model = nets.randomised(Turned(groups))
    graph, budget = trace(model), Budget(percent=0.5, min_channels=2)
    ema = copy.deepcopy(model)
    sparsity = auto(model, graph, budget, criterion=criterion)
    for step in range(12):
        generator = torch.Generator().manual_seed(step)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        if isinstance(sparsity, PlannedShrinking) and sparsity._chooser.taylor is not None:
            sparsity._chooser.taylor.gather(model)
        sparsity.step(model, torch.optim.SGD(model.parameters(), lr=0.0), (step + 1) / 12)
    sparsity.follow(model, ema)
    zero = sparsity.gammas.zero_units(model)
    up = next(a.units.ravel() for a in graph.out_axes if a.module == "up")
    assert 0 < zero[up].sum() < up.size
    np.testing.assert_array_equal(sparsity.gammas.zero_units(ema), zero)
    for one in (model, ema):
        assert change(one, graph, budget, side=16) < 1e-6


def test_a_unit_with_a_live_bare_row_does_not_count_as_zero() -> None:
    model = fused()
    graph = trace(model)
    gammas = auto(model, graph).gammas
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data[:] = 0
            module.bias.data[:] = 0
    units = next(a.units for a in graph.out_axes if a.module == "linear.conv")
    assert not gammas.zero_units(model)[units].any()
    model.linear.conv.weight.data[:] = 0  # type: ignore[union-attr, operator]
    model.linear.conv.bias.data[:] = 0  # type: ignore[union-attr, operator]
    assert gammas.zero_units(model)[units].all()


def test_a_resumed_run_takes_the_same_steps() -> None:
    whole = fused()
    parts = copy.deepcopy(whole)
    graph = trace(whole)
    shrink(whole, auto(whole, graph), steps=30)
    first = auto(parts, graph)
    how = torch.optim.SGD(parts.parameters(), lr=0.01)
    for step in range(12):
        generator = torch.Generator().manual_seed(step)
        for parameter in parts.parameters():
            parameter.data += 0.01 * torch.randn(parameter.shape, generator=generator)
        first.step(parts, how, (step + 1) / 30)
    second = auto(parts, graph)
    second.load_state_dict(first.state_dict())
    shrink(parts, second, steps=30, start=12)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(a, b)


def test_taylor_sees_what_bare_rows_do() -> None:
    """The derivative by a gate on a unit, against finite differences of the loss."""
    model = fused().double()
    graph = trace(model)
    sparsity: Any = auto(model, graph, criterion="taylor")
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2)).double()
    how = torch.optim.SGD(model.parameters(), lr=0.0)
    sparsity.watch(model, how)
    model(x).square().sum().backward()
    how.step()
    found = sparsity._chooser.taylor.scores().values
    units = next(a.units for a in graph.out_axes if a.module == "linear.conv")
    for index in (0, 5):
        losses = []
        for gate in (1 + 1e-5, 1 - 1e-5):
            changed: Any = copy.deepcopy(model)
            for values in (
                *(changed.bn.weight, changed.bn.bias),
                *(changed.linear.conv.weight, changed.linear.conv.bias),
            ):
                values.data[index] *= gate
            losses.append(changed(x).square().sum().item())
        slope = (losses[0] - losses[1]) / 2e-5
        assert found[units[index]] == pytest.approx(slope**2, rel=1e-3)


@pytest.mark.slow
def test_yolov9e_black_box_and_auto() -> None:
    model = nets.randomised(load_description(Path("yolov9e.yaml")))
    graph = trace(model)
    deaden(model)
    assert change(model, graph, Budget(percent=0.15), side=128) < 1e-4
    model = nets.randomised(model)
    budget = Budget(percent=0.3)
    sparsity = auto(model, graph, budget)
    how = torch.optim.SGD(model.parameters(), lr=0.01)
    for step in range(10):
        sparsity.step(model, how, (step + 1) / 10)
    assert change(model, graph, budget, side=128) < 1e-4
