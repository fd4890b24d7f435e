"""Which criterion is taken where the user leaves it open, and the order of measured error."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nets import Chain
from torch import Tensor, nn

from yoloprune.channels import trace
from yoloprune.errors import PlanError
from yoloprune.prune.budget import Budget
from yoloprune.prune.choose import (
    Scope,
    alive_warning,
    choose_scores,
    parse_scope,
    within_groups,
)
from yoloprune.prune.planner import Planner
from yoloprune.prune.recon import removal_order
from yoloprune.prune.score import Scores

BUDGET = Budget(percent=0.4, min_channels=1)


def pictures() -> Tensor:
    return torch.rand(6, 3, 24, 24, generator=torch.Generator().manual_seed(1))


def alive() -> nn.Module:
    torch.manual_seed(0)
    model = Chain()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.8, 1.2)
    return model.eval()


def sparse() -> nn.Module:
    model = alive()
    with torch.no_grad():
        for norm in (model.a[1], model.b[1]):
            norm.weight[: norm.num_features // 2] = 0
            norm.bias[: norm.num_features // 2] = 0
    return model


@pytest.mark.parametrize(
    ("make", "given", "criterion", "scope"),
    [
        (sparse, True, "gamma", "global"),
        (sparse, False, "gamma", "global"),
        (alive, True, "recon", "local"),
        (alive, False, "l2", "local"),
    ],
)
def test_what_is_left_open_suits_the_network(
    make: type[nn.Module], given: bool, criterion: str, scope: str
) -> None:
    model = make()
    chosen = choose_scores(model, trace(model), BUDGET, pictures=pictures() if given else None)
    assert (chosen.scores.criterion, chosen.scope) == (criterion, scope)
    assert chosen.compares is (scope == "global")


def test_what_is_asked_for_is_done() -> None:
    model = alive()
    graph = trace(model)
    chosen = choose_scores(model, graph, BUDGET, criterion="l1", pictures=pictures())
    assert (chosen.scores.criterion, chosen.scope, chosen.why) == ("l1", "global", "as asked")
    local = choose_scores(model, graph, BUDGET, criterion="l1", scope="local")
    np.testing.assert_array_equal(local.scores.values, within_groups(chosen.scores, graph).values)


@pytest.mark.parametrize(
    ("criterion", "scope", "given", "message"),
    [
        ("recon", None, False, "--criterion recon: looks at pictures. Name some with --calib."),
        ("recon", "global", True, "--scope global: recon compares channels within their groups"),
        ("recon", "isomorphic", True, "--scope isomorphic: recon compares channels within their"),
        ("fisher", None, False, "--criterion fisher: looks at pictures. Name some with --calib."),
        ("best", None, True, "--criterion: unknown, got 'best', expected gamma, .*, recon"),
    ],
)
def test_what_cannot_be_is_refused(
    criterion: str, scope: str | None, given: bool, message: str
) -> None:
    model = alive()
    with pytest.raises(PlanError, match=message):
        choose_scores(
            model, trace(model), BUDGET, criterion=criterion, scope=parse_scope(scope),
            pictures=pictures() if given else None,
        )  # fmt: skip
    with pytest.raises(
        PlanError, match="--scope: unknown, got 'wide', expected global, local, isomorphic"
    ):
        parse_scope("wide")


@pytest.mark.parametrize("criterion", ["gamma", "lamp", "l2"])
@pytest.mark.parametrize("scope", ["global", "local"])
def test_only_the_scales_say_that_a_cut_is_free(criterion: str, scope: Scope) -> None:
    """LAMP scores spread over decades, and say nothing of what is switched off."""
    for model, free in ((sparse(), True), (alive(), False)):
        with torch.no_grad():
            for layer in (model.a, model.b):  # what is switched off has the lowest weights, too
                layer[0].weight[layer[1].weight == 0] *= 1e-3
        graph = trace(model)
        chosen = choose_scores(model, graph, BUDGET, criterion=criterion, scope=scope)
        assert chosen.compares is (scope == "global" and criterion != "lamp")
        remove = Planner(graph).choose(chosen.scores, BUDGET)
        assert (alive_warning(model, graph, chosen, remove) is None) is free


def test_every_group_loses_the_same_share() -> None:
    model = alive()
    graph = trace(model)
    rng = np.random.default_rng(0)
    values = rng.random(graph.n_units) * np.where(np.arange(graph.n_units) < 8, 1, 1000)
    scores = within_groups(Scores(values=values, criterion="mine"), graph)
    remove = Planner(graph).choose(scores, Budget(percent=0.5, min_channels=1))
    gone = np.isin(np.arange(graph.n_units), remove)
    shares = [gone[g.units].mean() for g in graph.groups if graph.prunable[g.units].all()]
    assert shares == [0.5, 0.5]
    for group in graph.groups:
        order = np.argsort(values[group.units])
        assert (np.diff(scores.values[group.units][order]) > 0).all()


def test_copies_go_first_and_the_last_of_them_late() -> None:
    """Channels 4 … 7 of ``a`` are 0 … 3 again: either of a pair is free, both are not."""
    model = alive()
    with torch.no_grad():
        model.a[0].weight[4:] = model.a[0].weight[:4]
        for tensor in (model.a[1].weight, model.a[1].bias):
            tensor[4:] = tensor[:4]
    graph = trace(model)
    scores = removal_order(model, graph, pictures())
    units = next(a for a in graph.out_axes if a.module == "a.0").units.ravel()
    first = np.argsort(scores.values[units])[:4]
    assert sorted(first % 4) == [0, 1, 2, 3]


def test_what_nothing_reads_strongly_goes_first() -> None:
    model = alive()
    with torch.no_grad():
        model.b[0].weight[:, 5] *= 1e-3
        model.out.weight[:, 2] *= 1e-3
    graph = trace(model)
    values = removal_order(model, graph, pictures()).values
    for path, channel in (("a.0", 5), ("b.0", 2)):
        units = next(a for a in graph.out_axes if a.module == path).units.ravel()
        assert np.argmin(values[units]) == channel
        assert np.sort(values[units]) == pytest.approx((np.arange(len(units)) + 0.5) / len(units))
