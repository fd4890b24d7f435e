"""Units as output channels of layers, and back."""

from __future__ import annotations

import nets
import numpy as np
import pytest

from yoloprune.channels.producers import layers_to_remove, remove_to_layers
from yoloprune.errors import PlanError


def test_a_unit_is_told_in_every_layer_that_creates_it() -> None:
    graph = nets.traced(nets.randomised(nets.Residual()))
    layers = remove_to_layers(graph, np.array([2, 5, 9]))
    assert layers == {"a.0": [2, 5], "b.0": [1], "c.0": [2, 5]}
    assert layers_to_remove(graph, layers).tolist() == [2, 5, 9]


@pytest.mark.parametrize("net", nets.EXACT, ids=lambda net: net.__name__)
def test_there_and_back(net: type) -> None:
    graph = nets.traced(nets.randomised(net()))
    remove = nets.random_units(graph)
    assert layers_to_remove(graph, remove_to_layers(graph, remove)).tolist() == remove.tolist()


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"a.0": [2], "c.0": [3]}, "a.0: keeps output channel 3"),
        ({"a.0": [2]}, "c.0: keeps output channel 2"),
        ({"a.0": [8], "c.0": [8]}, "a.0: output channel out of range, got 8, expected 0 to 7"),
        ({"z": [0]}, "z: no layer of this model"),
    ],
)
def test_layers_that_do_not_fit_are_refused(layers: dict[str, list[int]], message: str) -> None:
    graph = nets.traced(nets.randomised(nets.Residual()))
    with pytest.raises(PlanError, match=message):
        layers_to_remove(graph, layers)
