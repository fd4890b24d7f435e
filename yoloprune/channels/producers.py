"""Units told as output channels of layers, which people and plan files can read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from yoloprune.channels.graph import ChannelGraph, IntArray
from yoloprune.errors import PlanError


def remove_to_layers(graph: ChannelGraph, remove: IntArray) -> dict[str, list[int]]:
    """Name the output channels that go with these units.

    Args:
        graph: the channels of the model.
        remove: int64, units.

    Returns:
        Path of each layer that loses channels → its output indices, ascending.
    """
    gone = np.zeros(graph.n_units, dtype=bool)
    gone[remove] = True
    layers: dict[str, list[int]] = {}
    for axis in graph.out_axes:
        lost = np.flatnonzero(gone[axis.units.ravel()])
        if lost.size:
            layers[axis.module] = [int(i) for i in lost]
    return layers


def layers_to_remove(graph: ChannelGraph, mapping: Mapping[str, Sequence[int]]) -> IntArray:
    """Find the units behind output channels; the inverse of :func:`remove_to_layers`.

    Args:
        graph: the channels of the model.
        mapping: path of a layer → output indices that it loses.

    Returns:
        int64, sorted.

    Raises:
        PlanError: a layer is not in the graph, an index is out of range, or layers that share
            channels do not agree on which of them go.
    """
    axes = {axis.module: axis.units.ravel() for axis in graph.out_axes}
    gone = np.zeros(graph.n_units, dtype=bool)
    for path, indices in mapping.items():
        units = axes.get(path)
        if units is None:
            raise PlanError(f"{path}: no layer of this model creates channels by that name.")
        wrong = [i for i in indices if not 0 <= i < units.size]
        if wrong:
            raise PlanError(
                f"{path}: output channel out of range, got {wrong[0]}, expected 0 to "
                f"{units.size - 1}."
            )
        gone[units[list(indices)]] = True
    remove = np.flatnonzero(gone).astype(np.int64)
    for path, lost in remove_to_layers(graph, remove).items():
        missing = sorted(set(lost) - {int(i) for i in mapping.get(path, ())})
        if missing:
            raise PlanError(
                f"{path}: keeps output channel {missing[0]}, whose coupled channels in other "
                "layers are removed. Was the plan made for this model?"
            )
    return remove
