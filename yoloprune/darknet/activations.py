"""Darknet's element-wise activations, by the names that cfgs give them.

Reference: AlexeyAB/darknet ``src/activations.h`` and ``src/activations.c``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class HardMish(nn.Module):
    """``x`` above 0, ``x²/2 + x`` down to -2, 0 below."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it; any shape."""
        return torch.where(x > 0, x, (x * x / 2 + x) * (x > -2))


class Loggy(nn.Module):
    """``2 · sigmoid(x) - 1``."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it; any shape."""
        return 2 * torch.sigmoid(x) - 1


class Ramp(nn.Module):
    """``max(x, 0) + x / 10``."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it; any shape."""
        return F.relu(x) + 0.1 * x


class TanhGelu(nn.Module):
    """GELU with the constants that Darknet has: ``0.5 x (1 + tanh(0.797885 x + 0.035677 x³))``."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply it; any shape."""
        return 0.5 * x * (1 + torch.tanh(0.797885 * x + 0.035677 * x * x * x))


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "linear": nn.Identity,
    "leaky": lambda: nn.LeakyReLU(0.1),
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "relie": lambda: nn.LeakyReLU(0.01),
    "mish": nn.Mish,
    "hard_mish": HardMish,
    "swish": nn.SiLU,
    "logistic": nn.Sigmoid,
    "loggy": Loggy,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": TanhGelu,
    "ramp": Ramp,
    "hardtan": nn.Hardtanh,
}
"""Name in a cfg → a new module."""
