"""Measured error: in which order channels are missed least once their readers are fitted anew.

A layer that reads a channel can say most of what it said from its other inputs. What it cannot is
the channel's cost: for inputs with second moments ``H`` and weights ``W`` it is, for the channel's
taps ``J``, ``W_J ((H⁻¹)_JJ)⁻¹ W_Jᵀ`` (the optimal brain surgeon's error), summed over all layers
that read it. Channels go one by one, the cheapest first, and ``H⁻¹`` and ``W`` are brought up to
date after each: of ten alike channels nine are free, the tenth is not.

Costs of different groups are not compared: every group loses the same share, which at equal MACs
keeps more than any one score for the whole network that was tried.

Reference: Hassibi & Stork 1993, Second Order Derivatives for Network Pruning: Optimal Brain
Surgeon; Frantar & Alistarh 2022, Optimal Brain Compression, section 4 (blocks).
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from yoloprune.channels.graph import ChannelGraph, IntArray
from yoloprune.measure.copies import device_of, find_device, float32_copy
from yoloprune.prune.patches import LAYERS, is_batched, matrix, positions, read, spread
from yoloprune.prune.score import Scores

_WIDE = 1200
"""Inputs (channels times taps) from which on the taps of a channel are taken together."""
_AT_ONCE = 0.03
"""Share of the units left that go before costs are looked at again."""
_DAMPING = 0.01
"""Added to the second moments, as a share of their mean: rows are few and alike."""


@dataclass(slots=True)
class _Reader:
    """A layer that reads channels, or one group of a grouped one.

    Attributes:
        units: int64 ``[C]``, of its input channels.
        inverse: float64 ``[taps · C, taps · C]``, of the second moments of its inputs.
        weight: float64 ``[taps, C, outputs]``, in units of what comes out behind the BatchNorm.
    """

    units: IntArray
    inverse: Tensor
    weight: Tensor


def removal_order(
    model: nn.Module,
    graph: ChannelGraph,
    pictures: Tensor,
    *,
    rows: int = 8192,
    batch: int = 8,
    device: str | None = None,
) -> Scores:
    """Score every unit by its place in the order in which its group is missed least.

    Args:
        model: the traced model. Not modified.
        graph: its channels.
        pictures: ``[N, C, H, W]``: float in 0 … 1, or uint8.
        rows: positions of each layer that are looked at, over all pictures.
        batch: pictures a pass.
        device: where; None is where the model is.

    Returns:
        Scores in (0, 1): the share of its group that goes before a unit, so that a threshold
        takes the same share of every group.
    """
    place = device_of(model) if device is None else find_device(device)
    runner = float32_copy(model, place)
    readers = _readers(runner, graph, pictures, rows, batch, place)
    of_unit: dict[int, list[_Reader]] = defaultdict(list)
    for reader in readers:
        for unit in np.unique(reader.units).tolist():
            of_unit[unit].append(reader)
    values = np.full(graph.n_units, np.nan)
    for group in graph.groups:
        order = _order(group.units, of_unit.get(int(group.units[0]), []))
        values[group.units[order]] = (np.arange(order.size) + 0.5) / order.size
    return Scores(values=values, criterion="recon", missing="no group")


def _order(units: IntArray, readers: list[_Reader]) -> IntArray:
    """Positions in ``units``, the first to go first."""
    left = np.arange(units.size)
    parts = [_Part.of(units, reader) for reader in readers]
    order: list[int] = []
    while left.size:
        costs = sum((part.costs() for part in parts), torch.zeros(left.size, dtype=torch.float64))
        many = max(1, int(left.size * _AT_ONCE))
        lowest = np.argsort(costs.numpy(), kind="stable")[:many]
        order += left[lowest].tolist()
        stays = np.delete(np.arange(left.size), lowest)
        left = left[stays]
        for part in parts if left.size else ():
            part.remove(lowest, stays)
    return np.array(order, dtype=np.int64)


class _Part:
    """What one reader says of the units of one group that are left.

    Attributes:
        inverse: ``[n, b, n, b]``: of the second moments; b inputs a unit.
        weight: ``[n, b, outputs]``.
    """

    def __init__(self, inverse: Tensor, weight: Tensor) -> None:
        self.inverse, self.weight = inverse, weight

    @staticmethod
    def of(units: IntArray, reader: _Reader) -> _Part:
        """Cut out the inputs of these units."""
        taps, channels = reader.weight.shape[:2]
        at = [np.flatnonzero(reader.units == unit) for unit in units.tolist()]
        width = min(len(a) for a in at)
        places = np.stack([a[:width] for a in at])
        index = np.arange(taps)[None, :, None] * channels + places[:, None, :]
        n, block = len(units), taps * width
        chosen = torch.from_numpy(index.ravel()).to(reader.inverse.device)
        return _Part(
            reader.inverse[chosen][:, chosen].view(n, block, n, block),
            reader.weight.flatten(0, 1)[chosen].view(n, block, -1),
        )

    def costs(self) -> Tensor:
        """``[n]``: what is lost with each unit that is left."""
        own = torch.diagonal(self.inverse, dim1=0, dim2=2).permute(2, 0, 1)
        solved = torch.linalg.solve(own, self.weight)
        lost: Tensor = (self.weight * solved).sum((1, 2))
        return lost.cpu()

    def remove(self, lost: IntArray, stays: IntArray) -> None:
        """Take units out, and let the others say what they can of them."""
        block = self.weight.shape[1]
        gone, left = torch.from_numpy(lost), torch.from_numpy(stays)
        columns = self.inverse[left][:, :, gone].reshape(len(stays) * block, -1)
        own = self.inverse[gone][:, :, gone].reshape(columns.shape[1], -1)
        gain = torch.linalg.solve(own, columns.T)
        shared = gain.T @ self.weight[gone].flatten(0, 1)
        self.weight = self.weight[left] - shared.view(len(stays), block, -1)
        known = (columns @ gain).view(len(stays), block, len(stays), block)
        self.inverse = self.inverse[left][:, :, left] - known


def _readers(
    model: nn.Module,
    graph: ChannelGraph,
    pictures: Tensor,
    rows: int,
    batch: int,
    device: torch.device,
) -> list[_Reader]:
    """Run the model, and sum up what each layer reads."""
    axes = {
        axis.module: axis
        for axis in graph.axes
        if axis.role == "in" and isinstance(model.get_submodule(axis.module), LAYERS)
    }
    moments: dict[str, Tensor] = {}
    share = rows / len(pictures)
    handles = []

    def note(module: nn.Module, args: Any, output: Tensor, path: str) -> None:
        if not is_batched(module, output.shape):
            return
        wanted = max(1, round(share * len(args[0])))
        seed = zlib.crc32(f"{path} {step}".encode())
        at = spread(positions(module, output.shape), wanted, seed).to(device)
        x = read(module, args[0], output.shape, at)
        channels = axes[path].units.shape[-1]
        if x.shape[2] > _WIDE:
            x = x.reshape(len(x), -1, channels)
        made = x.mT @ x / x.shape[1]
        moments[path] = moments[path] + made if path in moments else made

    for path in axes:
        layer = model.get_submodule(path)
        handles.append(layer.register_forward_hook(lambda m, a, o, path=path: note(m, a, o, path)))
    try:
        with torch.no_grad():
            for step in range(0, len(pictures), batch):
                images = pictures[step : step + batch].to(device)
                model(images.float() / 255 if images.dtype == torch.uint8 else images.float())
    finally:
        for handle in handles:
            handle.remove()
    return [
        reader
        for path, total in moments.items()
        for reader in _split(model, graph, path, axes[path].units, total)
    ]


def _split(
    model: nn.Module, graph: ChannelGraph, path: str, units: IntArray, moments: Tensor
) -> list[_Reader]:
    """A reader for each group of a layer."""
    layer = model.get_submodule(path)
    weight = matrix(layer, model.get_parameter(f"{path}.weight").detach()).double()
    weight = weight * _behind_norm(model, graph.norm_of.get(path), weight)
    found = []
    for row, second, w in zip(np.atleast_2d(units), moments.double(), weight, strict=True):
        channels = row.size
        w = w.view(-1, channels, w.shape[1])
        if len(second) == channels:  # the taps are taken together
            w = w.permute(1, 0, 2).reshape(1, channels, -1)
        second.diagonal().add_(_DAMPING * second.diagonal().mean() + 1e-30)
        found.append(_Reader(row, torch.linalg.inv(second), w))
    return found


def _behind_norm(model: nn.Module, norm: str | None, weight: Tensor) -> Tensor:
    """By what a BatchNorm multiplies each output, ``[groups, 1, outputs]``."""
    groups, _, outputs = weight.shape
    if norm is None:
        return weight.new_ones(groups, 1, outputs)
    layer: Any = model.get_submodule(norm)
    scale: Tensor = layer.weight / (layer.running_var + layer.eps).sqrt()
    return scale.detach().double().view(groups, 1, outputs)
