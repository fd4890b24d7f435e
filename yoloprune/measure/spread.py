"""How the numbers of a network are spread: histograms of BatchNorm scales and of weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

BINS = 60
_SHOWN = 0.998
"""Share of the values that the axis reaches; the outer bins hold what is beyond."""
_LOOKED_AT = 1 << 20
"""Values that the ends of the axis are chosen by, at most; all are counted."""


def spreads(models: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Histograms of networks, on common axes.

    Args:
        models: name → network; not modified.

    Returns:
        JSON-able: ``gamma``, of the absolute scales of all BatchNorms, and ``weights``, of all
        convolutions and linear layers, each left out where no network has any. Each holds
        ``low`` and ``high``, the ends of the axis, and ``counts``: name → how many values lie in
        each of equally wide bins, values beyond an end in the bin beside it.
    """
    found = {}
    for kind, values_of in (("gamma", _gammas), ("weights", _weights)):
        values = {name: list(values_of(model)) for name, model in models.items()}
        if any(values.values()):
            found[kind] = _histograms(values, signed=kind == "weights")
    return found


def _gammas(model: nn.Module) -> Iterator[NDArray[np.float32]]:
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.weight is not None:
            yield _numbers(layer.weight.abs())


def _weights(model: nn.Module) -> Iterator[NDArray[np.float32]]:
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            yield _numbers(layer.weight)


def _numbers(values: torch.Tensor) -> NDArray[np.float32]:
    numbers: NDArray[np.float32] = values.detach().float().cpu().numpy().ravel()
    return numbers[np.isfinite(numbers)]


def _histograms(values: Mapping[str, list[NDArray[np.float32]]], *, signed: bool) -> dict[str, Any]:
    sample = [part[:: max(len(part) // _LOOKED_AT, 1)] for side in values.values() for part in side]
    every = np.abs(np.concatenate(sample or [np.zeros(1, dtype=np.float32)]))
    high = max(float(np.quantile(every[:: max(len(every) // _LOOKED_AT, 1)], _SHOWN)), 1e-6)
    low = -high if signed else 0.0
    counts = {}
    for name, parts in values.items():
        total = np.zeros(BINS, dtype=np.int64)
        for part in parts:
            total += np.histogram(np.clip(part, low, high), bins=BINS, range=(low, high))[0]
        counts[name] = total.tolist()
    return {"low": low, "high": high, "counts": counts}
