"""The rows of layers without a BatchNorm, as far as they make prunable channels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from yoloprune.channels.graph import ChannelGraph, TensorAxis


@dataclass(frozen=True, slots=True)
class BareLayer:
    """A bare layer: its weight's axis of channels, and whether it has a bias."""

    axis: TensorAxis
    biased: bool

    def rows(self, model: nn.Module) -> Tensor:
        """``[C, weights]``: the weights of each channel, in the order of the units."""
        return self.seen(model.get_parameter(self.axis.tensor)).reshape(self.axis.units.size, -1)

    def seen(self, weight: Tensor) -> Tensor:
        """A view of a weight in which channels come first: the shape of the units, then the rest.

        The groups of a grouped transposed convolution stand along the other axis.
        """
        if self.axis.units.ndim > 1:
            parts = weight.view(self.axis.units.shape[0], -1, *weight.shape[1:])
            return parts.movedim(self.axis.dim + 1, 1)
        return weight.movedim(self.axis.dim, 0)

    def over(self, values: Tensor, weight: Tensor) -> Tensor:
        """``[C]`` in the shape that goes with :meth:`seen`."""
        rest = self.seen(weight).ndim - self.axis.units.ndim
        return values.view(*self.axis.units.shape, *[1] * rest)

    def bias(self, model: nn.Module) -> Tensor | None:
        """``[C]``, or None."""
        return model.get_parameter(f"{self.axis.module}.bias") if self.biased else None


class BareRows:
    """Weights and biases of layers without a BatchNorm that make prunable units.

    Args:
        model: the traced model.
        graph: its channels.
        scored: bool ``[n_units]``, the units to look at; others make no layer count.

    Attributes:
        layers: those that make at least one of these units, with all their rows.
        units: int64 ``[m]``, the unit of each row, in the order of the layers.
    """

    def __init__(self, model: nn.Module, graph: ChannelGraph, scored: NDArray[np.bool_]) -> None:
        names = dict(model.named_parameters())
        free = graph.prunable & scored
        self.layers = tuple(
            BareLayer(axis, f"{axis.module}.bias" in names)
            for axis in graph.out_axes
            if axis.module in graph.bare and free[axis.units].any()
        )
        units = [layer.axis.units.ravel() for layer in self.layers]
        self.units = np.concatenate(units) if units else np.zeros(0, dtype=np.int64)
        self._free = free
        self._n_units = graph.n_units

    def norms(self, model: nn.Module) -> NDArray[np.float64]:
        """Float64 ``[m]``: L2 norm of each row."""
        found = [layer.rows(model).detach().double().norm(dim=1) for layer in self.layers]
        return torch.cat(found).cpu().numpy() if found else np.zeros(0)

    def biases(self, model: nn.Module) -> NDArray[np.float64]:
        """Float64 ``[m]``: size of each bias; 0 where there is none."""
        found = []
        for layer in self.layers:
            bias = layer.bias(model)
            size = torch.zeros(layer.axis.units.size) if bias is None else bias.detach().abs()
            found.append(size.double().cpu())
        return torch.cat(found).numpy() if found else np.zeros(0)

    def alive_units(self, model: nn.Module) -> NDArray[np.bool_]:
        """Bool ``[n_units]``: units into which some bare layer puts something."""
        alive = np.zeros(self._n_units, dtype=bool)
        alive[self.units[(self.norms(model) != 0) | (self.biases(model) != 0)]] = True
        return alive

    def terms(self, model: nn.Module) -> list[Tensor]:
        """By layer float32 ``[C]``: weight times gradient, summed over a channel's row and bias."""
        found = []
        for layer in self.layers:
            weight = model.get_parameter(layer.axis.tensor)
            if weight.grad is None:
                found.append(torch.zeros(layer.axis.units.size, device=weight.device))
                continue
            product = layer.seen(weight.float() * weight.grad.float())
            term = product.reshape(layer.axis.units.size, -1).sum(1)
            bias = layer.bias(model)
            if bias is not None and bias.grad is not None:
                term = term + bias.float() * bias.grad.float()
            found.append(term)
        return found
