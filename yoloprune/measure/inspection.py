"""What ``info`` tells of a model: each layer's shape, cost, scales, and what is prunable."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from torch import nn

from yoloprune.channels.graph import ChannelGraph, IntArray
from yoloprune.channels.trace import trace
from yoloprune.measure.quantiles import quantiles
from yoloprune.measure.size import count
from yoloprune.models.door import input_size_of


def inspect_model(model: nn.Module, imgsz: int | None = None) -> dict[str, Any]:
    """Describe the layers of a model.

    Args:
        model: a detector; not modified.
        imgsz: side of the input that MACs are counted on, pixels; None is the model's own.

    Returns:
        JSON-able: ``layers`` (the modules that create channels, in order) and ``totals``.
    """
    graph = trace(model)
    size = count(model, input_size_of(model, imgsz))
    sizes = {layer.name: layer for layer in size.layers}
    group_of = np.zeros(graph.n_units, dtype=np.int64)
    for group in graph.groups:
        group_of[group.units] = group.index
    gammas = _gammas(model, graph)
    prunable = graph.prunable
    layers = []
    for axis in graph.out_axes:
        units = axis.units.ravel()
        cost = sizes[axis.module]
        norm = graph.norm_of.get(axis.module)
        layers.append(
            {
                "name": axis.module,
                "type": cost.type,
                "in_shape": list(cost.in_shape or ()),
                "out_shape": list(cost.out_shape or ()),
                "out_channels": int(units.size),
                "prunable": int(prunable[units].sum()),
                "reason": _reason(graph, units),
                "groups": sorted({int(g) for g in group_of[units]}),
                "params": cost.params,
                "macs": cost.macs,
                "gamma": quantiles(gammas[norm]) if norm in gammas else None,
            }
        )
    channels = graph.channels
    norms = _norm_units(model, graph)
    return {
        "imgsz": list(size.imgsz),
        "layers": layers,
        "balances": [b.reason for b in graph.balances],
        "unreached": list(graph.unreached),
        "totals": {
            "params": size.params,
            "macs": size.macs,
            "channels": int(channels.sum()),
            "prunable_channels": int(channels[prunable].sum()),
            "bn_channels": int(norms.size),
            "prunable_bn_channels": int(prunable[norms].sum()),
            "units": graph.n_units,
            "prunable_units": int(prunable.sum()),
        },
    }


def _reason(graph: ChannelGraph, units: IntArray) -> str:
    """Why channels of a layer are frozen, the commonest reason first; empty if none is."""
    reasons = Counter(graph.frozen[int(u)] for u in units if int(u) in graph.frozen)
    return "; ".join(reason for reason, _ in reasons.most_common())


def _norm_names(model: nn.Module) -> set[str]:
    return {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine
    }


def _norm_units(model: nn.Module, graph: ChannelGraph) -> IntArray:
    """The unit of every BatchNorm channel, int64 ``[n]``."""
    names = _norm_names(model)
    units = [
        axis.units
        for axis in graph.axes
        if axis.module in names and axis.tensor.endswith(".weight")
    ]
    return np.concatenate(units) if units else np.zeros(0, dtype=np.int64)


def _gammas(model: nn.Module, graph: ChannelGraph) -> dict[str, Any]:
    return {
        name: model.get_parameter(f"{name}.weight").detach().abs().double().cpu().numpy()
        for name in _norm_names(model)
    }
