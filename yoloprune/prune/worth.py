"""What layers give a unit by their weights, where no BatchNorm tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from yoloprune.channels.graph import ChannelGraph, TensorAxis
from yoloprune.errors import PlanError
from yoloprune.measure.quantiles import FloatArray

if TYPE_CHECKING:
    from torch import Tensor, nn


def bare_worth(model: nn.Module, graph: ChannelGraph) -> FloatArray:
    """What the layers without a BatchNorm put into each unit, on the scale of a gamma.

    A BatchNorm's output has a standard deviation of |gamma|. That of a bare layer, for inputs of
    standard deviation 1, is the L2 norm of its weights for the channel; its bias is added. It is
    zero exactly where the layer makes nothing, so that a unit is only as dead as its most alive
    producer. A gate is multiplied by normed channels: where their gamma is zero what is left is
    their beta, gated, which is no constant that could be folded away.

    Returns:
        float64 ``[n_units]``; 0 for a unit that no bare layer makes.
    """
    worth = np.zeros(graph.n_units)
    biases = dict(model.named_parameters())
    axes = [axis for axis in graph.out_axes if axis.module in graph.bare]
    for axis in axes:
        size = rows_of(model, axis).double().square().sum(1).sqrt().cpu()
        bias = biases.get(f"{axis.module}.bias")
        if bias is not None and bias.numel() == size.numel():
            size = size + bias.detach().double().abs().cpu()
        found = size.numpy()
        check_finite(found, [axis])
        np.maximum.at(worth, axis.units.ravel(), found)
    return np.maximum(worth, _gated_betas(model, graph))


def _gated_betas(model: nn.Module, graph: ChannelGraph) -> FloatArray:
    """Float64 ``[n_units]``: |beta| of the units that a gate is multiplied by, 0 of others."""
    from torch.nn.modules.batchnorm import _BatchNorm

    gated, found = np.zeros(graph.n_units, dtype=bool), np.zeros(graph.n_units)
    for axis in graph.out_axes:
        gated[axis.units] |= axis.module in graph.gates
    for axis in graph.axes if gated.any() else ():
        module = model.get_submodule(axis.module)
        if isinstance(module, _BatchNorm) and axis.tensor.endswith(".bias"):
            np.maximum.at(found, axis.units, module.bias.detach().double().abs().cpu().numpy())
    return np.where(gated, found, 0.0)


def rows_of(model: nn.Module, axis: TensorAxis) -> Tensor:
    """The weights of each output channel, ``[C_out, weights]``, in the order of ``axis.units``."""
    weight = model.get_parameter(axis.tensor).detach().float()
    if weight.shape[axis.dim] != axis.units.shape[-1]:
        raise PlanError(
            f"{axis.tensor}: has {weight.shape[axis.dim]} output channels, expected the "
            f"{axis.units.shape[-1]} of its channel graph. Trace the model again."
        )
    if axis.units.ndim > 1:
        # A grouped transposed convolution: groups stand along the other axis.
        groups, width = axis.units.shape
        parts = weight.reshape(groups, -1, *weight.shape[1:]).movedim(axis.dim + 1, 1)
        return parts.reshape(groups * width, -1)
    return weight.movedim(axis.dim, 0).flatten(1)


def check_finite(gammas: FloatArray, axes: list[TensorAxis]) -> None:
    """Refuse a damaged model: NaN must mean "not scored" and nothing else."""
    if np.isfinite(gammas).all():
        return
    ends = np.cumsum([axis.units.size for axis in axes])
    for axis, part in zip(axes, np.split(gammas, ends[:-1]), strict=True):
        bad = int((~np.isfinite(part)).sum())
        if bad:
            raise PlanError(
                f"{axis.tensor}: {bad} of {part.size} scores are not finite numbers. Did its "
                "training diverge, or is the file damaged?"
            )
