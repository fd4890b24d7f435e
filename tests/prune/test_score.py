"""Scores against numbers that can be worked out by hand."""

from __future__ import annotations

import dataclasses
import time
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from yoloprune.channels.graph import ChannelGraph, Group, TensorAxis
from yoloprune.channels.trace import trace
from yoloprune.errors import PlanError
from yoloprune.prune import sighted  # noqa: F401  # fills the table
from yoloprune.prune.alive import are_alike, sparsity_warning
from yoloprune.prune.score import (
    CRITERIA,
    Looks,
    Scores,
    criterion,
    gamma_quantiles,
    reduce_by_label,
    score,
)


def graph_of(
    axes: list[tuple[str, str, list[int]]], frozen: dict[int, str] | None = None
) -> ChannelGraph:
    """A graph from ``(tensor, role, units)``."""
    made = tuple(
        TensorAxis(tensor=name, dim=0, role=role, units=np.array(units, dtype=np.int64))  # type: ignore[arg-type]
        for name, role, units in axes
    )
    n = 1 + max(int(axis.units.max()) for axis in made)
    group = Group(index=0, units=np.arange(n), layers=())
    return ChannelGraph(
        n_units=n, frozen=frozen or {}, axes=made, fields=(), balances=(), groups=(group,)
    )


def two_convs() -> tuple[nn.Module, ChannelGraph]:
    """Two convs whose outputs are added (units 0-2), and a third without BN (unit 3)."""
    model = nn.ModuleDict(
        {
            "a": nn.BatchNorm2d(3),
            "b": nn.SyncBatchNorm(3),
            "g": nn.GroupNorm(1, 3),
            "plain": nn.BatchNorm2d(3, affine=False),
        }
    )
    model["a"].weight.data = torch.tensor([-1.0, 2.0, 0.0])
    model["b"].weight.data = torch.tensor([3.0, -0.5, 0.25])
    nn.init.constant_(model["g"].weight, 100.0)
    graph = graph_of(
        [
            ("conv_a.weight", "out", [0, 1, 2]),
            ("a.weight", "affine", [0, 1, 2]),
            ("a.bias", "affine", [0, 1, 2]),
            ("a.running_mean", "affine", [0, 1, 2]),
            ("conv_b.weight", "out", [2, 1, 0]),
            ("b.weight", "affine", [2, 1, 0]),
            ("g.weight", "affine", [0, 1, 2]),
            ("conv_c.weight", "out", [3]),
        ]
    )
    return model, graph


@pytest.mark.parametrize(
    ("reduce", "expected"),
    [("mean", [0.625, 1.25, 1.5]), ("max", [1.0, 2.0, 3.0]), ("sum", [1.25, 2.5, 3.0])],
)
def test_gamma_is_aggregated_over_the_batchnorms_of_a_unit(
    reduce: str, expected: list[float]
) -> None:
    model, graph = two_convs()
    scores = score(model, graph, reduce=reduce)  # type: ignore[arg-type]
    assert scores.values.dtype == np.float64
    assert scores.values[:3].tolist() == expected
    assert np.isnan(scores.values[3])
    assert (scores.criterion, scores.reduce) == ("gamma", reduce)
    assert scores.missing == "no BatchNorm scale"


def test_the_model_is_not_touched() -> None:
    model, graph = two_convs()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    score(model, graph)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_reduce_by_label_gives_nan_to_labels_without_values() -> None:
    got = reduce_by_label(np.array([1.0, 3.0]), np.array([2, 2]), 4, "mean")
    assert np.array_equal(got, [np.nan, np.nan, 2.0, np.nan], equal_nan=True)


def test_quantiles_are_of_channels_that_may_go() -> None:
    model, graph = two_convs()
    found = gamma_quantiles(model, graph)  # 0 .25 .5 1 2 3
    assert (found["min"], found["p50"], found["max"]) == (0.0, 0.75, 3.0)
    frozen = graph_of([(a.tensor, a.role, a.units.tolist()) for a in graph.axes], {0: "x", 1: "x"})
    found = gamma_quantiles(model, frozen)  # 0 and 3 of unit 2
    assert (found["min"], found["p50"], found["max"]) == (0.0, 1.5, 3.0)


def test_wrong_input_is_refused_in_one_line() -> None:
    model, graph = two_convs()
    with pytest.raises(PlanError, match=r"^--criterion: unknown, got 'x', expected gamma"):
        score(model, graph, criterion="x")
    with pytest.raises(PlanError, match=r"^--reduce: unknown, got 'min', expected mean, max, sum"):
        score(model, graph, reduce="min")  # type: ignore[arg-type]
    fused = graph_of([("conv_a.weight", "out", [0, 1, 2])])
    with pytest.raises(PlanError, match="no BatchNorm scale.*fused"):
        score(model, fused)
    model["b"].weight.data[1] = float("nan")
    with pytest.raises(PlanError, match=r"^b\.weight: 1 of 3 scores are not finite"):
        score(model, graph)
    model["b"] = nn.BatchNorm2d(4)
    with pytest.raises(PlanError, match=r"^b\.weight: holds 4 scales, expected the 3"):
        score(model, graph)


