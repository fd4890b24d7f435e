"""Sparsity steps on tiny nets: against closed forms, and against the plan they prepare."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tests.nets import randomised
from yoloprune.channels.trace import trace
from yoloprune.darknet.cfg import parse_cfg
from yoloprune.darknet.network import DarknetModel
from yoloprune.errors import TrainError
from yoloprune.plan import Budget
from yoloprune.planner import Planner
from yoloprune.score import score
from yoloprune.train.run import parse_sparsity
from yoloprune.train.sparsity import l1, planned

CFG = """[net]
width=64
height=64
channels=3
"""
CONV = "[convolutional]\nbatch_normalize=1\nfilters={}\nsize=3\nstride=2\npad=1\nactivation=leaky\n"
ROUTE = "[route]\nlayers=-1\ngroups=2\ngroup_id=1\n"
HEAD = (
    "[convolutional]\nfilters=7\nsize=1\nstride=1\nactivation=linear\n"
    "[yolo]\nmask=0\nanchors=10,10\nclasses=2\nnum=1\n"
)


@pytest.fixture
def net() -> nn.Module:
    """Convs with a grouped route between them, scales around one."""
    text = CFG + CONV.format(16) + CONV.format(32) + ROUTE + CONV.format(24) + HEAD
    return randomised(DarknetModel(parse_cfg(text)))


def optimizer(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr)


def gammas(model: nn.Module) -> np.ndarray:
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    return torch.cat([m.weight.detach() for m in norms]).numpy()


def test_the_proximal_step_is_a_soft_threshold(net: nn.Module) -> None:
    before = gammas(net)
    net.model[0].bn.weight.data[:3] = torch.tensor([-0.5, 0.01, -0.01])
    before = gammas(net)
    sparsity = l1(net, trace(net), strength=0.5)
    sparsity.step(net, optimizer(net, lr=0.1), progress=0.5)
    expected = np.sign(before) * np.maximum(np.abs(before) - 0.05, 0)
    np.testing.assert_allclose(gammas(net), expected, rtol=1e-6)
    assert gammas(net)[1] == 0 == gammas(net)[2]


def test_frozen_channels_are_left_alone(net: nn.Module) -> None:
    graph = trace(net)
    frozen = copy.copy(graph)
    units = next(a.units for a in graph.axes if a.tensor == "model.0.bn.weight")
    object.__setattr__(frozen, "frozen", {**graph.frozen, int(units[4]): "for the test"})
    before = gammas(net)
    l1(net, frozen, strength=1.0).step(net, optimizer(net, lr=0.1), progress=0.5)
    changed = np.flatnonzero(gammas(net) != before)
    assert 4 not in changed
    assert changed.size == before.size - 1


@pytest.mark.parametrize("percent", [0.3, 0.6, 0.8])
def test_planned_shrinking_ends_in_exactly_what_the_plan_removes(
    net: nn.Module, percent: float
) -> None:
    budget = Budget(percent=percent, min_channels=2)
    graph = trace(net)
    sparsity = planned(net, graph, budget)
    how = optimizer(net, lr=0.01)
    generator = torch.Generator().manual_seed(0)
    for progress in np.linspace(0.01, 1.0, 60):
        for module in net.modules():  # gradients that push all scales about
            if isinstance(module, nn.BatchNorm2d):
                noise = torch.randn(module.num_features, generator=generator)
                module.weight.data += 0.02 * noise
        sparsity.step(net, how, float(progress))
    remove = Planner(graph).choose(score(net, graph), budget)
    values = score(net, graph).values
    assert (values[remove] == 0).all()
    zeros = np.flatnonzero(graph.prunable & (values == 0))
    np.testing.assert_array_equal(zeros, remove)
    reached = graph.channels[remove].sum() / graph.channels[graph.prunable].sum()
    assert reached == pytest.approx(percent, abs=0.03)


def test_the_average_gets_the_zeros_and_nothing_else(net: nn.Module) -> None:
    ema = copy.deepcopy(net)
    sparsity = l1(net, trace(net), strength=7.0)
    sparsity.step(net, optimizer(net, lr=0.1), progress=0.1)
    before = gammas(ema)
    sparsity.follow(net, ema)
    zero = gammas(net) == 0
    assert 0 < zero.sum() < zero.size
    np.testing.assert_array_equal(gammas(ema), np.where(zero, 0, before))


def test_wishes_are_read_from_the_command_line() -> None:
    budget = Budget(percent=0.4)
    assert parse_sparsity("auto", budget) is budget
    assert parse_sparsity("0", budget) is None
    assert parse_sparsity("0.25", budget) == 0.25
    for text in ("-1", "much", "nan", "inf"):
        with pytest.raises(TrainError, match="--sparsity: must be auto or a number"):
            parse_sparsity(text, budget)


def test_a_model_without_batchnorm_is_refused(net: nn.Module) -> None:
    fused = net.fuse(verbose=False)  # type: ignore[operator]
    with pytest.raises(TrainError, match="no prunable BatchNorm"):
        l1(fused, trace(fused), strength=0.1)
