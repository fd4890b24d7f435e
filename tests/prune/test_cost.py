"""Multiply-adds of cuts that nobody made equal those of cuts that were made."""

from __future__ import annotations

import numpy as np
import pytest
from random_nets import RandomNet
from torch import nn

from yoloprune.channels import trace
from yoloprune.measure.size import count
from yoloprune.models.door import load
from yoloprune.prune.cost import MacModel
from yoloprune.prune.cut import cut_units, kept_units
from yoloprune.prune.plan import Budget
from yoloprune.prune.planner import Planner
from yoloprune.prune.score import Scores


def check(model: nn.Module, side: int, seed: int) -> None:
    graph = trace(model)
    size = count(model, side)
    known = MacModel(size, graph)
    assert known.macs(np.ones(graph.n_units, dtype=bool)) == size.macs
    random = np.random.default_rng(seed)
    for percent in (0.2, 0.7):
        scores = Scores(values=random.random(graph.n_units), criterion="random", missing="none")
        remove = Planner(graph).choose(scores, Budget(percent=percent, min_channels=1))
        thin = cut_units(model, graph, remove, compensate=False)
        told = known.macs(kept_units(graph, remove))
        layers = {layer.name: layer.macs for layer in count(thin, side).layers}
        outside = sum(
            macs for path, macs in layers.items() if not hasattr(at(thin, path), "weight")
        )
        assert told - known.outside == pytest.approx(sum(layers.values()) - outside, rel=1e-12)


def at(model: nn.Module, path: str) -> nn.Module:
    return model.get_submodule(path)


@pytest.mark.parametrize("seed", range(12))
def test_random_networks(seed: int) -> None:
    check(RandomNet(seed).eval(), 16, seed)


@pytest.mark.parametrize("name", ["yolov8n.yaml", "yolov5n.yaml", "yolov9t.yaml", "yolov6n.yaml"])
def test_stock_networks(name: str) -> None:
    check(load(name)[0], 64, 0)