def test_a_criterion_is_entered_once() -> None:
    with pytest.raises(ValueError, match="'gamma' is already taken"):
        criterion("gamma", missing="")(lambda model, graph, reduce: np.zeros(0))
    by = {looks: [n for n, c in CRITERIA.items() if c.looks == looks] for looks in get_args(Looks)}
    assert by == {
        "weights": ["gamma", "l1", "l2", "lamp", "fpgm", "random"],
        "pictures": ["activation", "recon"],
        "loss": ["taylor", "fisher", "hessian"],
    }


def test_criteria_that_look_at_pictures_ask_for_them() -> None:
    model, graph = row_net()
    for name in ("activation", "fisher"):
        with pytest.raises(PlanError, match=f"^--criterion {name}: looks at pictures. Name some"):
            score(model, graph, criterion=name)


def row_net() -> tuple[nn.Module, ChannelGraph]:
    """Units 0-2: rows of ``conv`` (and, reversed, of ``fc``); 3-4: columns of ``up``."""
    model = nn.ModuleDict(
        {
            "conv": nn.Conv2d(1, 3, (1, 2), bias=False),
            "fc": nn.Linear(2, 3),
            "up": nn.ConvTranspose2d(2, 2, 1),
        }
    )
    model["conv"].weight.data = torch.tensor([[3.0, -4.0], [0.0, 0.0], [6.0, 8.0]]).view(3, 1, 1, 2)
    model["fc"].weight.data = torch.tensor([[0.0, 1.0], [-3.0, 0.0], [0.0, 2.0]])
    model["up"].weight.data = torch.tensor([[1.0, 0.0], [-1.0, 6.0]]).view(2, 2, 1, 1)
    graph = graph_of(
        [("conv.weight", "out", [0, 1, 2]), ("fc.weight", "out", [2, 1, 0])],
    )
    up = TensorAxis(tensor="up.weight", dim=1, role="out", units=np.array([3, 4]))
    return model, dataclasses.replace(graph, n_units=6, axes=(*graph.axes, up))


# Of conv (3, 4), 0, (6, 8) and of fc 2, 3, 1, in the order of units 0 to 2.
ROW_SCORES = {
    # 7, 0, 14 by their mean 7; 2, 3, 1 by 2; the columns of up 2, 6 by 4.
    "l1": [(1 + 1) / 2, (0 + 1.5) / 2, (2 + 0.5) / 2, 0.5, 1.5],
    # 5, 0, 10 by 5; 2, 3, 1 by 2; sqrt 2 and 6 by half of their sum.
    "l2": [1, 0.75, 1.25, 2 * 2**0.5 / (6 + 2**0.5), 12 / (6 + 2**0.5)],
}


@pytest.mark.parametrize("name", ROW_SCORES)
def test_norms_of_rows_are_relative_to_their_layer(name: str) -> None:
    model, graph = row_net()
    scores = score(model, graph, criterion=name)
    assert scores.values[:5] == pytest.approx(ROW_SCORES[name])
    assert np.isnan(scores.values[5])
    assert scores.missing == "no layer that creates it"


def test_layers_of_any_scale_and_width_compare() -> None:
    model, graph = row_net()
    before = score(model, graph, criterion="l1").values
    with torch.no_grad():
        model["conv"].weight.mul_(1000)
    assert np.allclose(score(model, graph, criterion="l1").values, before, equal_nan=True)
    with torch.no_grad():
        model["conv"].weight.zero_()  # a dead layer scores zero, not NaN
    assert score(model, graph, criterion="l1").values[:3].tolist() == [0.5, 0.75, 0.25]


def test_fpgm_is_the_distance_to_the_others() -> None:
    model, graph = row_net()
    model["conv"].weight.data = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]]).view(3, 1, 1, 2)
    graph = graph_of([("conv.weight", "out", [0, 1, 2])])
    # 15, 10 and 15, by 40 / 3.
    values = score(model, graph, criterion="fpgm").values
    assert values == pytest.approx([1.125, 0.75, 1.125])


def test_rows_of_a_grouped_transposed_convolution() -> None:
    model = nn.ModuleDict({"up": nn.ConvTranspose2d(4, 4, 1, groups=2)})
    # Group 0 reads inputs 0-1, group 1 inputs 2-3; each has two outputs.
    weight = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0]])
    model["up"].weight.data = weight.view(4, 2, 1, 1)
    axis = TensorAxis(tensor="up.weight", dim=1, role="out", units=np.array([[0, 1], [2, 3]]))
    graph = graph_of([("up.weight", "out", [0, 1, 2, 3])])
    values = score(model, dataclasses.replace(graph, axes=(axis,)), criterion="l1").values
    assert values == pytest.approx(np.array([3, 30, 7, 70]) / 27.5)


