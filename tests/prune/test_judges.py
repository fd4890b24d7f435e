"""What judges say is what the plain way says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from yoloprune.channels.graph import ChannelGraph
from yoloprune.channels.trace import trace
from yoloprune.measure.demo_data import ShapesSpec, write_shapes
from yoloprune.models.door import load
from yoloprune.prune.apart import Seen
from yoloprune.prune.cut import cut_units
from yoloprune.prune.judges import by_data, by_sight
from yoloprune.prune.planner import Planner
from yoloprune.prune.score import score
from yoloprune.prune.selftest import silenced
from yoloprune.prune.sensitivity import alone, parts
from yoloprune.prune.sides import quality

SIDE = 128


@pytest.fixture(scope="module")
def network() -> tuple[nn.Module, ChannelGraph]:
    model = load("yoloprune-demo.cfg")[0].float().eval()
    return model, trace(model)


def cuts(model: nn.Module, graph: ChannelGraph) -> list[nn.Module]:
    """A part near the input and one near the output, silenced and cut."""
    found = []
    for part in (parts(graph)[1], parts(graph)[-1]):
        remove = alone(Planner(graph), part, score(model, graph, criterion="l2"), 0.5)
        found += [silenced(model, graph, remove).eval(), cut_units(model, graph, remove).eval()]
    return found


def test_ap_is_that_of_the_whole_measurement(
    network: tuple[nn.Module, ChannelGraph], tmp_path: Path
) -> None:
    model, graph = network
    data = str(write_shapes(tmp_path / "shapes", ShapesSpec(images=24, val=20, size=SIDE)))
    judge = by_data(model, data, "val", (SIDE, SIDE))

    def ap(one: nn.Module) -> float:
        found = quality(one, data, (SIDE, SIDE), split="val", device="cpu")["AP"]
        assert isinstance(found, float)
        return found

    assert judge.full == ap(model) > 0.2
    lost = [judge.lost(one) for one in cuts(model, graph)]
    assert lost == [judge.full - ap(one) for one in cuts(model, graph)]
    assert max(lost) > 0.05 and judge.lost(model) == 0


def test_sight_is_that_of_the_whole_network(network: tuple[nn.Module, ChannelGraph]) -> None:
    model, graph = network
    pictures = torch.rand(10, 3, SIDE, SIDE)
    judge, seen = by_sight(model, pictures), Seen(model, pictures)
    lost = [judge.lost(one) for one in cuts(model, graph)]
    assert lost == [seen.apart(one) for one in cuts(model, graph)]
    assert min(lost) > 0 and judge.lost(model) == 0
