"""Mean activation as readers receive it, worked out by hand."""

from __future__ import annotations

from typing import Any

import nets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yoloprune.channels.graph import ChannelGraph
from yoloprune.prune.evidence import Evidence
from yoloprune.prune.own import score_by


def images() -> Tensor:
    return torch.rand(11, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def values(model: nn.Module, reduce: str = "mean") -> tuple[np.ndarray, ChannelGraph]:
    graph = nets.traced(model)
    evidence = Evidence(images=images())
    found = score_by(model, graph, "activation", reduce, evidence)  # type: ignore[arg-type]
    return found.values, graph


def units(graph: ChannelGraph, module: str) -> np.ndarray:
    return next(a for a in graph.out_axes if a.module == module).units.ravel()


def relative(x: Tensor) -> np.ndarray:
    """Mean size of each channel by the mean of all."""
    means = x.abs().double().mean((0, 2, 3))
    return (means / means.mean()).numpy()


@torch.no_grad()
def test_it_is_what_stands_behind_the_activation() -> None:
    model: Any = nets.randomised(nets.Chain())
    found, graph = values(model)
    a = model.a(images())
    assert found[units(graph, "a.0")] == pytest.approx(relative(a), rel=1e-5)
    assert found[units(graph, "b.0")] == pytest.approx(relative(model.b(a)), rel=1e-5)
    assert np.isnan(found[units(graph, "out")]).all()  # nobody reads it


@torch.no_grad()
@pytest.mark.parametrize("reduce", ["mean", "max", "norm"])
def test_readers_of_a_tied_unit_are_aggregated(reduce: str) -> None:
    model: Any = nets.randomised(nets.Residual())
    found, graph = values(model, reduce)
    a = model.a(images())
    both = np.stack([relative(a), relative(a + model.c(model.b(a)))])
    by = {"mean": both.mean(0), "max": both.max(0), "norm": np.sqrt((both**2).sum(0))}
    assert found[units(graph, "a.0")] == pytest.approx(by[reduce], rel=1e-5)


@torch.no_grad()
def test_groups_columns_and_depthwise_layers() -> None:
    grouped: Any = nets.randomised(nets.Grouped())
    found, graph = values(grouped)
    assert found[units(graph, "a.0")] == pytest.approx(relative(grouped.a(images())), rel=1e-5)
    wide: Any = nets.randomised(nets.Depthwise())  # two channels of ``wide`` for each unit
    found, graph = values(wide)
    read = relative(wide.wide(wide.dw(wide.a(images())))).reshape(8, 2).mean(1)
    assert found[units(graph, "a.0")] == pytest.approx(read, rel=1e-5)
    flat: Any = nets.randomised(nets.Classifier())  # each channel is four columns of ``fc``
    found, graph = values(flat)
    read = F.adaptive_avg_pool2d(flat.a(images()), 2).flatten(1).abs().double().mean(0)
    expected = (read / read.mean()).view(6, 4).mean(1).numpy()
    assert found[units(graph, "a.0")] == pytest.approx(expected, rel=1e-5)


def test_what_is_switched_off_scores_nothing() -> None:
    model: Any = nets.randomised(nets.Chain())
    with torch.no_grad():
        for tensor in (model.a[1].weight, model.a[1].bias):
            tensor[3] = 0
    found, graph = values(model)
    assert (found[units(graph, "a.0")] == 0).tolist() == [k == 3 for k in range(8)]
