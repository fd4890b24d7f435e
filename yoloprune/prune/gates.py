"""A gate on each unit: one factor on all that makes its channels, and the loss's slope by it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from yoloprune.channels.graph import BoolArray, ChannelGraph, IntArray, TensorAxis
from yoloprune.prune.bare import BareRows


def every_gate(model: nn.Module, graph: ChannelGraph) -> Gates:
    """Gates on all prunable units, by all that makes them."""
    everywhere = np.ones(graph.n_units, dtype=bool)
    return Gates(graph, norm_axes(model, graph), BareRows(model, graph, everywhere))


def norm_axes(model: nn.Module, graph: ChannelGraph) -> list[TensorAxis]:
    """The axes of all BatchNorm scales that hold prunable channels, in the order of the graph."""
    norms = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine
    }
    prunable = graph.prunable
    return [a for a in graph.axes if a.tensor in norms and prunable[a.units].any()]


class Gates:
    """One factor a unit, which is 1 as things are; 0 would switch the unit off.

    It scales gamma and beta of every BatchNorm channel of the unit, and weights and bias of what
    makes its channels without a BatchNorm.

    Attributes:
        graph: of the model.
        names: the BatchNorm weights that hold prunable channels.
        sizes: channels of each of them.
        units: int64 ``[n]``, the unit of each of their channels.
        bare: what makes channels without a BatchNorm.
    """

    def __init__(self, graph: ChannelGraph, axes: Sequence[TensorAxis], bare: BareRows) -> None:
        self.graph, self.bare = graph, bare
        self.names = tuple(axis.tensor for axis in axes)
        self.sizes = [axis.units.size for axis in axes]
        none = np.zeros(0, dtype=np.int64)
        self.units = np.concatenate([none, *(axis.units for axis in axes)])

    @property
    def term_units(self) -> IntArray:
        """Int64 ``[m]``: the unit of each of :meth:`terms`."""
        return np.concatenate([self.units, self.bare.units])

    def parameters(self, model: nn.Module, *, beta: bool = False) -> list[Tensor]:
        """The weights, or the biases beside them, in the order of ``names``."""
        names = (f"{name[:-6]}bias" if beta else name for name in self.names)
        return [model.get_parameter(name) for name in names]

    @torch.no_grad()
    def terms(self, model: nn.Module) -> Tensor:
        """What each channel's parameters say of the slope of the loss by its unit's gate.

        That slope is the sum over a unit of gamma * dL/dgamma + beta * dL/dbeta, and of the same
        of weights and bias where there is no BatchNorm.

        Args:
            model: with gradients on its parameters; what has none counts as zero.

        Returns:
            float32 ``[m]``, in the order of :attr:`term_units`.
        """
        weights, biases = self.parameters(model), self.parameters(model, beta=True)
        normed = [_term(w) + _term(b) for w, b in zip(weights, biases, strict=True)]
        return torch.cat([*normed, *self.bare.terms(model)])

    def tensors(self, model: nn.Module) -> list[Tensor]:
        """All parameters that the gates scale, each once a gate that it stands under."""
        made = [*self.parameters(model), *self.parameters(model, beta=True)]
        for layer in self.bare.layers:
            bias = layer.bias(model)
            made += [model.get_parameter(layer.axis.tensor), *([] if bias is None else [bias])]
        return made

    def reached(self, model: nn.Module) -> BoolArray:
        """Bool ``[n_units]``: units of which some parameter has a gradient."""
        weights = self.parameters(model)
        there = np.repeat([w.grad is not None for w in weights], self.sizes).astype(bool)
        found = np.zeros(self.graph.n_units, dtype=bool)
        found[self.units[there]] = True
        for layer in self.bare.layers:
            if model.get_parameter(layer.axis.tensor).grad is not None:
                found[layer.axis.units.ravel()] = True
        return found


def _term(values: Tensor) -> Tensor:
    if values.grad is None:
        return torch.zeros_like(values, dtype=torch.float32)
    return values.float() * values.grad.float()
