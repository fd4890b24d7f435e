"""Shares by a knapsack: nothing that holds the limits loses less."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from yoloprune.channels import trace
from yoloprune.channels.graph import ChannelGraph
from yoloprune.measure.size import count
from yoloprune.prune.budget import Budget
from yoloprune.prune.calibrate import shared_out
from yoloprune.prune.choose import Choice
from yoloprune.prune.cost import Costs
from yoloprune.prune.knapsack import _ladder, knapsack
from yoloprune.prune.planner import Planner
from yoloprune.prune.score import Scores
from yoloprune.prune.sensitivity import parts

SIDE = 16


class Fork(nn.Module):
    """Branches whose costs do not depend on each other: 16 channels each, kernels of 1, 3 and 5."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.into = nn.ModuleList(nn.Conv2d(3, 16, k, padding=k // 2) for k in (1, 3, 5))
        self.out = nn.ModuleList(nn.Conv2d(16, 4, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return sum(
            (b(torch.relu(a(x))) for a, b in zip(self.into, self.out, strict=True)),
            torch.zeros(()),
        )


@pytest.fixture
def fork() -> tuple[Planner, Scores]:
    """Its planner, and losses that rise by 1, 4 and 9 to the end of each branch."""
    model = Fork().eval()
    graph = trace(model)
    values = np.full(graph.n_units, np.nan)
    for part, steep in zip(parts(graph), (1.0, 4.0, 9.0), strict=True):
        values[part.units] = steep * np.arange(1, part.units.size + 1) / part.units.size
    scores = Scores(values=values, criterion="sensitivity", missing="none")
    return Planner(graph, Costs(model, graph, count(model, SIDE))), scores


def lost(planner: Planner, scores: Scores, remove: np.ndarray) -> float:
    """Sum of squares of what each part loses."""
    gone = [scores.values[np.intersect1d(remove, part.units)] for part in parts(planner.graph)]
    return sum(float(values.max()) ** 2 for values in gone if values.size)


def kept_of(graph: ChannelGraph, remove: np.ndarray) -> np.ndarray:
    kept = np.ones(graph.n_units, dtype=bool)
    kept[remove] = False
    return kept


@pytest.mark.parametrize("limits", [{"macs": 0.7}, {"params": 0.6}, {"macs": 0.5, "params": 0.6}])
def test_no_other_widths_lose_less(fork: tuple[Planner, Scores], limits: dict[str, float]) -> None:
    planner, scores = fork
    budget = Budget(**limits, min_channels=1, max_layer_prune=1.0)
    assert planner.costs is not None
    most = planner.costs.limits(budget)

    def holds(remove: np.ndarray) -> bool:
        there = planner.costs.limited(kept_of(planner.graph, remove), budget)  # type: ignore[union-attr]
        return all(there[name] <= most[name] for name in there)

    remove = planner.choose(knapsack(planner, scores, budget), budget)
    assert holds(remove)
    ladders = [_ladder(planner, part.units, scores, budget) for part in parts(planner.graph)]
    every = (np.concatenate([width.remove for width in widths]) for widths in product(*ladders))
    least = min(lost(planner, scores, found) for found in every if holds(found))
    assert lost(planner, scores, remove) <= least * (1 + 1e-3)
    alone = planner.choose(scores, budget)
    assert lost(planner, scores, remove) < lost(planner, scores, alone)  # than one threshold


def test_channels_of_a_part_go_in_their_order(fork: tuple[Planner, Scores]) -> None:
    planner, scores = fork
    budget = Budget(macs=0.6, min_channels=1)
    remove = planner.choose(knapsack(planner, scores, budget), budget)
    for part in parts(planner.graph):
        gone = np.isin(part.units, remove)
        assert not gone[np.argmin(gone) :].any()  # the lowest scores first


def test_widths_are_multiples(fork: tuple[Planner, Scores]) -> None:
    planner, scores = fork
    budget = Budget(macs=0.6, round_to=4, min_channels=1)
    remove = planner.choose(knapsack(planner, scores, budget), budget)
    assert remove.size
    for part in parts(planner.graph):
        assert int((~np.isin(part.units, remove)).sum()) % 4 == 0


def test_what_is_out_of_reach_leaves_the_scores(fork: tuple[Planner, Scores]) -> None:
    planner, scores = fork
    budget = Budget(macs=0.01, min_channels=8)
    assert knapsack(planner, scores, budget) is scores


def test_only_curves_under_limits_are_shared_out(fork: tuple[Planner, Scores]) -> None:
    planner, scores = fork
    budget = Budget(macs=0.6, min_channels=1)
    choice = Choice(
        scores=scores, scope="global", why="", compares=False, budget=budget, curves=True
    )
    made = shared_out(planner, choice, budget)
    assert np.array_equal(made.values, knapsack(planner, scores, budget).values, equal_nan=True)
    assert shared_out(planner, replace(choice, curves=False), budget) is scores
    assert shared_out(planner, choice, Budget(percent=0.5)) is scores


def test_unscored_channels_stay(fork: tuple[Planner, Scores]) -> None:
    planner, scores = fork
    values = scores.values.copy()
    part = parts(planner.graph)[2]
    values[part.units] = np.nan
    budget = Budget(macs=0.8, min_channels=1)
    made = knapsack(planner, replace(scores, values=values), budget)
    assert np.isnan(made.values[part.units]).all()
    assert not np.isin(part.units, planner.choose(made, budget)).any()
