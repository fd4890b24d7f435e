"""Plans edited at random: carried out exactly as they say, or refused by the name of a layer.

The oracle is a check with plain loops over the graph, and the cut itself.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn
from ultralytics.nn.tasks import DetectionModel

from yoloprune.channels import trace
from yoloprune.channels.graph import ChannelGraph
from yoloprune.errors import PlanError
from yoloprune.models.door import load
from yoloprune.prune.budget import Budget
from yoloprune.prune.cut import cut_units, self_test
from yoloprune.prune.given import given_plan
from yoloprune.prune.plan import Origin, PrunePlan
from yoloprune.prune.planner import Planner
from yoloprune.prune.score import Scores

HERE = Origin(path="net.pt", sha256="ab" * 32)
Rows = list[tuple[str, list[int]]]
"""Of a plan file; a list, since an edit may write a layer twice."""


@dataclass
class Net:
    """A network, plans of it, and how many edits of them came to what."""

    model: nn.Module
    graph: ChannelGraph = field(init=False)
    plans: list[PrunePlan] = field(init=False)
    seen: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.model = nets.randomised(self.model).double()
        self.graph = trace(self.model)
        planner = Planner(self.graph)
        self.plans = []
        for seed, percent in enumerate((0.15, 0.3, 0.5)):
            values = np.random.default_rng(seed).random(self.graph.n_units)
            budget = Budget(percent=percent, min_channels=2)
            scores = Scores(values=values, criterion="random")
            self.plans.append(planner.plan(scores, budget, HERE))


def ultralytics() -> nn.Module:
    yaml = DetectionModel("yolov8n.yaml", verbose=False).yaml
    narrow = {"scales": {"n": [0.33, 0.125, 1024]}, "scale": "n", "nc": 3}
    return DetectionModel({**yaml, **narrow}, verbose=False)


def darknet() -> nn.Module:
    return load("yoloprune-demo.cfg", scratch=True)[0]  # grouped routes, as in yolov4-tiny


@pytest.fixture(scope="module", params=[ultralytics, darknet], ids=lambda make: make.__name__)
def net(request: pytest.FixtureRequest) -> Net:
    return Net(request.param())


def fits(graph: ChannelGraph, rows: Rows) -> bool:
    """Whether a plan can be carried out, by plain loops."""
    units = {axis.module: axis.units.ravel().tolist() for axis in graph.out_axes}
    if len({path for path, _ in rows}) < len(rows):
        return False
    gone: set[int] = set()
    for path, lost in rows:
        if path not in units or not lost or lost != sorted(set(lost)):
            return False
        if lost[0] < 0 or lost[-1] >= len(units[path]):
            return False
        gone |= {units[path][i] for i in lost}
    named = dict(rows)
    for path, made in units.items():
        if [i for i, unit in enumerate(made) if unit in gone] != named.get(path, []):
            return False
    parts = [row for axis in graph.axes for row in np.atleast_2d(axis.units).tolist()]
    parts += [item.units.tolist() for item in graph.fields]
    for balance in graph.balances:
        if len({len([u for u in part.tolist() if u in gone]) for part in balance.parts}) > 1:
            return False
    return gone.isdisjoint(graph.frozen) and all(set(part) - gone for part in parts if part)


def edit(data: st.DataObject, graph: ChannelGraph, rows: Rows) -> None:
    """One thing that a hand, or an accident, does to the rows of a plan."""
    widths = {axis.module: axis.units.size for axis in graph.out_axes}

    def layer() -> str:
        return data.draw(st.sampled_from(list(widths)), "layer")

    def row() -> tuple[str, list[int]]:
        return data.draw(st.sampled_from(rows), "row")

    def add(path: str, index: int) -> None:
        for name, lost in rows:
            if name == path:
                lost[:] = sorted({*lost, index})
                return
        rows.append((path, [index]))

    def drop() -> None:
        lost = row()[1]
        if len(lost) > 1:
            lost.pop(data.draw(st.integers(0, len(lost) - 1)))

    def more() -> None:
        path = layer()
        add(path, data.draw(st.integers(0, widths[path] - 1)))

    def swap() -> None:
        path, lost = row()
        kept = sorted(set(range(widths.get(path, 99))) - set(lost))
        if kept and lost:
            lost[data.draw(st.integers(0, len(lost) - 1))] = data.draw(st.sampled_from(kept))
            lost.sort()

    def rename() -> None:
        i = rows.index(row())
        path, lost = rows[i]
        rows[i] = (data.draw(st.sampled_from([path[:-1], f"{path}x", f"{path}.0", layer()])), lost)

    def odd() -> None:
        path, lost = row()
        just_beyond = widths.get(path, 0)
        lost.append(data.draw(st.sampled_from([just_beyond, just_beyond, -1, -(2**70), 2**63])))
        if data.draw(st.booleans()):
            lost.sort()

    def one_side() -> None:
        """One channel more on one side of a balance, in every layer that makes it."""
        balance = data.draw(st.sampled_from(graph.balances))
        side = data.draw(st.sampled_from(balance.parts))
        take(int(side[data.draw(st.integers(0, 999)) % side.size]))

    def every_channel() -> None:
        path = layer()
        made = {axis.module: axis.units.ravel() for axis in graph.out_axes}
        for unit in made[path]:
            take(int(unit))

    def move() -> None:
        lost = row()[1]
        if len(lost) > 1:
            add(layer(), lost.pop())

    def take(unit: int) -> None:
        """All channels of one unit, as an able editor does."""
        for axis in graph.out_axes:
            for i in np.flatnonzero(axis.units.ravel() == unit):
                add(axis.module, int(i))

    def whole_unit() -> None:
        take(data.draw(st.integers(0, graph.n_units - 1)))

    changes: dict[str, Callable[[], Any]] = {
        "drop": drop,
        "more": more,
        "swap": swap,
        "rename": rename,
        "odd": odd,
        "move": move,
        "whole unit": whole_unit,
        "what must stay": lambda: take(data.draw(st.sampled_from(sorted(graph.frozen)))),
        "one side": one_side,
        "every channel": every_channel,
        "empty": lambda: row()[1].clear(),
        "twice": lambda: rows.append((row()[0], list(row()[1]))),
        "shuffle": lambda: row()[1].reverse(),
        "without": lambda: rows.remove(row()),
    }
    if rows and all(lost for _, lost in rows):
        changes[data.draw(st.sampled_from(list(changes)), "edit")]()


def written(plan: PrunePlan, rows: Rows) -> str:
    """The plan file with these rows."""
    head = json.loads(plan.to_json())
    head["layers"] = "HERE"
    body = ", ".join(f"{json.dumps(path)}: {json.dumps(lost)}" for path, lost in rows)
    return json.dumps(head).replace('"HERE"', f"{{{body}}}")


def check(net: Net, file: Path, data: st.DataObject) -> None:
    """Edit a plan, and see what becomes of it."""
    plan = data.draw(st.sampled_from(net.plans))
    rows = [(path, list(lost)) for path, lost in plan.layers.items()]
    for _ in range(data.draw(st.sampled_from([1, 1, 1, 2, 3]), "edits")):
        edit(data, net.graph, rows)
    file.write_text(written(plan, rows))
    if not fits(net.graph, rows):
        net.seen["refused"] += 1
        with pytest.raises(PlanError) as refused:
            given_plan(file, net.graph, HERE)
        told = str(refused.value)
        assert told.startswith(f"{file}: ")
        assert any(path in told for path, _ in rows), told
        return
    net.seen["carried out"] += 1
    made = given_plan(file, net.graph, HERE)
    assert made.layers == {path: tuple(lost) for path, lost in rows}
    assert made.reached.channels == sum(len(lost) for _, lost in rows)
    remove = made.remove(net.graph)
    thin = cut_units(net.model, net.graph, remove, compensate=False)
    for axis in net.graph.out_axes:
        width = thin.get_parameter(axis.tensor).shape[axis.dim]
        assert width == axis.units.size - len(made.layers.get(axis.module, ()))
    assert self_test(net.model, net.graph, remove, thin).max_rel_diff <= 1e-9


def run(net: Net, file: Path, examples: int) -> None:
    net.seen.clear()

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def every_edit(data: st.DataObject) -> None:
        check(net, file, data)

    every_edit()
    # The test would be empty if nearly all edits came to the same.
    assert min(net.seen["refused"], net.seen["carried out"]) > examples / 8, net.seen


def test_random_edits(net: Net, tmp_path: Path) -> None:
    run(net, tmp_path / "p.json", 50)


@pytest.mark.slow
def test_many_random_edits(net: Net, tmp_path: Path) -> None:
    run(net, tmp_path / "p.json", 500)
