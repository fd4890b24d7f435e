"""What a cut model costs, from the full one's layers and the units that stay: no model is built."""

from __future__ import annotations

import numpy as np

from yoloprune.channels.graph import BoolArray, ChannelGraph, IntArray
from yoloprune.measure.size import Size


class MacModel:
    """Multiply-adds of any plan of one network.

    A layer's are the product of its outputs, its inputs and its places, hence fall with the first
    two. What is multiplied outside of layers (attention) is taken as it was.

    Attributes:
        total: of the full network.
        outside: of these, what no layer with weights multiplies.
    """

    def __init__(self, size: Size, graph: ChannelGraph) -> None:
        """Sort what is multiplied by the units that it depends on.

        Args:
            size: of the full network, layer by layer.
            graph: its channels.
        """
        self.total = size.macs
        axes: dict[str, list[IntArray]] = {}
        for axis in graph.axes:
            if axis.tensor.endswith(".weight"):
                axes.setdefault(axis.module, []).append(axis.units.ravel())
        self._layers = [
            (layer.macs, axes[layer.name])
            for layer in size.layers
            if layer.macs and layer.name in axes
        ]
        self.outside = size.macs - sum(macs for macs, _ in self._layers)

    def macs(self, kept: BoolArray) -> float:
        """Of the network in which these units are kept, bool ``[n_units]``."""
        total = float(self.outside)
        for macs, axes in self._layers:
            total += macs * float(np.prod([kept[units].mean() for units in axes]))
        return total
