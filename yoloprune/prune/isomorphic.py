"""Groups of one structure, among which channels can be compared fairly.

Reference: Fang et al. 2024, Isomorphic Pruning for Vision Models, section 3.2: scores of unlike
structures follow unlike distributions, so they are ranked only among those whose graphs of tied
layers are the same.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from torch import nn

from yoloprune.channels.graph import ChannelGraph, IntArray, TensorAxis

Kind = tuple[str, str, tuple[int, ...], bool]
"""Class of a layer, its role (see ``TensorAxis``), its kernel, and whether it has groups."""


def isomorphic_classes(model: nn.Module, graph: ChannelGraph) -> list[IntArray]:
    """Prunable units, sorted by the structure of their groups.

    Two groups have one structure where the same kinds of layers make, scale and read them, each as
    many times: class of the layer, its part, the size of its kernel, and whether it has groups.
    Numbers of channels, strides and places in the network do not count.

    Args:
        model: the traced model.
        graph: its channels.

    Returns:
        int64, the units of each class, ascending; classes in the order of their first groups.
    """
    group_of = np.full(graph.n_units, -1, dtype=np.int64)
    for group in graph.groups:
        group_of[group.units] = group.index
    kinds: dict[int, list[Kind]] = {group.index: [] for group in graph.groups}
    for axis in graph.axes:
        kind = _kind(model, axis)
        if kind is not None:
            for index in np.unique(group_of[axis.units]).tolist():
                kinds[index].append(kind)
    classes: dict[tuple[Kind, ...], list[IntArray]] = defaultdict(list)
    free = graph.prunable
    for group in graph.groups:
        classes[tuple(sorted(kinds[group.index]))].append(group.units[free[group.units]])
    found = (np.sort(np.concatenate(parts)) for parts in classes.values())
    return [units for units in found if units.size]


def _kind(model: nn.Module, axis: TensorAxis) -> Kind | None:
    """What a layer is to its units, told once a layer: by its weight."""
    if axis.tensor.rpartition(".")[2] != "weight":
        return None
    module = model.get_submodule(axis.module)
    kernel = tuple(model.get_parameter(axis.tensor).shape[2:])
    grouped = int(getattr(module, "groups", 1)) > 1
    return type(module).__name__, axis.role, kernel, grouped