def test_random_is_the_same_in_every_run_and_uniform() -> None:
    graph = graph_of([("conv.weight", "out", list(range(4000)))])
    values = score(nn.Identity(), graph, criterion="random").values
    assert np.array_equal(values, score(nn.Identity(), graph, criterion="random").values)
    assert values.min() >= 0 and values.max() < 1
    assert values.mean() == pytest.approx(0.5, abs=0.03) and np.unique(values).size == 4000


def test_rows_of_another_model_are_refused() -> None:
    model, graph = row_net()
    model["conv"] = nn.Conv2d(1, 4, 1)
    with pytest.raises(PlanError, match=r"^conv\.weight: has 4 output channels, expected the 3"):
        score(model, graph, criterion="l1")
    with pytest.raises(PlanError, match="no layer creates channels"):
        score(model, graph_of([("x.bias", "affine", [0])]), criterion="l2")


def _warn(values: np.ndarray, remove: np.ndarray) -> str | None:
    graph = graph_of([("conv.weight", "out", list(range(values.size)))])
    return sparsity_warning(Scores(values=values, criterion="gamma"), graph, remove)


def test_sparse_gammas_bring_no_warning() -> None:
    rng = np.random.default_rng(0)
    kept = rng.uniform(0.5, 1.5, 500)
    first = np.arange(500)
    assert _warn(np.r_[np.zeros(500), kept], first) is None  # made by a proximal step
    assert _warn(np.r_[rng.uniform(0, 0.02, 500), kept], first) is None  # left by a sub-gradient
    assert _warn(1e-3 * np.r_[np.zeros(500), kept], first) is None  # at any scale
    assert _warn(np.zeros(1000), first) is None
    assert _warn(kept, np.zeros(0, dtype=np.int64)) is None


def test_dense_gammas_bring_one_line_with_quantiles() -> None:
    values = np.linspace(0.5, 1.5, 1001)
    text = _warn(values, np.arange(500))
    assert text is not None
    assert text.startswith("not sparse: only 0 of the 500 channels to be removed are near zero")
    assert "min 0.5, p05 0.55, p25 0.75, p50 1, p75 1.25, p95 1.45, max 1.5" in text
    assert "\n" not in text


def test_a_plan_that_takes_live_channels_in_place_of_zeros_is_caught() -> None:
    values = np.r_[np.zeros(500), np.ones(500)]
    assert _warn(values, np.r_[np.arange(460), np.arange(500, 540)]) is None  # 92 % are off
    text = _warn(values, np.r_[np.arange(400), np.arange(500, 600)])
    assert text is not None
    assert "only 400 of the 500" in text


def test_channels_cost_next_to_nothing() -> None:
    # no loop over channels: sixteen times as many take far less than sixteen times as long
    def seconds(width: int) -> float:
        model = nn.ModuleDict({f"b{i}": nn.BatchNorm2d(width) for i in range(40)})
        graph = graph_of(
            [(f"b{i}.weight", "affine", list(range(i * width, (i + 1) * width))) for i in range(40)]
        )
        score(model, graph)
        found = []
        for _ in range(7):
            start = time.perf_counter()
            score(model, graph)
            found.append(time.perf_counter() - start)
        return min(found)

    assert seconds(16 * 64) < 8 * seconds(64)


@pytest.mark.parametrize(
    ("values", "alike"),
    [
        ([0.94, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.23, 2.0], True),  # a few that stand out
        ([0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0], False),
        ([0.0] * 10, False),  # all are switched off
    ],
)
def test_scores_that_hardly_differ_are_alike(values: list[float], alike: bool) -> None:
    graph = trace(nn.Sequential(nn.Conv2d(3, 10, 1), nn.Conv2d(10, 2, 1)).eval())
    assert graph.prunable.sum() == 10
    scores = np.ones(graph.n_units)
    scores[graph.prunable] = values
    assert are_alike(Scores(values=scores, criterion="gamma"), graph) is alike


def test_lamp_is_the_share_of_those_that_are_not_smaller() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1, bias=False), nn.Conv2d(3, 2, 1, bias=False))
    model[0].weight.data = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]])[..., None, None]
    model[1].weight.data = torch.tensor([[1.0, 0, 0], [0, 0, 1.0]])[..., None, None]
    graph = graph_of([("0.weight", "out", [0, 1, 2]), ("1.weight", "out", [3, 4])])
    found = score(model, graph, criterion="lamp").values
    np.testing.assert_allclose(found[:3], [1, 1 / (25 + 4 + 1), 4 / (25 + 4)])
    assert sorted(found[3:]) == pytest.approx([0.5, 1.0])  # the first of equals has all


def test_norm_is_the_root_of_the_summed_squares() -> None:
    values, labels = np.array([3.0, 4.0, 5.0]), np.array([0, 0, 2])
    found = reduce_by_label(values, labels, 3, "norm")
    np.testing.assert_array_equal(found, [5.0, np.nan, 5.0])
