"""Rows of layers without a BatchNorm, held down with the scales that make the same channels.

A cut of such a channel is free only when these are zero with the gammas: in yolov9e the convs of
``CBLinear`` are added to the outputs of normed ones.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from yoloprune.prune.bare import BareRows


class HeldRows(BareRows):
    """Rows that training presses towards zero, and the averaged model's with them."""

    @torch.no_grad()
    def hold(self, model: nn.Module, chosen: NDArray[np.bool_], row: float, bias: float) -> None:
        """Hold the rows of chosen units under a norm, and their biases under a size, in place.

        Args:
            model: what was just stepped.
            chosen: bool ``[n_units]``.
            row: largest L2 norm; 0 makes exact zeros.
            bias: largest size.
        """
        for layer in self.layers:
            weight = model.get_parameter(layer.axis.tensor)
            held = torch.from_numpy(chosen[layer.axis.units.ravel()]).to(weight.device)
            norm = layer.rows(model).norm(dim=1)
            factor = torch.where(held & (norm > row), row / norm.clamp(min=1e-30), 1.0)
            seen = layer.seen(weight)
            scaled = seen * layer.over(factor.to(weight.dtype), weight)
            seen.copy_(scaled.masked_fill(layer.over(held & (row == 0), weight), 0))
            shift = layer.bias(model)
            if shift is not None:
                shift.copy_(torch.where(held, shift.clamp(-bias, bias), shift))

    @torch.no_grad()
    def follow(self, model: nn.Module, ema: nn.Module) -> None:
        """Give the averaged model the exact zeros of ``model``, in place."""
        for layer in self.layers:
            weight = ema.get_parameter(layer.axis.tensor)
            free = torch.from_numpy(self._free[layer.axis.units.ravel()]).to(weight.device)
            zero = (layer.rows(model) == 0).all(dim=1) & free
            bias, averaged = layer.bias(model), layer.bias(ema)
            if bias is not None and averaged is not None:
                zero &= bias == 0
                averaged.masked_fill_(zero, 0)
            layer.seen(weight).masked_fill_(layer.over(zero, weight), 0)
