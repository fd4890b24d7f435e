"""Budgets: what they ask, that the planner meets it and takes no more than it must."""

from __future__ import annotations

import numpy as np
import pytest
from random_nets import RandomNet
from torch import nn

from yoloprune.channels import trace
from yoloprune.channels.graph import BoolArray, ChannelGraph
from yoloprune.errors import PlanError
from yoloprune.measure.size import count
from yoloprune.models.door import load
from yoloprune.prune.budget import Budget
from yoloprune.prune.cost import Costs
from yoloprune.prune.cut import cut_units
from yoloprune.prune.planner import Planner
from yoloprune.prune.score import Scores


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "budget: is empty. Give --percent, --macs, --params, --bytes or --latency"),
        ({"percent": 1.0}, "--percent: must be above 0 and below 1, got 1.0"),
        ({"macs": 1}, "--macs: must be a share between 0 and 1, or an amount, got 1"),
        ({"params": -3.0}, "--params: must be a share"),
        ({"bytes": float("nan")}, "--bytes: must be a share"),
        ({"macs": 0.5, "precision": "fp8"}, "--precision: unknown, got 'fp8', expected fp32, fp16"),
        ({"macs": 0.5, "round_to": 0}, "--round-to: must be a whole number"),
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Budget(**values)  # type: ignore[arg-type]


def test_words() -> None:
    budget = Budget(percent=0.3, macs=0.5, bytes=2e6, precision="int8")
    words = "30.0% of the channels gone, at most 50.0% of the multiply-adds, at most 2,000,000 int8"
    assert budget.asked == f"{words} bytes"


class Case:
    """A network with random scores, and what plans of it cost."""

    def __init__(self, model: nn.Module, side: int, seed: int) -> None:
        self.model, self.side = model, side
        self.graph: ChannelGraph = trace(model)
        self.costs = Costs(model, self.graph, count(model, side))
        self.planner = Planner(self.graph, self.costs)
        values = np.random.default_rng(seed).random(self.graph.n_units)
        self.scores = Scores(values=values, criterion="random")

    def kept(self, budget: Budget) -> BoolArray:
        mask = np.ones(self.graph.n_units, dtype=bool)
        mask[self.planner.choose(self.scores, budget)] = False
        return mask


@pytest.fixture(scope="module")
def case() -> Case:
    return Case(load("yolov8n.yaml")[0], 64, 0)


@pytest.mark.parametrize("name", ["macs", "params", "bytes"])
@pytest.mark.parametrize("share", [0.8, 0.5, 0.2])
@pytest.mark.parametrize("round_to", [1, 8])
def test_a_limit_holds_and_little_more_goes(
    case: Case, name: str, share: float, round_to: int
) -> None:
    budget = Budget(**{name: share}, round_to=round_to)  # type: ignore[arg-type]
    there = case.costs.limited(case.kept(budget), budget)[name]
    limit = case.costs.limits(budget)[name]
    assert (0.98 if round_to == 1 else 0.94) * limit < there <= limit


def test_with_one_bundle_less_it_does_not_hold(case: Case) -> None:
    kept = case.kept(Budget(macs=0.5))
    best = np.flatnonzero(~kept)[np.argmax(case.scores.values[~kept])]
    back = kept.copy()
    back[best] = True
    half = case.costs.full.macs / 2
    assert case.costs.macs(kept) <= half < case.costs.macs(back)


def test_an_amount_is_the_share_that_it_is(case: Case) -> None:
    full = case.costs.full
    shares = Budget(macs=0.5, params=0.4), Budget(bytes=0.3, precision="int8")
    amounts = (
        Budget(macs=full.macs / 2, params=0.4 * full.params),
        Budget(bytes=0.3 * full.bytes["int8"], precision="int8"),
    )
    for a, b in zip(shares, amounts, strict=True):
        np.testing.assert_array_equal(case.kept(a), case.kept(b))


def test_of_several_limits_all_hold_and_the_tightest_binds(case: Case) -> None:
    both = Budget(percent=0.1, macs=0.5, params=0.2)
    np.testing.assert_array_equal(case.kept(both), case.kept(Budget(params=0.2)))
    assert case.costs.macs(case.kept(both)) < 0.5 * case.costs.full.macs
    more = Budget(percent=0.7, macs=0.9)
    np.testing.assert_array_equal(case.kept(more), case.kept(Budget(percent=0.7)))


def test_what_is_counted_is_what_the_cut_model_has(case: Case) -> None:
    budget = Budget(macs=0.4, params=0.5, round_to=8)
    plan = case.planner.plan(case.scores, budget)
    thin = cut_units(case.model, case.graph, plan.remove(case.graph), compensate=False)
    size, full = count(thin, case.side), case.costs.full
    assert size.macs <= 0.4 * full.macs
    assert size.params <= 0.5 * full.params
    assert not plan.notes


def test_a_limit_that_floors_do_not_allow_is_told(case: Case) -> None:
    plan = case.planner.plan(case.scores, Budget(macs=0.01, max_layer_prune=0.5))
    there = case.costs.macs(case.kept(Budget(macs=0.01, max_layer_prune=0.5)))
    asked = f"asked for at most {0.01 * case.costs.full.macs:,.0f} multiply-adds"
    told = f"{asked}, reached {there:,} multiply-adds: the rest is held by --min-channels 8"
    assert told in plan.notes[0]


def test_a_limit_that_holds_already_is_told(case: Case) -> None:
    with pytest.raises(PlanError, match="nothing is to go, the network has at most 9,000,000,000 "):
        case.planner.plan(case.scores, Budget(params=9e9))


def test_a_planner_that_knows_no_costs_says_so(case: Case) -> None:
    with pytest.raises(PlanError, match="what plans cost is not known here"):
        Planner(case.graph).choose(case.scores, Budget(macs=0.5))


@pytest.mark.parametrize("seed", range(6))
def test_on_random_networks(seed: int) -> None:
    case = Case(RandomNet(seed).eval(), 16, seed)
    budget = Budget(params=0.6, min_channels=1)
    kept = case.kept(budget)
    everything = case.kept(Budget(params=1e-9, min_channels=1))
    if case.costs.params(everything) <= 0.6 * case.costs.full.params:
        assert case.costs.params(kept) <= 0.6 * case.costs.full.params
    else:
        np.testing.assert_array_equal(kept, everything)
