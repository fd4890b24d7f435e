"""Kept counts that toolchains like: multiples wherever the full network had them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from yoloprune.channels.trace import trace
from yoloprune.darknet.cfg import read_cfg
from yoloprune.darknet.network import DarknetModel
from yoloprune.measure.size import count
from yoloprune.prune.budget import Budget
from yoloprune.prune.cost import Costs
from yoloprune.prune.cut import kept_units
from yoloprune.prune.planner import Planner
from yoloprune.prune.score import Scores

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "benchmarks"))
from repair_tables import SHARED  # noqa: E402  # scripts lie beside the package
from ultralytics_table import build, every_yaml  # noqa: E402

sys.path.pop(0)

FAST = {"yolov8.yaml", "yolo11.yaml", "yolov9t.yaml", "yolov4-tiny.cfg"}
REFUSED = {"tiny-yolo_xnor.cfg", "yolov3-tiny_xnor.cfg"}
CFGS = {path.name for path in (SHARED / "darknet-cfg").glob("*.cfg")} - REFUSED
EVERY = [*every_yaml(), *sorted(CFGS)]
EIGHT = 8


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in EVERY],
)
def test_every_width_is_a_multiple_where_it_was(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLOPRUNE_MAX_MEMORY", "16G")  # of cspx-p7-mish at its own 1536 px
    if name.endswith(".yaml"):
        model = build(name)[0]
    else:
        model = DarknetModel(read_cfg(SHARED / "darknet-cfg" / name))
    graph = trace(model.eval())
    costs = Costs(model, graph, count(model, graph.input_shape[-1]))
    scores = Scores(values=np.random.default_rng(0).random(graph.n_units), criterion="random")
    for budget in (Budget(macs=0.5, round_to=EIGHT), Budget(percent=0.3, round_to=EIGHT)):
        plan = Planner(graph, costs).plan(scores, budget)
        assert not plan.notes
        kept = kept_units(graph, plan.remove(graph))
        if budget.macs is None:
            assert plan.reached.percent >= 0.3
        else:
            assert costs.macs(kept) <= costs.full.macs / 2
        for axis in graph.axes:  # of a grouped convolution the sum over its groups
            left = int(kept[axis.units].sum())
            assert axis.units.size % EIGHT or left % EIGHT == 0, (axis.tensor, left)


class Joined(nn.Module):
    """Layers of some widths, joined, and read by one layer."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Conv2d(3, width, 1) for width in widths)
        self.middle, self.out = nn.Conv2d(sum(widths), 32, 1), nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.middle(torch.cat([part(x) for part in self.parts], 1)))  # type: ignore[no-any-return]


def joined(widths: tuple[int, ...], first_is_worth: float) -> tuple[list[int], int, int]:
    """What is kept of each part, of what the joining layer reads, and of what the first reads."""
    graph = trace(Joined(widths).eval())
    values = np.random.default_rng(0).random(graph.n_units)
    units = {axis.tensor: axis.units for axis in graph.out_axes}
    values[units["parts.0.weight"]] += first_is_worth
    scores = Scores(values=values, criterion="random")
    plan = Planner(graph).plan(scores, Budget(percent=0.3, round_to=EIGHT, min_channels=4))
    kept = kept_units(graph, plan.remove(graph))
    read = next(axis for axis in graph.axes if axis.role == "in" and "middle" in axis.tensor)
    parts = [int(kept[units[f"parts.{i}.weight"]].sum()) for i in range(len(widths))]
    picture = [axis for axis in graph.axes if axis.role == "in" and "parts" in axis.tensor]
    return parts, int(kept[read.units].sum()), len(picture)


def test_what_a_concatenation_feeds_is_a_multiple_even_where_a_part_stays_whole() -> None:
    parts, read, _ = joined((12, 20), first_is_worth=9.0)
    assert parts == [12, 20]  # 12 stays, and 12 + 16 would be none
    assert read == 32
    parts, read, _ = joined((12, 20), first_is_worth=-0.5)
    assert parts[0] == 8
    assert read % EIGHT == 0
    parts, read, _ = joined((16, 24), first_is_worth=0.0)
    assert read == sum(parts)
    assert not any(part % EIGHT for part in parts)


def test_what_was_no_multiple_does_not_hold_the_rest_back() -> None:
    parts, read, _ = joined((12, 25), first_is_worth=9.0)
    assert parts[0] == 12
    assert parts[1] in (8, 16)
    assert read == sum(parts)


def test_the_channels_of_the_picture_are_none_of_the_graph() -> None:
    assert joined((16, 24), first_is_worth=0.0)[2] == 0
