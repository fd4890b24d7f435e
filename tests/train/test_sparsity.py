"""Sparsity steps: against closed forms, and against the plan that they prepare."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slims
import torch
from torch import nn

from tests.nets import CONV, SAME, randomised
from yoloprune.channels.graph import ChannelGraph
from yoloprune.channels.trace import trace
from yoloprune.darknet.cfg import parse_cfg
from yoloprune.darknet.network import DarknetModel
from yoloprune.errors import TrainError
from yoloprune.measure.runtimes import RuntimeOptions
from yoloprune.measure.size import count
from yoloprune.models.door import load
from yoloprune.prune.budget import Budget
from yoloprune.prune.clock import FEATURES, Clock, LatencyTable, Timed
from yoloprune.prune.cost import Costs
from yoloprune.prune.cut import cut_units, kept_units
from yoloprune.prune.planner import Planner
from yoloprune.prune.profile import structure_of
from yoloprune.prune.ratios import parse_ratios
from yoloprune.prune.score import score
from yoloprune.train.gammas import Gammas
from yoloprune.train.options import SparsityOptions
from yoloprune.train.sparsity import Sparsity, sparsity_of

CFG = """[net]
width=64
height=64
channels=3
"""
ROUTE = "[route]\nlayers=-1\ngroups=2\ngroup_id=1\n"
SHORTCUT = "[shortcut]\nfrom=-2\nactivation=linear\n"
HEAD = (
    "[convolutional]\nfilters=7\nsize=1\nstride=1\nactivation=linear\n"
    "[yolo]\nmask=0\nanchors=10,10\nclasses=2\nnum=1\n"
)
BUDGET = Budget(percent=0.5, min_channels=2)
BY_SCALE: dict[str, Any] = {"budget": BUDGET, "criterion": "gamma"}
AUTO = {"auto": {"method": "auto"}, "taylor": {"method": "auto", "criterion": "taylor"}}


@pytest.fixture
def net() -> nn.Module:
    """Convs with a grouped route between them, scales around one."""
    text = CFG + CONV.format(16) + CONV.format(32) + ROUTE + CONV.format(24) + HEAD
    return randomised(DarknetModel(parse_cfg(text)))


@pytest.fixture
def tied() -> nn.Module:
    """Two convs tied by a shortcut."""
    text = CFG + CONV.format(8) + SAME.format(8) + SHORTCUT + HEAD
    return randomised(DarknetModel(parse_cfg(text)))


def optimizer(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr)


def method(model: nn.Module, graph: ChannelGraph | None = None, **options: Any) -> Sparsity:
    graph = graph or trace(model)
    return sparsity_of(model, graph, SparsityOptions(**{**BY_SCALE, **options}))


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


def gammas(model: nn.Module) -> np.ndarray:
    return torch.cat([m.weight.detach() for m in norms(model)]).numpy()


def set_some(model: Any) -> np.ndarray:
    model.model[0].bn.weight.data[:3] = torch.tensor([-0.5, 0.01, -0.01])
    return gammas(model)


def test_l1_is_a_step_along_the_subgradient(net: nn.Module) -> None:
    before = set_some(net)
    method(net, method="l1", strength=0.5).step(net, optimizer(net, lr=0.1), progress=0.4)
    np.testing.assert_allclose(gammas(net), before - 0.05 * np.sign(before), rtol=1e-5)


def test_prox_is_a_soft_threshold(net: nn.Module) -> None:
    before = set_some(net)
    method(net, method="prox", strength=0.5).step(net, optimizer(net, lr=0.1), progress=0.4)
    expected = np.sign(before) * np.maximum(np.abs(before) - 0.05, 0)
    np.testing.assert_allclose(gammas(net), expected, rtol=1e-5)
    assert gammas(net)[1] == 0 == gammas(net)[2]


def test_group_lasso_shrinks_tied_scales_by_one_factor(tied: nn.Module) -> None:
    one, two = norms(tied)
    one.weight.data[:2], two.weight.data[:2] = torch.tensor([3.0, 0.03]), torch.tensor([4.0, 0.04])
    method(tied, method="group", strength=1.0).step(tied, optimizer(tied, lr=0.1), progress=0.4)
    factor = 1 - np.sqrt(2) * 0.1 / 5  # of the unit with the norm 5
    assert one.weight[0].item() == pytest.approx(3 * factor, rel=1e-5)
    assert two.weight[0].item() == pytest.approx(4 * factor, rel=1e-5)
    assert one.weight[1].item() == 0 == two.weight[1].item()


def test_prox_zeroes_a_weak_half_of_a_tied_unit_alone(tied: nn.Module) -> None:
    one, two = norms(tied)
    one.weight.data[0], two.weight.data[0] = 3.0, 0.04
    sparsity = method(tied, method="prox", strength=1.0)
    sparsity.step(tied, optimizer(tied, lr=0.1), progress=0.4)
    assert two.weight[0].item() == 0 < one.weight[0].item()
    assert sparsity.gammas.zero_units(tied).sum() == 0  # the unit still lives


@pytest.mark.parametrize("name", ["l1", "prox", "group"])
def test_frozen_channels_and_layers_are_left_alone(net: Any, name: str) -> None:
    graph = trace(net)
    frozen = copy.copy(graph)
    units = next(a.units for a in graph.axes if a.tensor == "model.0.bn.weight")
    object.__setattr__(frozen, "frozen", {**graph.frozen, int(units[4]): "for the test"})
    net.model[1].bn.weight.requires_grad_(False)
    before = gammas(net)
    method(net, frozen, method=name, strength=1.0).step(net, optimizer(net, lr=0.1), progress=0.4)
    kept = np.flatnonzero(gammas(net) == before)
    np.testing.assert_array_equal(kept, [4, *range(16, 48)])


def test_decay_leaves_a_hundredth_after_half_of_the_epochs(net: nn.Module) -> None:
    how = optimizer(net, lr=0.1)
    sparsity = method(net, method="prox", strength=1.0, decay="half")
    for progress, step in ((0.5, 0.1), (0.51, 0.001)):
        before = gammas(net)
        sparsity.step(net, how, progress)
        np.testing.assert_allclose(before - gammas(net), step, rtol=1e-3)


def test_decay_spares_only_what_the_plan_would_keep(net: nn.Module) -> None:
    graph = trace(net)
    goes = np.isin(Gammas(net, graph).units, Planner(graph).choose(score(net, graph), BUDGET))
    before = gammas(net)
    sparsity = method(net, graph, method="l1", strength=1.0, decay="kept")
    sparsity.step(net, optimizer(net, lr=0.1), progress=0.6)
    np.testing.assert_allclose(before - gammas(net), np.where(goes, 0.1, 0.001), rtol=1e-3)
    assert 0 < goes.sum() < goes.size


def shrink(
    model: nn.Module, sparsity: Sparsity, steps: int, start: int = 0, noise: float = 0.02
) -> None:
    """Steps of a training whose gradients push all scales and shifts about."""
    how = optimizer(model, lr=0.01)
    for step in range(start, steps):
        generator = torch.Generator().manual_seed(step)
        for norm in norms(model):
            for values in (norm.weight, norm.bias):
                values.data += noise * torch.randn(values.shape, generator=generator)
        sparsity.step(model, how, (step + 1) / steps)


def check_reached(model: nn.Module, graph: ChannelGraph, budget: Budget) -> None:
    """Exactly the units at zero are what a plan removes, and these are the percent asked for."""
    remove = Planner(graph).choose(score(model, graph), budget)
    zeros = np.flatnonzero(Gammas(model, graph).zero_units(model))
    np.testing.assert_array_equal(zeros, remove)
    asked = budget.percent * graph.channels[graph.prunable].sum()
    over = graph.channels[remove].sum() - asked
    assert 0 <= over < 2 * graph.channels.max()  # a unit, and its partner in a balance


@pytest.mark.parametrize("percent", [0.3, 0.6, 0.8])
def test_auto_ends_in_exactly_what_the_plan_removes(net: nn.Module, percent: float) -> None:
    budget = Budget(percent=percent, min_channels=2)
    graph = trace(net)
    shrink(net, method(net, graph, budget=budget), steps=60)
    check_reached(net, graph, budget)


@pytest.mark.parametrize(
    "epochs", [10, *(pytest.param(n, marks=pytest.mark.slow) for n in (40, 100))]
)
@pytest.mark.parametrize("percent", [0.3, 0.6, 0.8])
@pytest.mark.parametrize("name", ["yolov8n", "yolov4-tiny"])
def test_auto_reaches_the_percent_in_any_number_of_epochs(
    name: str, percent: float, epochs: int
) -> None:
    model = slims.stock(name) if name == "yolov8n" else load(f"{name}.cfg", scratch=True)[0]
    graph, budget = trace(model), Budget(percent=percent)
    shrink(model, method(model, graph, budget=budget), steps=13 * epochs, noise=0.01)
    check_reached(model, graph, budget)


def test_auto_comes_to_a_limit(net: nn.Module) -> None:
    graph, budget = trace(net), Budget(macs=0.4, min_channels=2)
    costs = Costs(net, graph, count(net, 64))
    options = SparsityOptions(budget=budget, criterion="gamma")
    shrink(net, sparsity_of(net, graph, options, size=64), steps=60)
    remove = Planner(graph, costs).choose(score(net, graph), budget)
    zeros = np.flatnonzero(Gammas(net, graph).zero_units(net))
    assert np.isin(remove, zeros).all()  # zeros are alike, so that another last one may do, too
    assert zeros.size - remove.size <= 2
    left = costs.macs(kept_units(graph, remove)) / costs.full.macs
    assert 0.3 < left <= 0.4


def test_the_cut_after_auto_changes_nothing_not_even_at_borders(net: nn.Module) -> None:
    net = net.double()
    graph, budget = trace(net), Budget(percent=0.6, min_channels=2)
    shrink(net, method(net, graph, budget=budget), steps=60)
    remove = Planner(graph).choose(score(net, graph), budget)
    picture = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    net.eval()
    expected = net(picture)[1][0]
    for compensate in (False, True):
        thin = cut_units(net, graph, remove, compensate=compensate).eval()
        torch.testing.assert_close(thin(picture)[1][0], expected, rtol=0, atol=1e-12)


def test_what_auto_did_not_choose_is_free(net: nn.Module) -> None:
    sparsity = method(net)
    before = gammas(net)
    sparsity.step(net, optimizer(net, lr=0.0), progress=1.0)
    after = gammas(net)
    np.testing.assert_array_equal(after[after != 0], before[after != 0])
    assert 0 < (after == 0).sum() < after.size


@pytest.mark.parametrize("name", ["auto", "l1", "prox", "group"])
def test_a_method_goes_on_from_its_state(net: nn.Module, name: str) -> None:
    options = {} if name == "auto" else {"strength": 0.3, "decay": "kept"}
    other = copy.deepcopy(net)
    whole = method(net, method=name, **options)
    shrink(net, whole, steps=60)
    first = method(other, method=name, **options)
    graph = first.gammas.graph
    with pytest.MonkeyPatch.context() as patch:  # stop after 33, between two choices
        step = first.step
        left = iter(range(33))
        patch.setattr(
            first, "step", lambda *a: step(*a) if next(left, None) is not None else _stop()
        )
        with pytest.raises(InterruptedError):
            shrink(other, first, steps=60)
    undo = torch.Generator().manual_seed(33)  # the noise of the step that did not come
    for norm in norms(other):
        for values in (norm.weight, norm.bias):
            values.data -= 0.02 * torch.randn(values.shape, generator=undo)
    second = method(other, graph, method=name, **options)
    second.load_state_dict(first.state_dict())
    shrink(other, second, steps=60, start=33)
    np.testing.assert_allclose(gammas(other), gammas(net), atol=1e-6)


def _stop() -> None:
    raise InterruptedError


def test_the_average_gets_the_zeros_and_nothing_else(net: nn.Module) -> None:
    ema = copy.deepcopy(net)
    sparsity = method(net, method="prox", strength=7.0)
    sparsity.step(net, optimizer(net, lr=0.1), progress=0.1)
    before = gammas(ema)
    sparsity.follow(net, ema)
    zero = gammas(net) == 0
    assert 0 < zero.sum() < zero.size
    np.testing.assert_array_equal(gammas(ema), np.where(zero, 0, before))


@pytest.mark.parametrize("name", ["auto", "taylor", "l1", "prox", "group"])
def test_a_loss_scale_and_accumulation_change_no_trajectory(name: str) -> None:
    """Half-batches gathered under a scaler of 2^16 against whole batches without one.

    Scaling by a power of two is exact, so what is left is the rounding of sums.
    """
    text = CFG + CONV.format(16) + CONV.format(32) + ROUTE + CONV.format(24) + HEAD
    start = randomised(DarknetModel(parse_cfg(text))).eval()  # statistics fixed: batches add up
    options = AUTO.get(name) or {"method": name, "strength": 0.5}
    runs = []
    for parts, scaled in ((1, False), (4, True)):
        model = copy.deepcopy(start)
        sparsity, how = method(model, **options), optimizer(model, lr=0.05)
        sparsity.watch(model, how)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, enabled=scaled)
        for step in range(20):
            generator = torch.Generator().manual_seed(step)
            pictures = torch.rand(8, 3, 64, 64, generator=generator)
            for part in pictures.chunk(parts):
                loss = sum(raw.square().sum() for raw in model(part)[1]) / 1e5
                scaler.scale(loss).backward()
            scaler.step(how)
            scaler.update()
            how.zero_grad()
            sparsity.step(model, how, (step + 1) / 20)
        runs.append(gammas(model))
    assert np.abs(runs[0] - gammas(start)).max() > 0.1
    np.testing.assert_allclose(runs[1], runs[0], atol=2e-5)
    np.testing.assert_array_equal(runs[1] == 0, runs[0] == 0)


@pytest.mark.parametrize("name", ["auto", "taylor", "prox", "group"])
def test_bfloat16_forward_passes_reach_the_same_zeros(name: str) -> None:
    """Autocast rounds activations; the sparsity steps, on float32 scales, stay what they are."""
    text = CFG + CONV.format(16) + CONV.format(32) + ROUTE + CONV.format(24) + HEAD
    start = randomised(DarknetModel(parse_cfg(text))).eval()
    options = AUTO.get(name) or {"method": name, "strength": 1.5}
    runs = []
    for reduced in (False, True):
        model = copy.deepcopy(start)
        sparsity, how = method(model, **options), optimizer(model, lr=0.05)
        sparsity.watch(model, how)
        for step in range(20):
            pictures = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(step))
            with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
                loss = sum(raw.float().square().sum() for raw in model(pictures)[1]) / 1e5
            loss.backward()
            how.step()
            how.zero_grad()
            sparsity.step(model, how, (step + 1) / 20)
        runs.append(gammas(model))
    assert (runs[0] == 0).any()
    np.testing.assert_allclose(runs[1], runs[0], atol=5e-3)
    np.testing.assert_array_equal(runs[1] == 0, runs[0] == 0)


def test_bad_wishes_are_refused_in_one_line() -> None:
    bad: list[tuple[dict[str, Any], str]] = [
        ({"method": "much"}, "--sparsity: unknown, got 'much', expected auto, l1, prox, group"),
        ({"method": "l1"}, "--sparsity l1: needs --strength, a number above 0, got 0"),
        ({"method": "prox", "strength": float("nan")}, "needs --strength"),
        ({"strength": 1.0}, "--sparsity auto: has no strength"),
        ({"decay": "half"}, "--sparsity auto: has no strength and no decay"),
        ({"method": "l1", "strength": 1.0, "decay": "x"}, "--decay: unknown, got 'x'"),
        ({"until": 0.0}, "--until: must be above 0 and at most 1, got 0"),
    ]
    for options, message in bad:
        with pytest.raises(TrainError, match=message):
            SparsityOptions(budget=BUDGET, **options)


def test_a_model_without_batchnorm_is_refused(net: nn.Module) -> None:
    fused = net.fuse(verbose=False)  # type: ignore[operator]
    with pytest.raises(TrainError, match="no prunable BatchNorm"):
        method(fused, method="l1", strength=0.1)


def test_auto_shrinks_what_ratios_let_go() -> None:
    model, _ = load("yoloprune-demo.cfg", scratch=True)
    graph = trace(model)
    rules = parse_ratios({"backbone": 0, "head": 0.5}, "rules")
    budget = Budget(percent=0.1, min_channels=1, ratios=rules)
    method: Any = sparsity_of(model, graph, SparsityOptions(budget=budget, method="auto"), size=64)
    chosen = method._chooser.renew(model, moving=True)
    units = set(method.gammas.units[chosen].tolist())
    assert units
    for axis in graph.out_axes:
        layer, lost = int(axis.module.split(".")[1]), len(units & set(axis.units.tolist()))
        if layer <= 24:
            assert not lost
        elif layer in (25, 32):  # what the outputs read
            assert lost == axis.units.size // 2


def test_auto_holds_a_limit_to_latency(tmp_path: Path) -> None:
    model = randomised(load("yoloprune-demo.cfg", scratch=True)[0])
    graph = trace(model)
    runtime = RuntimeOptions(runtime="torch", imgsz=(64, 64))
    convs = {axis.module for axis in graph.out_axes}
    table = LatencyTable(
        model="demo", structure=structure_of(model), runtime=runtime, version_of="1", machine="m",
        full=1.0, networks=(Timed(macs=1.0, ms=1.0, spread=0.0, predicted=1.0),),
        modules=dict.fromkeys(convs, (0.0, 0.0, 0.0, 1e-4, *[0.0] * (FEATURES - 4))),
    )  # fmt: skip
    table.write(tmp_path / "t.json")
    budget = Budget(latency=0.6, min_channels=1)
    options = SparsityOptions(budget=budget, criterion="gamma")
    with pytest.raises(TrainError, match="--latency: is meant in some runtime"):
        sparsity_of(model, graph, options, size=64)
    told = replace(options, runtime=runtime, table=str(tmp_path / "t.json"))
    method: Any = sparsity_of(model, graph, told, size=64)
    chosen = method._chooser.renew(model, moving=True)
    kept = np.ones(graph.n_units, dtype=bool)
    kept[method.gammas.units[chosen]] = False
    clock = Clock(graph, table)
    share = clock.ms(kept) / clock.ms(np.ones(graph.n_units, dtype=bool))
    assert 0.5 < share <= 0.6
