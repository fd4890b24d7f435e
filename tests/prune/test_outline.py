"""What a plan is said to do is what the cut then does, layer by layer."""

from __future__ import annotations

import json

import nets
import numpy as np
import pytest
from torch import nn

from yoloprune.channels import trace
from yoloprune.channels.graph import BoolArray, ChannelGraph
from yoloprune.measure.size import count
from yoloprune.models.door import load
from yoloprune.prune.budget import Budget
from yoloprune.prune.cut import cut_units
from yoloprune.prune.outline import outline
from yoloprune.prune.plan import PrunePlan, Reached
from yoloprune.prune.planner import Planner
from yoloprune.prune.score import Scores

NONE = Reached(percent=0.0, channels=0, prunable_channels=8, units=0, threshold=0.0)


def planned(graph: ChannelGraph, budget: Budget) -> PrunePlan:
    values = np.random.default_rng(0).random(graph.n_units)
    return Planner(graph).plan(Scores(values=values, criterion="random"), budget)


@pytest.mark.parametrize("name", ["yolov8n.yaml", "yolo11n.yaml", "yolov4-tiny.cfg"])
def test_every_number_is_that_of_the_cut(name: str) -> None:
    model = load(name, scratch=name.endswith(".cfg"))[0]
    graph, size = trace(model), count(model, 96)
    plan = planned(graph, Budget(percent=0.4))
    found = outline(model, graph, plan, size)
    thin = cut_units(model, graph, plan.remove(graph), compensate=False)
    small = count(thin, 96)
    assert (found.before.macs, found.before.params) == (size.macs, size.params)
    assert (found.after.macs, found.after.params) == (small.macs, small.params)
    macs = {layer.name: layer.macs for layer in small.layers}
    convs = [path for path, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert [line.layer for line in found.lines] == convs
    for line in found.lines:
        module = thin.get_submodule(line.layer)
        assert (line.after, line.macs_after) == (module.out_channels, macs[line.layer])
        assert line.frozen == sum(line.why.values()) <= line.after
    attention = [macs[path] for path in macs if path not in convs]
    assert found.elsewhere[1] == sum(attention)
    assert (found.elsewhere[0] > 0) == (name == "yolo11n.yaml")
    (limit,) = found.limits
    assert (limit.name, limit.asked, limit.holds) == ("percent", 0.4, True)


def test_a_small_one_by_hand() -> None:
    model = nets.randomised(nets.Depthwise())
    graph = nets.traced(model)
    budget = Budget(percent=0.99, macs=1000, params=300, min_channels=2, max_layer_prune=1)
    plan = PrunePlan(
        criterion="mine", budget=budget, reached=NONE,
        layers={"a.0": (1, 2)},
    )  # fmt: skip
    found = outline(model, graph, plan, count(model, 32))
    rows = {line.layer: (line.before, line.after, line.macs_after) for line in found.lines}
    assert rows == {  # 32 × 32 places
        "a.0": (8, 6, 1024 * 27 * 6),
        "dw.0": (8, 6, 1024 * 9 * 6),
        "wide.0": (16, 12, 1024 * 9 * 12),
        "out": (4, 4, 1024 * 12 * 4),
    }
    assert found.lines[-1].why == {"output of the model": 4}
    # Weights and BatchNorms of 6, 6 and 12 channels, and the last one's bias.
    params = 6 * 27 + 6 * 9 + 12 * 9 + 12 * 4 + 4 + 2 * (6 + 6 + 12)
    assert found.after.params == params == 424
    assert [(limit.name, limit.reached, limit.holds) for limit in found.limits[1:]] == [
        ("macs", sum(macs for *_, macs in rows.values()), False),
        ("params", 424, False),
    ]


def test_milliseconds_stand_beside_where_somebody_knows_them() -> None:
    model = nets.randomised(nets.Chain())
    graph = nets.traced(model)
    plan = planned(graph, Budget(percent=0.3, min_channels=2, round_to=1))

    def known(path: str, kept: BoolArray) -> float | None:
        return None if path == "out" else float(kept.sum())

    size = count(model, 16)
    timed = outline(model, graph, plan, size, known)
    total = graph.n_units
    first, last = timed.lines[0], timed.lines[-1]
    assert (first.ms_before, first.ms_after) == (total, total - plan.reached.units)
    assert (last.ms_before, last.ms_after) == (None, None)
    record = json.loads(json.dumps(timed.to_dict()))
    assert record["layers"][0]["ms_before"] == total
    assert "ms_before" not in record["layers"][-1]
    assert "ms_before" not in str(outline(model, graph, plan, size).to_dict())


class _Clock:
    """A layer takes a millisecond for each unit of the network that is kept."""

    def ms(self, kept: BoolArray) -> float:
        return float(kept.sum())

    def by_module(self, kept: BoolArray) -> dict[str, float]:
        return {"a.0": self.ms(kept)}


def test_a_clock_fills_the_column_and_its_limit_is_told() -> None:
    model = nets.randomised(nets.Chain())
    graph = nets.traced(model)
    budget = Budget(latency=17_000, min_channels=2)
    plan = PrunePlan(criterion="mine", budget=budget, reached=NONE, layers={"a.0": (1, 2)})
    size = count(model, 16)
    timed = outline(model, graph, plan, size, clock=_Clock())  # type: ignore[arg-type]
    assert [line.ms_before for line in timed.lines] == [18, None, None]  # 8 + 6 + 4 units
    assert timed.lines[0].ms_after == 16
    (limit,) = timed.limits
    assert (limit.name, limit.reached, limit.holds) == ("latency", 16_000, True)
    # Who reads a plan elsewhere has no clock, and is told what can be told.
    assert outline(model, graph, plan, size).limits == ()
