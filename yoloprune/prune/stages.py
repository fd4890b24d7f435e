"""Stages: runs of neighbouring layers that a search gives one share each."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from torch import nn

from yoloprune.channels.graph import ChannelGraph, Group, IntArray
from yoloprune.measure.size import Size

_RESIZED = 3.0
"""How much further apart neighbours are that see the picture at different sizes."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Neighbouring layers.

    Attributes:
        layers: paths of those that make its channels.
        units: int64, their channels.
    """

    layers: tuple[str, ...]
    units: IntArray


def stages(model: nn.Module, graph: ChannelGraph, size: Size, *, most: int = 16) -> list[Stage]:
    """Sort the groups of interchangeable units into stages.

    Groups stand in the order of the layers that make them. Neighbours are joined as long as there
    are too many stages: those first that cost little, lie under one module (a block, a branch of
    a head) and see the picture at one size.

    Args:
        model: any network.
        graph: its channels.
        size: of the network, layer by layer.
        most: how many stages there may be.

    Returns:
        Them in the order of the network. What has nothing to spare is in none.
    """
    sizes = {layer.name: layer for layer in size.layers}
    order = {path: i for i, (path, _) in enumerate(model.named_modules())}
    free = graph.prunable
    found = []
    for group in graph.groups:
        paths = sorted((p for p in group.layers if p in sizes), key=order.__getitem__)
        if paths and free[group.units].any():
            first = sizes[paths[0]]
            place = (first.out_shape or ())[2:]
            macs = sum(sizes[path].macs for path in paths)
            found.append(_Part(order[paths[0]], paths[0].split("."), place, macs, [group]))
    found.sort(key=lambda part: part.first)
    while len(found) > most:
        at = min(range(len(found) - 1), key=lambda i: found[i].apart(found[i + 1]))
        found[at : at + 2] = [found[at].joined(found[at + 1])]
    return [part.stage() for part in found]


@dataclass(frozen=True, slots=True)
class _Part:
    """Groups side by side.

    Attributes:
        first: where the first layer stands among the modules.
        path: of the module that all are under, in parts.
        place: height and width of the first layer's output.
        macs: of all layers.
        groups: all of them.
    """

    first: int
    path: list[str]
    place: tuple[int, ...]
    macs: int
    groups: list[Group]

    def apart(self, other: _Part) -> float:
        """How little a stage and the next one belong together."""
        shared = len(self._shared(other)) / max(min(len(self.path), len(other.path)), 1)
        resized = _RESIZED if self.place != other.place else 1.0
        return (self.macs + other.macs + 1) * (2 - shared) * resized

    def joined(self, other: _Part) -> _Part:
        """Both as one."""
        return _Part(
            self.first,
            self._shared(other),
            self.place,
            self.macs + other.macs,
            self.groups + other.groups,
        )

    def stage(self) -> Stage:
        """The finished stage."""
        layers = [path for group in self.groups for path in group.layers]
        return Stage(tuple(layers), np.concatenate([group.units for group in self.groups]))

    def _shared(self, other: _Part) -> list[str]:
        both = zip(self.path, other.path, strict=False)
        return [part for part, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], both)]
