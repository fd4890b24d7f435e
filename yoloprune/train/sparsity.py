"""Sparsity on BatchNorm scales, as a step of its own after the optimizer's.

Reference: Liu et al. 2017, "Learning Efficient Convolutional Networks through Network
Slimming", section 3; the proximal step is Parikh & Boyd 2014, section 6.5.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from yoloprune.channels.graph import ChannelGraph


@dataclass(frozen=True, slots=True)
class Sparsity:
    """L1 on the gammas of prunable units, by a soft threshold after each optimizer step.

    The threshold is ``strength`` times the learning rate of the gamma's parameter group, so
    that it is the exact proximal operator of ``strength · |gamma|``. As it is no gradient, a
    loss scale (AMP) or gradient accumulation cannot change it, and it reaches exact zeros.

    Attributes:
        strength: the L1 factor, at least 0.
        prunable: BatchNorm weight's name → bool ``[C]``, true where the channel may be removed.
    """

    strength: float
    prunable: Mapping[str, NDArray[np.bool_]]

    @torch.no_grad()
    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Shrink the gammas of ``model`` towards zero, in place."""
        rates = {
            id(p): float(group["lr"]) for group in optimizer.param_groups for p in group["params"]
        }
        for name, mask in self.prunable.items():
            gamma = model.get_parameter(name)
            threshold = self.strength * rates.get(id(gamma), 0.0)
            shrunk = torch.sign(gamma) * torch.clamp(gamma.abs() - threshold, min=0)
            gamma.copy_(torch.where(_tensor(mask, gamma), shrunk, gamma))

    @torch.no_grad()
    def follow(self, model: nn.Module, ema: nn.Module) -> None:
        """Give the averaged model the exact zeros of ``model``, in place."""
        for name, mask in self.prunable.items():
            gamma = model.get_parameter(name)
            zero = (gamma == 0) & _tensor(mask, gamma)
            ema.get_parameter(name).masked_fill_(zero, 0.0)


def _tensor(mask: NDArray[np.bool_], like: Tensor) -> Tensor:
    return torch.from_numpy(mask).to(like.device)


def prunable_gammas(model: nn.Module, graph: ChannelGraph) -> dict[str, NDArray[np.bool_]]:
    """The BatchNorm weights of a model, with a mask of the channels that may be removed.

    Returns:
        Parameter name → bool ``[C]``; BatchNorms with no prunable channel are left out.
    """
    norms = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine
    }
    masks = {
        axis.tensor: graph.prunable[axis.units]
        for axis in graph.axes
        if axis.role == "affine" and axis.tensor in norms
    }
    return {name: mask for name, mask in masks.items() if mask.any()}
