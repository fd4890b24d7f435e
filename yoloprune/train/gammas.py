"""The BatchNorm scales that sparsity works on and importance is told from."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from yoloprune.channels.graph import ChannelGraph
from yoloprune.errors import TrainError
from yoloprune.measure.quantiles import FloatArray
from yoloprune.prune.gates import Gates, norm_axes
from yoloprune.train.bare import HeldRows


class Gammas(Gates):
    """The prunable BatchNorm scales of a model, as one vector: a handful of kernels a step.

    The shifts (betas) that stand beside them are read and written in the same way.

    Attributes:
        free: bool ``[n]``, true where a scale may be removed.
        bare: what else makes the units of these scales.

    Raises:
        TrainError: there are none.
    """

    bare: HeldRows

    def __init__(self, model: nn.Module, graph: ChannelGraph) -> None:
        axes = norm_axes(model, graph)
        if not axes:
            raise TrainError("--sparsity: the model has no prunable BatchNorm. Is it fused?")
        scored = np.zeros(graph.n_units, dtype=bool)
        scored[np.concatenate([axis.units for axis in axes])] = True
        super().__init__(graph, axes, HeldRows(model, graph, scored))
        self.free = graph.prunable[self.units]

    def read(self, model: nn.Module, *, beta: bool = False) -> Tensor:
        """``[n]``, float32 or a float64 model's: a copy of every scale, or of every shift."""
        values = torch.cat(self.parameters(model, beta=beta)).detach()
        return values if values.dtype == torch.float64 else values.float()

    def write(self, model: nn.Module, values: Tensor, *, beta: bool = False) -> None:
        """Put scales, or shifts, in place; ``values`` is ``[n]``."""
        targets = [tensor.detach() for tensor in self.parameters(model, beta=beta)]
        torch._foreach_copy_(targets, list(torch.split(values, self.sizes)))

    def sum_by_unit(self, values: NDArray[Any]) -> FloatArray:
        """Float64 ``[n_units]``: sums of ``values``, ``[n]``, over the scales of each unit."""
        sums: FloatArray = np.bincount(self.units, values, self.graph.n_units).astype(np.float64)
        return sums

    def zero_units(self, model: nn.Module) -> NDArray[np.bool_]:
        """Bool ``[n_units]``: prunable units of which all that makes them is exactly zero."""
        alive = self.read(model).cpu().numpy() != 0
        n = self.graph.n_units
        zero: NDArray[np.bool_] = np.bincount(self.units[self.free], minlength=n) > 0
        zero &= np.bincount(self.units[self.free & alive], minlength=n) == 0
        zero &= ~self.bare.alive_units(model)
        return zero
