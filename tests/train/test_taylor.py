"""What a unit means to the loss: against differences of the loss, and what `auto` makes of it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.nets import CONV, SAME, randomised
from yoloprune.channels.graph import ChannelGraph
from yoloprune.channels.trace import trace
from yoloprune.darknet.cfg import parse_cfg
from yoloprune.darknet.network import DarknetModel
from yoloprune.errors import TrainError
from yoloprune.prune.budget import Budget
from yoloprune.prune.planner import Planner
from yoloprune.prune.score import score
from yoloprune.train.gammas import Gammas
from yoloprune.train.options import SparsityOptions
from yoloprune.train.sparsity import Sparsity, sparsity_of
from yoloprune.train.taylor import DECAY, TaylorImportance

CFG = (
    "[net]\nwidth=64\nheight=64\nchannels=3\n"
    + CONV.format(16)
    + SAME.format(16)
    + "[shortcut]\nfrom=-2\nactivation=linear\n"
    + CONV.format(32)
    + "[convolutional]\nfilters=7\nsize=1\nstride=1\nactivation=linear\n"
    + "[yolo]\nmask=0\nanchors=10,10\nclasses=2\nnum=1\n"
)
BUDGET = Budget(percent=0.5, min_channels=2)


@pytest.fixture
def net() -> Any:
    """Two convs tied by a shortcut, and one more; statistics fixed, in float64."""
    return randomised(DarknetModel(parse_cfg(CFG))).double().eval()


def loss_of(model: nn.Module, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    dtype = next(model.parameters()).dtype
    pictures = torch.rand(4, 3, 64, 64, generator=generator, dtype=torch.float64).to(dtype)
    return sum(raw.square().mean() for raw in model(pictures)[1])  # type: ignore[return-value]


def run(model: nn.Module, sparsity: Sparsity, how: Any, steps: range, of: int) -> None:
    for step in steps:
        loss_of(model, step).backward()
        how.step()
        how.zero_grad()
        sparsity.step(model, how, (step + 1) / of)


def by_taylor(model: nn.Module, graph: ChannelGraph, **options: Any) -> Sparsity:
    options = {"budget": BUDGET, "criterion": "taylor", **options}
    return sparsity_of(model, graph, SparsityOptions(**options))


def sgd(model: nn.Module, lr: float = 0.01) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr)


def test_a_score_is_the_squared_slope_of_the_loss_by_a_gate_on_the_unit(net: nn.Module) -> None:
    graph = trace(net)
    gammas = Gammas(net, graph)
    taylor, how = TaylorImportance(gammas), sgd(net, lr=0.0)
    taylor.watch(net, how)
    loss_of(net).backward()
    how.step()
    found = taylor.scores().values
    assert np.isfinite(found).sum() == 16 + 32
    for unit in (*np.unique(gammas.units)[:20:5], *np.unique(gammas.units)[-8::3]):
        losses = []
        for gate in (1 + 1e-5, 1 - 1e-5):
            other = copy.deepcopy(net)
            for name, values in other.named_parameters():
                for at, weight in enumerate(gammas.names):
                    if name in (weight, f"{weight[:-6]}bias"):
                        ends = np.cumsum([0, *gammas.sizes])
                        of_layer = gammas.units[ends[at] : ends[at + 1]]
                        values.data[torch.from_numpy(of_layer == unit)] *= gate
            losses.append(loss_of(other).item())
        slope = (losses[0] - losses[1]) / 2e-5
        assert found[unit] == pytest.approx(slope**2, rel=1e-3)  # terms are float32


def test_older_steps_count_less(net: nn.Module) -> None:
    taylor, how = TaylorImportance(Gammas(net, trace(net))), sgd(net, lr=0.0)
    taylor.watch(net, how)
    single = []
    for seed in range(12):  # over two gatherings
        how.zero_grad()
        loss_of(net, seed).backward()
        how.step()
        single.append(TaylorImportance(taylor.gammas))
        single[-1].gather(net)
    expected = sum(DECAY ** (11 - n) * one.scores().values for n, one in enumerate(single))
    np.testing.assert_allclose(taylor.scores().values, expected, rtol=1e-12)


def test_a_step_that_overflowed_is_left_out(net: nn.Module) -> None:
    taylor = TaylorImportance(Gammas(net, trace(net)))
    loss_of(net).backward()
    taylor.gather(net)
    before = taylor.scores().values
    net.get_parameter(taylor.gammas.names[0]).grad[3] = float("inf")  # type: ignore[index]
    taylor.gather(net)
    np.testing.assert_array_equal(taylor.scores().values, before)


@pytest.mark.parametrize("round_to", [1, 4])
@pytest.mark.parametrize("percent", [0.3, 0.6, 0.8])
def test_auto_by_taylor_ends_in_what_a_plan_by_gamma_removes(
    net: nn.Module, percent: float, round_to: int
) -> None:
    graph, budget = trace(net), Budget(percent=percent, min_channels=4, round_to=round_to)
    sparsity, how = by_taylor(net, graph, budget=budget), sgd(net)
    sparsity.watch(net, how)
    run(net, sparsity, how, range(40), of=40)
    remove = Planner(graph).choose(score(net, graph), budget)
    zeros = np.flatnonzero(Gammas(net, graph).zero_units(net))
    if round_to == 1:
        np.testing.assert_array_equal(zeros, remove)
    assert np.isin(remove, zeros).all()  # rounding depends on the order, and may leave some in
    assert graph.channels[remove].sum() >= percent * graph.channels[graph.prunable].sum()


def test_what_nobody_reads_goes_however_large_its_scale(net: Any) -> None:
    readers = net.model[4].conv.weight.data  # of the last conv with a BatchNorm
    readers[:, 5] = 0
    norm = net.model[3].bn
    norm.weight.data[5] = 1.5 * norm.weight.data.abs().max()
    graph = trace(net)
    budget = Budget(percent=0.2, min_channels=2)
    for criterion, alive in (("taylor", False), ("gamma", True)):
        model = copy.deepcopy(net)
        sparsity = by_taylor(model, graph, budget=budget, criterion=criterion)
        how = sgd(model, lr=0.0)
        sparsity.watch(model, how)
        run(model, sparsity, how, range(20), of=20)
        assert bool(model.model[3].bn.weight[5] != 0) == alive, criterion


def test_layers_without_gradients_go_last(net: Any) -> None:
    net.model[3].bn.weight.requires_grad_(False)
    net.model[3].bn.bias.requires_grad_(False)
    graph = trace(net)
    sparsity, how = by_taylor(net, graph, budget=Budget(percent=0.2, min_channels=2)), sgd(net)
    sparsity.watch(net, how)
    run(net, sparsity, how, range(20), of=20)
    assert (net.model[3].bn.weight != 0).all()
    assert (net.model[0].bn.weight == 0).sum() == 7  # pairs, of a fifth of 16 + 16 + 32


def test_it_goes_on_from_its_state(net: nn.Module) -> None:
    graph, other = trace(net), copy.deepcopy(net)
    whole, how = by_taylor(net, graph), sgd(net)
    whole.watch(net, how)
    run(net, whole, how, range(40), of=40)
    first, how = by_taylor(other, graph), sgd(other)
    first.watch(other, how)
    run(other, first, how, range(13), of=40)  # between two choices and two gatherings
    second, how = by_taylor(other, graph), sgd(other)
    second.load_state_dict(first.state_dict())
    second.watch(other, how)
    run(other, second, how, range(13, 40), of=40)
    for values, expected in zip(other.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(values, expected, rtol=0, atol=0)


def test_it_is_refused_where_it_would_do_nothing() -> None:
    with pytest.raises(TrainError, match="--criterion taylor: belongs to --sparsity auto"):
        SparsityOptions(budget=BUDGET, method="l1", strength=1.0, criterion="taylor")
    with pytest.raises(TrainError, match="--criterion: unknown, got 'l2', expected gamma, taylor"):
        SparsityOptions(budget=BUDGET, criterion="l2")  # type: ignore[arg-type]
