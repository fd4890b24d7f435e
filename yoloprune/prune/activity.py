"""How much of each unit's signal arrives where it is read."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from yoloprune.channels.graph import ChannelGraph
from yoloprune.measure.copies import float32_copy
from yoloprune.measure.quantiles import FloatArray
from yoloprune.prune.evidence import as_input
from yoloprune.prune.patches import LAYERS, is_batched
from yoloprune.prune.score import Reduce, reduce_by_label

_AT_ONCE = 8


def activation(
    model: nn.Module,
    graph: ChannelGraph,
    reduce: Reduce,
    images: Tensor,
    device: torch.device,
) -> FloatArray:
    """Mean |value| of a unit as the layers that read it receive it: behind its activation.

    For every layer that reads channels (convolution, transposed one, linear) the mean of |x| over
    all pictures and positions, channel by channel, relative to the mean of all channels that the
    layer reads, so that layers compare. What is between counts in: activation, pooling, the other
    terms of a shortcut. A unit that several layers read, or one several times, has ``reduce`` of
    all these.

    Args:
        model: the traced model. Not modified.
        graph: its channels.
        reduce: how several readings of a unit become one.
        images: ``[N, C, H, W]``: float in 0 … 1, or uint8.
        device: where to run.

    Returns:
        float64 ``[n_units]``; NaN for a unit that no layer reads (queries and keys of attention).

    Reference: Molchanov et al. 2017, Pruning Convolutional Neural Networks for Resource Efficient
    Inference, section 2.2 "Activation"; of |x|, since YOLO's activations go below zero.
    """
    runner = float32_copy(model, device)
    axes = {
        axis.module: axis
        for axis in graph.axes
        if axis.role == "in" and isinstance(model.get_submodule(axis.module), LAYERS)
    }
    sums: dict[str, Tensor] = {}

    def note(layer: nn.Module, args: Any, output: Tensor, path: str) -> None:
        x: Tensor = args[0].detach().abs()
        if isinstance(layer, nn.Linear):
            means = x.reshape(-1, x.shape[-1]).mean(0)
        else:
            x = x if is_batched(layer, output.shape) else x[None]
            means = x.mean((0, *range(2, x.ndim)))
        seen = means.double() * len(batch)
        sums[path] = sums[path] + seen if path in sums else seen

    handles = [
        runner.get_submodule(path).register_forward_hook(
            lambda m, a, o, path=path: note(m, a, o, path)
        )
        for path in axes
    ]
    try:
        with torch.no_grad():
            for start in range(0, len(images), _AT_ONCE):
                batch = as_input(images[start : start + _AT_ONCE], device)
                runner(batch)
    finally:
        for handle in handles:
            handle.remove()
    found = [(axes[path].units.ravel(), total.cpu().numpy()) for path, total in sums.items()]
    tiny = np.finfo(np.float64).tiny
    values = np.concatenate([[], *(total / max(total.mean(), tiny) for _, total in found)])
    units = np.concatenate([np.zeros(0, dtype=np.int64), *(units for units, _ in found)])
    return reduce_by_label(values, units, graph.n_units, reduce)
