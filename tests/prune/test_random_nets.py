"""Random networks: what the tracer lets go, goes exactly."""

from __future__ import annotations

import nets
import pytest
import torch
from random_nets import EXACT, RandomNet, Step, dense

from yoloprune.prune.cut import cut_units, self_test


def check(net: RandomNet, seed: int) -> int:
    """Cut 40 % at random and compare; how many units went."""
    model = nets.randomised(net).double()
    graph = nets.traced(model)
    remove = nets.random_units(graph, seed=seed)
    slim = cut_units(model, graph, remove, compensate=False)
    result = self_test(model, graph, remove, slim)
    assert result.max_rel_diff <= 1e-9, (net.seed, net.path)
    return int(remove.size)


def build(seed: int, *steps: Step) -> RandomNet:
    torch.manual_seed(seed)
    return RandomNet(seed, steps)


@pytest.mark.parametrize("first", range(0, 150, 50))
def test_random_networks_cut_exactly(first: int) -> None:
    cut = [check(build(seed), seed) for seed in range(first, first + 50)]
    # The test would be empty if everything were frozen.
    assert sum(n > 0 for n in cut) > 25


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 4000, 500))
def test_many_random_networks_cut_exactly(first: int) -> None:
    for seed in range(first, first + 500):
        check(build(seed), seed)


@pytest.mark.parametrize("step", EXACT, ids=lambda step: step.__name__)
def test_every_usual_step_leaves_channels_prunable(step: Step) -> None:
    assert sum(check(build(seed, step, dense), seed) for seed in range(4)) > 0
