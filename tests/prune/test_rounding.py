"""Kept counts that toolchains like: multiples wherever the full network had them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

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
EVERY = [*every_yaml(), *sorted(path.name for path in (SHARED / "darknet-cfg").glob("*.cfg"))]
EIGHT = 8


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in EVERY],
)
def test_every_width_is_a_multiple_where_it_was(name: str) -> None:
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
        for axis in graph.axes:
            for units in np.atleast_2d(axis.units):
                left = int(kept[units].sum())
                assert units.size % EIGHT or left % EIGHT == 0, (axis.tensor, units.size, left)
