"""A plan that is read: carried out as it says, counted anew, and told where it does not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nets
import numpy as np
import pytest

from yoloprune.channels.graph import ChannelGraph
from yoloprune.errors import PlanError
from yoloprune.prune.budget import Budget
from yoloprune.prune.given import choice_of, given_plan
from yoloprune.prune.plan import Origin, PrunePlan
from yoloprune.prune.planner import Planner
from yoloprune.prune.score import Scores

HERE = Origin(path="net.weights", sha256="ab" * 32)


@pytest.fixture
def graph() -> ChannelGraph:
    return nets.traced(nets.randomised(nets.Residual()))


@pytest.fixture
def plan(graph: ChannelGraph) -> PrunePlan:
    scores = Scores(values=np.arange(graph.n_units) / 100.0, criterion="l1")
    budget = Budget(percent=0.3, min_channels=3)
    made = Planner(graph).plan(scores, budget, HERE)
    assert made.layers == {"a.0": (0, 1, 2, 3), "c.0": (0, 1, 2, 3)}
    return replace(made, notes=("held by something",))


def test_what_was_not_edited_comes_out_the_same(
    graph: ChannelGraph, plan: PrunePlan, tmp_path: Path
) -> None:
    plan.write(tmp_path / "p.json")
    assert given_plan(tmp_path / "p.json", graph, HERE) == plan


def test_what_was_edited_is_counted_anew(
    graph: ChannelGraph, plan: PrunePlan, tmp_path: Path
) -> None:
    rows = {"a.0": (0, 1, 2, 3, 4, 6), "b.0": (5,), "c.0": (0, 1, 2, 3, 4, 6)}
    replace(plan, layers=rows, budget=replace(plan.budget, round_to=2)).write(tmp_path / "p.json")
    made = given_plan(tmp_path / "p.json", graph, HERE)
    assert made.layers == rows
    # a and c make 8 channels each, b 6; the 4 of out must stay.
    assert (made.reached.channels, made.reached.prunable_channels) == (13, 22)
    assert made.reached.percent == pytest.approx(13 / 22)
    assert (made.reached.units, made.reached.threshold) == (7, 0.0)
    assert made.notes == (
        "p.json: was edited: it takes 13 channels, and 8 when it was made.",
        "p.json: fewer than 3 channels are kept in a.0 and 1 more, against the plan's own budget.",
        "p.json: the kept channels are no multiple of 2 in b.0, against the plan's own budget.",
    )


def test_no_row_is_nothing_to_do(graph: ChannelGraph, plan: PrunePlan, tmp_path: Path) -> None:
    replace(plan, layers={}).write(tmp_path / "p.json")
    made = given_plan(tmp_path / "p.json", graph, HERE)
    assert (made.layers, made.reached.channels, made.reached.percent) == ({}, 0, 0.0)


def test_another_file_is_told(graph: ChannelGraph, plan: PrunePlan, tmp_path: Path) -> None:
    plan.write(tmp_path / "p.json")
    there = Origin(path="net.weights", sha256="cd" * 32)
    made = given_plan(tmp_path / "p.json", graph, there)
    assert made.source == there
    assert "was made for net.weights (whose contents were others), and is applied" in made.notes[-1]
    other = given_plan(tmp_path / "p.json", graph, replace(there, path="b.pt"))
    assert "was made for net.weights (another file), and is applied to b.pt" in other.notes[-1]


def test_contradictions_name_the_file(graph: ChannelGraph, plan: PrunePlan, tmp_path: Path) -> None:
    replace(plan, layers={"out": (0,)}).write(tmp_path / "p.json")
    with pytest.raises(PlanError, match=r"p\.json: out: channel 0 must stay"):
        given_plan(tmp_path / "p.json", graph, HERE)


def test_nothing_was_scored(graph: ChannelGraph, plan: PrunePlan) -> None:
    choice = choice_of(plan, graph, Path("x/p.json"))
    assert np.isnan(choice.scores.values).all()
    assert (choice.scope, choice.compares, choice.why) == (None, False, "as p.json says")
