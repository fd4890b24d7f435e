"""The order of removal, against one that solves every step from nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from yoloprune.channels.trace import trace
from yoloprune.prune.recon import _order, _Part, _readers, removal_order


def moments(inputs: int) -> Tensor:
    rows = torch.randn(4 * inputs, inputs, dtype=torch.float64)
    mixed = rows @ torch.randn(inputs, inputs, dtype=torch.float64)
    return mixed.T @ mixed / len(mixed) + 0.1 * torch.eye(inputs, dtype=torch.float64)


def lost_without(h: Tensor, w: Tensor, gone: list[int], block: int) -> float:
    """Error of the best fit without some units: what is left of ``w h w`` after solving."""
    stays = [i for i in range(len(h)) if i // block not in gone]
    if not stays:
        return float((w * (h @ w)).sum())
    fitted = torch.linalg.solve(h[stays][:, stays], h[stays] @ w)
    return float((w * (h @ w)).sum() - (fitted * (h[stays] @ w)).sum())


def naive(parts: list[tuple[Tensor, Tensor, int]], count: int) -> list[int]:
    gone: list[int] = []
    while len(gone) < count:
        left = [unit for unit in range(count) if unit not in gone]
        costs = [sum(lost_without(h, w, [*gone, u], b) for h, w, b in parts) for u in left]
        gone.append(left[int(np.argmin(costs))])
    return gone


@pytest.mark.parametrize("blocks", [(1,), (4,), (1, 2)])
def test_each_step_takes_what_the_best_fit_misses_least(blocks: tuple[int, ...]) -> None:
    count = 14
    given = [
        (moments(count * b), torch.randn(count * b, 5, dtype=torch.float64), b) for b in blocks
    ]
    parts = [_Part(torch.linalg.inv(h), w.clone(), b, np.arange(count)) for h, w, b in given]
    assert _order(count, parts).tolist() == naive(given, count)


def test_readers_of_some_units_only_speak_for_these() -> None:
    """As the groups of a grouped convolution do: each as if the others' units were not there."""
    count, half = 14, 7
    given = [(moments(half), torch.randn(half, 5, dtype=torch.float64), 1) for _ in range(2)]
    members = np.arange(0, count, 2), np.arange(1, count, 2)
    parts = [
        _Part(torch.linalg.inv(h), w.clone(), b, m)
        for (h, w, b), m in zip(given, members, strict=True)
    ]
    order = _order(count, parts)
    for one, m in zip(given, members, strict=True):
        assert (order[np.isin(order, m)] // 2).tolist() == naive([one], half)


def test_a_grouped_convolution_misses_what_it_reads() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3, groups=4)).eval()
    idle = [1, 6, 15]
    with torch.no_grad():
        for unit in idle:
            model[2].weight[unit // 4 * 2 : unit // 4 * 2 + 2, unit % 4] = 0
    scores = removal_order(model, trace(model, torch.rand(1, 3, 16, 16)), torch.rand(4, 3, 16, 16))
    assert sorted(np.argsort(scores.values[:16])[:3].tolist()) == idle


def test_units_that_nobody_reads_go_in_any_order() -> None:
    assert sorted(_order(5, [])) == [0, 1, 2, 3, 4]


def test_the_places_of_a_flattened_map_are_taken_together() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(24 * 64, 4)
    ).eval()
    idle = [3, 17]  # nobody listens to them
    with torch.no_grad():
        model[3].weight.view(4, 24, 64)[:, idle] = 0
    graph = trace(model, torch.rand(1, 3, 8, 8))
    pictures = torch.rand(6, 3, 8, 8)
    readers = _readers(model, graph, pictures, 8192, 3, torch.device("cpu"))
    assert {reader._moments.shape for reader in readers if reader.units.size == 24} == {(24, 24)}
    values = removal_order(model, graph, pictures).values
    axis = next(axis for axis in graph.out_axes if axis.module == "0")
    assert sorted(np.argsort(values[axis.units])[:2].tolist()) == idle
