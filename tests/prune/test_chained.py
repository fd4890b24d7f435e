"""Cuts after cuts, to the floor, of fused models and of models with shared modules."""

from __future__ import annotations

import copy

import nets
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from yoloprune.channels import trace
from yoloprune.channels.graph import ChannelGraph
from yoloprune.errors import PlanError
from yoloprune.prune.budget import Budget
from yoloprune.prune.cut import cut_units, self_test
from yoloprune.prune.planner import plan
from yoloprune.prune.score import score
from yoloprune.prune.selftest import relative_difference


def build(name: str) -> nn.Module:
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(0)
    return nets.randomised(DetectionModel(f"{name}.yaml", verbose=False))


def pruned(model: nn.Module, budget: Budget, criterion: str) -> tuple[nn.Module, ChannelGraph]:
    """Trace, score, plan, cut and test; the slim model and the graph that it was cut by."""
    graph = trace(model)
    chosen = plan(graph, score(model, graph, criterion=criterion), budget)
    remove = chosen.remove(graph)
    slim = cut_units(model, graph, remove, compensate=False)
    test = self_test(model, graph, remove, slim)
    assert test.max_rel_diff <= 1e-9
    assert chosen.reached.channels == graph.channels[remove].sum()
    return slim, graph


def raw(model: nn.Module) -> list[Tensor]:
    """The heads' raw boxes and scores on one fixed picture."""
    given = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        output = model(given)[1]
    output = output.get("one2one", output)
    return [output["boxes"], output["scores"]]


def trains(model: nn.Module) -> None:
    output = copy.deepcopy(model).train()(torch.rand(2, 3, 64, 64))
    output = output.get("one2many", output)
    sum(output[k].square().mean() for k in ("boxes", "scores")).backward()


@pytest.mark.parametrize(
    "name", ["yolov8n", *(pytest.param(n, marks=pytest.mark.slow) for n in ("yolo11n", "yolo12n"))]
)
def test_pruned_twice_in_sequence(name: str) -> None:
    budget = Budget(percent=0.3, min_channels=1)
    once, first = pruned(build(name), budget, "gamma")
    twice, second = pruned(once, budget, "l1")
    counts = [int(g.channels[g.prunable].sum()) for g in (first, second, trace(twice))]
    # What was prunable before is prunable after, and each time 30 % of it goes, or a little
    # more: yolo12n loses whole attention heads.
    for before, after in ((counts[0], counts[1]), (counts[1], counts[2])):
        assert 0.94 * 0.7 * before <= after <= 0.7 * before
    assert set(first.frozen.values()) == set(second.frozen.values())
    trains(twice)


def test_two_cuts_are_the_cut_of_both() -> None:
    """Removing A, then B of what is left, gives the weights of removing both at once."""
    model = nets.randomised(nets.Residual())
    graph = nets.traced(model)
    once = cut_units(model, graph, np.array([1, 9]), compensate=False)
    # Of 8 + 6 units 1 and 9 are gone: 0 and 5 of what is left were 0 and 6 (and so on).
    twice = cut_units(once, nets.traced(once), np.array([0, 5, 7]), compensate=False)
    both = cut_units(model, graph, np.array([0, 1, 6, 9, 8]), compensate=False)
    for (name, a), (_, b) in zip(
        twice.state_dict().items(), both.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("name", ["yolov8n", "yolov10n"])
def test_pruned_to_the_floor_of_one_channel(name: str) -> None:
    floor = Budget(percent=0.999, min_channels=1, max_layer_prune=1.0)
    slim, graph = pruned(build(name), floor, "gamma")
    left = trace(slim)
    widths = {axis.module: axis.units.size for axis in left.out_axes}
    assert min(widths.values()) == 1
    for axis in graph.out_axes:
        if not any(int(unit) in graph.frozen for unit in axis.units):
            # Heads and halves keep one channel in each.
            assert widths[axis.module] <= 8, axis.module
    assert int(left.channels[left.prunable].sum()) < 0.05 * int(
        graph.channels[graph.prunable].sum()
    )
    trains(slim)
    with pytest.raises(PlanError, match="nothing can be removed|min-channels"):
        pruned(slim, floor, "gamma")


@pytest.mark.parametrize(("name", "criterion"), [("yolov8n", "l1"), ("yolov9t", "fpgm")])
def test_a_fused_model_is_pruned_by_its_weights(name: str, criterion: str) -> None:
    fused = build(name).fuse(verbose=False)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    with pytest.raises(PlanError, match="fused.*--criterion l1"):
        score(fused, trace(fused))
    slim, graph = pruned(fused, Budget(percent=0.4), criterion)
    assert relative_difference(raw(fused), raw(slim)) > 0.05
    assert int(trace(slim).channels.sum()) < 0.75 * int(graph.channels.sum())


def test_compensation_folds_into_the_biases_of_a_fused_model() -> None:
    """Units whose weights are zero give the constant act(bias): the outputs must not change."""
    fused = build("yolov8n").fuse(verbose=False)
    graph = trace(fused)
    layer = fused.model[2].m[0].cv1.conv  # read by one layer, without zero padding
    axis = next(a for a in graph.out_axes if a.tensor == "model.2.m.0.cv1.conv.weight")
    with torch.no_grad():
        layer.weight[:4] = 0
        layer.bias.copy_(torch.linspace(1, 2, layer.bias.numel()))
        reader = fused.model[2].m[0].cv2.conv
        centre = reader.weight[:, :, 1:2, 1:2].clone()
        reader.weight.zero_()
        reader.weight[:, :, 1:2, 1:2] = centre  # no tap ever meets the padding
    given = torch.rand(1, 3, 64, 64)
    plain = cut_units(fused, graph, axis.units[:4], compensate=False)
    folded = cut_units(fused, graph, axis.units[:4])
    with torch.no_grad():
        before, without, after = (m.model[:3](given) for m in (fused, plain, folded))
    assert relative_difference(before, after) < 1e-5
    assert relative_difference(before, without) > 1e-3


def test_a_stock_model_with_shared_blocks_keeps_them_shared() -> None:
    model = build("yolov8n")
    stage, head = model.model[6], model.model[22]
    stage.m[1] = stage.m[0]
    for level in head.cv3[1:]:
        level[1] = head.cv3[0][1]  # one layer in all three levels
    for _ in range(2):
        model, _ = pruned(model, Budget(percent=0.3, min_channels=1), "gamma")
        stage, head = model.model[6], model.model[22]
        assert stage.m[1] is stage.m[0]
        assert all(level[1] is head.cv3[0][1] for level in head.cv3)
    assert head.cv3[0][1].conv.out_channels < 60
    trains(model)


@pytest.mark.parametrize("net", [nets.Shared, nets.ReusedPool])
def test_nets_with_shared_modules_chain(net: type[nn.Module]) -> None:
    model = nets.randomised(net()).double()
    for seed in range(3):
        graph = nets.traced(model)
        remove = nets.random_units(graph, share=0.3, seed=seed)
        assert remove.size
        slim = cut_units(model, graph, remove, compensate=False)
        assert self_test(model, graph, remove, slim).max_rel_diff <= 1e-9
        model = slim
