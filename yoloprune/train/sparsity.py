"""Sparsity on BatchNorm scales, as a step of its own after the optimizer's.

As it is no gradient, a loss scale (AMP) or gradient accumulation cannot change it, and it
reaches exact zeros.

Reference: Liu et al. 2017, "Learning Efficient Convolutional Networks through Network
Slimming", section 3; the proximal step is Parikh & Boyd 2014, section 6.5.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from yoloprune.channels.graph import ChannelGraph, IntArray
from yoloprune.errors import TrainError
from yoloprune.plan import Budget
from yoloprune.planner import Planner
from yoloprune.score import score


class Sparsity(Protocol):
    """What a trainer asks after each optimizer step."""

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer, progress: float) -> None:
        """Make ``model`` sparser, in place; ``progress`` is the share of training done."""

    def follow(self, model: nn.Module, ema: nn.Module) -> None:
        """Give the averaged model the exact zeros of ``model``, in place."""


@dataclass(frozen=True, slots=True)
class ProximalL1:
    """L1 on the gammas of prunable units, by a soft threshold.

    The threshold is ``strength`` times the learning rate of the gamma's parameter group: the
    exact proximal operator of ``strength · |gamma|``.

    Attributes:
        strength: the L1 factor, above 0.
        prunable: BatchNorm weight's name → bool ``[C]``, true where the channel may be removed.
    """

    strength: float
    prunable: Mapping[str, NDArray[np.bool_]]

    @torch.no_grad()
    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer, progress: float) -> None:
        """Shrink every prunable gamma towards zero."""
        rates = {
            id(p): float(group["lr"]) for group in optimizer.param_groups for p in group["params"]
        }
        for name, mask in self.prunable.items():
            gamma = model.get_parameter(name)
            threshold = self.strength * rates.get(id(gamma), 0.0)
            shrunk = torch.sign(gamma) * torch.clamp(gamma.abs() - threshold, min=0)
            gamma.copy_(torch.where(_tensor(mask, gamma), shrunk, gamma))

    def follow(self, model: nn.Module, ema: nn.Module) -> None:
        """Copy the exact zeros."""
        copy_zeros(model, ema, self.prunable)


@dataclass(slots=True)
class PlannedShrinking:
    """Brings exactly the units that a plan would remove to zero; there is no strength to tune.

    Every few steps the planner itself chooses on the present gammas, with all its floors and
    balances. The gammas of what it chose are held under a bound that falls linearly to zero;
    all others are free. Then the rest of the epochs train the survivors. A sparsifier that
    chose by another rule would zero whole layers, and the plan, which may not, would remove
    live channels in their place.

    Attributes:
        planner: of the model's graph.
        budget: what the cut will be asked for.
        units: BatchNorm weight's name → int64 ``[C]``, the unit of each channel.
        prunable: BatchNorm weight's name → bool ``[C]``.
        top: the bound at the start: the largest gamma that a plan would remove then.
        until: share of training at which the bound is zero.
        every: optimizer steps between two choices.
    """

    planner: Planner
    budget: Budget
    units: Mapping[str, IntArray]
    prunable: Mapping[str, NDArray[np.bool_]]
    top: float
    until: float = 0.7
    every: int = 5
    _steps: int = 0
    _chosen: NDArray[np.bool_] | None = field(default=None, repr=False)

    @torch.no_grad()
    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer, progress: float) -> None:
        """Choose anew now and then, and hold the chosen under the bound."""
        bound = self.top * max(0.0, 1.0 - progress / self.until)
        if self._chosen is None or (bound > 0 and self._steps % self.every == 0):
            graph = self.planner.graph
            self._chosen = np.zeros(graph.n_units, dtype=bool)
            self._chosen[self.planner.choose(score(model, graph), self.budget)] = True
        self._steps += 1
        for name, units in self.units.items():
            gamma = model.get_parameter(name)
            held = _tensor(self._chosen[units], gamma)
            gamma.copy_(torch.where(held, gamma.clamp(-bound, bound), gamma))

    def follow(self, model: nn.Module, ema: nn.Module) -> None:
        """Copy the exact zeros."""
        copy_zeros(model, ema, self.prunable)


@torch.no_grad()
def copy_zeros(model: nn.Module, ema: nn.Module, prunable: Mapping[str, NDArray[np.bool_]]) -> None:
    """Zero the prunable gammas of ``ema`` that are exactly zero in ``model``."""
    for name, mask in prunable.items():
        gamma = model.get_parameter(name)
        zero = (gamma == 0) & _tensor(mask, gamma)
        ema.get_parameter(name).masked_fill_(zero, 0.0)


def _tensor(mask: NDArray[np.bool_], like: Tensor) -> Tensor:
    return torch.from_numpy(mask).to(like.device)


def l1(model: nn.Module, graph: ChannelGraph, strength: float) -> ProximalL1:
    """L1 sparsity of a given strength for a model.

    Raises:
        TrainError: the strength is negative, or the model has no prunable BatchNorm.
    """
    if not strength > 0:
        raise TrainError(f"--sparsity: must be above 0 or auto, got {strength}.")
    return ProximalL1(strength, _prunable(model, graph)[1])


def planned(model: nn.Module, graph: ChannelGraph, budget: Budget) -> PlannedShrinking:
    """Sparsity that ends in what a plan for ``budget`` removes.

    Raises:
        TrainError: the model has no prunable BatchNorm.
    """
    units, prunable = _prunable(model, graph)
    planner = Planner(graph)
    scores = score(model, graph)
    chosen = planner.choose(scores, budget)
    top = float(scores.values[chosen].max()) if chosen.size else 0.0
    return PlannedShrinking(planner, budget, units, prunable, top)


def _prunable(
    model: nn.Module, graph: ChannelGraph
) -> tuple[dict[str, IntArray], dict[str, NDArray[np.bool_]]]:
    """Units, and which are prunable, of the BatchNorm weights that have any of these."""
    norms = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine
    }
    units = {
        axis.tensor: axis.units
        for axis in graph.axes
        if axis.tensor in norms and graph.prunable[axis.units].any()
    }
    if not units:
        raise TrainError("--sparsity: the model has no prunable BatchNorm. Is it fused?")
    return units, {name: graph.prunable[index] for name, index in units.items()}
