"""Which groups have one structure, and that each such class loses the same share."""

from __future__ import annotations

import nets
import numpy as np
import pytest
from torch import Tensor, nn

from yoloprune.channels.graph import ChannelGraph
from yoloprune.prune.budget import Budget
from yoloprune.prune.choose import choose_scores, within
from yoloprune.prune.isomorphic import isomorphic_classes
from yoloprune.prune.planner import Planner
from yoloprune.prune.score import Scores


class Stages(nn.Module):
    """Two residual blocks and a chain: ``b`` and ``d`` are alike, ``a`` and ``c`` are not."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.b2 = nets.conv(3, 8), nets.conv(8, 12), nets.conv(12, 8)
        self.c, self.d, self.d2 = nets.conv(8, 10), nets.conv(10, 20), nets.conv(20, 10)
        self.point, self.deep = nets.conv(10, 6, 1), nets.conv(6, 6, groups=6)
        self.out = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = self.c(x + self.b2(self.b(x)))
        x = x + self.d2(self.d(x))
        return self.out(self.deep(self.point(x)))


def classes(model: nn.Module) -> tuple[list[set[str]], ChannelGraph]:
    graph = nets.traced(model)
    found = []
    for units in isomorphic_classes(model, graph):
        layers = {a.module for a in graph.out_axes if np.isin(a.units, units).all()}
        found.append({path.partition(".")[0] for path in layers})
    return found, graph


def test_groups_of_one_structure_are_one_class() -> None:
    found, graph = classes(Stages())
    # c's group is read by a 3 × 3 and a 1 × 1, a's by two 3 × 3.
    assert found == [{"a", "b2"}, {"b", "d"}, {"c", "d2"}, {"point"}]
    assert graph.prunable.sum() == 8 + 12 + 20 + 10 + 6


@pytest.mark.parametrize("k", [1, 5])
def test_the_kernel_tells_structures_apart(k: int) -> None:
    class Apart(Stages):
        def __init__(self) -> None:
            super().__init__()
            self.d = nets.conv(10, 20, k)

    found, _ = classes(Apart())
    assert {"b"} in found and {"d"} in found


def test_each_class_loses_the_same_share_by_one_threshold_of_its_own() -> None:
    model = nets.randomised(Stages())
    graph = nets.traced(model)
    rng = np.random.default_rng(0)
    of = {a.module: a.units for a in graph.out_axes}
    values = rng.random(graph.n_units)
    values[of["a.0"]] += 1000  # which does not matter, for nothing is like it
    values[of["d.0"]] += 0.5
    members = isomorphic_classes(model, graph)
    scores = within(Scores(values=values, criterion="mine"), members)
    remove = Planner(graph).choose(scores, Budget(percent=0.5, min_channels=1))
    gone = np.isin(np.arange(graph.n_units), remove)
    for units in members:
        assert gone[units].mean() == pytest.approx(0.5, abs=1 / units.size)
        assert values[units][gone[units]].max() < values[units][~gone[units]].min()
    # One threshold for b and d together: b has the lower scores, and loses more.
    assert gone[of["b.0"]].mean() > 0.5 > gone[of["d.0"]].mean()


def test_the_scope_is_chosen_by_name() -> None:
    model = nets.randomised(Stages())
    graph = nets.traced(model)
    budget = Budget(percent=0.5, min_channels=1)
    chosen = choose_scores(model, graph, budget, criterion="l1", scope="isomorphic", reduce="sum")
    assert (chosen.scope, chosen.compares) == ("isomorphic", False)
    places = chosen.scores.values[graph.prunable]
    assert places.min() > 0 and places.max() < 1
    assert chosen.scores.reduce == "mean"  # a sum of places is none
    for units in isomorphic_classes(model, graph):
        assert np.sort(chosen.scores.values[units]) == pytest.approx(
            (np.arange(units.size) + 0.5) / units.size
        )
