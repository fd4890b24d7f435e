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
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from yoloprune.channels.graph import ChannelGraph, IntArray
from yoloprune.measure.copies import device_of, find_device, float32_copy
from yoloprune.progress import progress
from yoloprune.prune.patches import LAYERS, is_batched, matrix, positions, read, spread
from yoloprune.prune.score import Scores
from yoloprune.prune.trim import trim

_WIDE = 1200
"""Inputs (channels times taps) from which on the taps of a channel are taken together."""
_AT_ONCE = 0.03
"""Share of the units left that go before costs are looked at again."""
_DAMPING = 0.01
"""Added to the second moments, as a share of their mean: rows are few and alike."""
_SPARSE = 0.8
"""Share of units left below which those that went are taken out of the tensors."""


class _Reader:
    """A layer that reads channels, or one group of a grouped one.

    Args:
        units: int64 ``[C]``, of its input channels.
        moments: float32 ``[taps · C, taps · C]``, second moments of its inputs.
        weight: float32 ``[taps, C, outputs]``, in units of what comes out behind the BatchNorm.

    Attributes:
        groups: how many groups of units have yet to ask; with the last of them all is let go.
    """

    def __init__(self, units: IntArray, moments: Tensor, weight: Tensor) -> None:
        self.units = units
        self.groups = 0
        self._moments, self._weight = moments, weight
        self._inverse: Tensor | None = None

    def part(self, units: IntArray) -> _Part:
        """What it says of those units of one group that it reads.

        A group of a grouped convolution does not read all of them; the others do.
        """
        if self._inverse is None:
            moments = self._moments.double()
            moments.diagonal().add_(_DAMPING * moments.diagonal().mean() + 1e-30)
            self._inverse = torch.linalg.inv(moments)
            del self._moments
        taps, channels = self._weight.shape[:2]
        mine = np.flatnonzero(np.isin(units, self.units))
        at = [np.flatnonzero(self.units == unit) for unit in units[mine].tolist()]
        width = min(len(a) for a in at)
        places = np.stack([a[:width] for a in at])
        index = np.arange(taps)[None, :, None] * channels + places[:, None, :]
        chosen = torch.from_numpy(index.ravel()).to(self._inverse.device)
        made = _Part(
            self._inverse[chosen[:, None], chosen],
            self._weight.flatten(0, 1)[chosen].double(),
            taps * width,
            mine,
        )
        self.groups -= 1
        if not self.groups:
            del self._inverse, self._weight
        return made


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
    read_by = [
        list(dict.fromkeys(chain.from_iterable(of_unit.get(u, ()) for u in group.units.tolist())))
        for group in graph.groups
    ]
    for reader in chain.from_iterable(read_by):
        reader.groups += 1
    with progress("scoring") as advance:
        for done, (group, asked) in enumerate(zip(graph.groups, read_by, strict=True)):
            advance(done, len(graph.groups))
            order = _order(group.units.size, [reader.part(group.units) for reader in asked])
            values[group.units[order]] = (np.arange(order.size) + 0.5) / order.size
    trim()
    return Scores(values=values, criterion="recon", missing="no group")


def _order(count: int, parts: Sequence[_Part]) -> IntArray:
    """Which of so many units go, the first to go first."""
    left = np.arange(count)
    order: list[int] = []
    while left.size:
        costs = np.zeros(count)
        for part in parts:
            if part.members.size:
                costs[part.members] += part.costs().numpy()
        many = max(1, int(left.size * _AT_ONCE))
        lowest = np.argsort(costs[left], kind="stable")[:many]
        gone = left[lowest]
        order += gone.tolist()
        left = np.delete(left, lowest)
        for part in parts if left.size else ():
            part.remove(gone)
    return np.array(order, dtype=np.int64)


class _Part:
    """What one reader says of the units of one group that are left.

    Units that went stay in its tensors as zeros until they are many: to move the rest at every
    step would take longer than the step.

    Args:
        inverse: float64 ``[n · block, n · block]``, of the second moments. It is changed.
        weight: float64 ``[n · block, outputs]``. It is changed.
        block: inputs a unit.
        members: int64 ``[n]``, which of the group's units it speaks of, ascending.

    Attributes:
        members: those that are left.
    """

    def __init__(self, inverse: Tensor, weight: Tensor, block: int, members: IntArray) -> None:
        self._inverse, self._weight, self._block = inverse, weight, block
        self.members = members
        self._left = np.arange(len(weight) // block)

    def costs(self) -> Tensor:
        """``[left]``: what is lost with each unit that is left."""
        block = self._block
        left = torch.from_numpy(self._left).to(self._weight.device)
        weight = self._weight.view(-1, block, self._weight.shape[1])
        blocks = self._inverse.view(len(weight), block, len(weight), block)
        own = torch.diagonal(blocks, dim1=0, dim2=2).permute(2, 0, 1)[left]
        if block == 1:
            lost = weight.square().sum((1, 2))[left] / own[:, 0, 0]
        else:
            weight = weight[left]
            lost = (weight * (torch.linalg.inv(own) @ weight)).sum((1, 2))
        return lost.cpu()

    def remove(self, units: IntArray) -> None:
        """Take those of some units out that are its own, and let the others speak for them."""
        lost = np.flatnonzero(np.isin(self.members, units))
        if not lost.size or lost.size == self.members.size:
            self.members = np.delete(self.members, lost)
            self._left = np.delete(self._left, lost)
            return
        self.members = np.delete(self.members, lost)
        gone = self._rows(self._left[lost])
        self._left = np.delete(self._left, lost)
        columns = self._inverse[:, gone]
        gain = torch.linalg.solve(columns[gone], columns.T)
        self._weight.addmm_(gain.T, self._weight[gone], alpha=-1)
        self._inverse.addmm_(columns, gain, alpha=-1)
        if len(self._left) * self._block < _SPARSE * len(self._weight):
            rows = self._rows(self._left)
            self._weight, self._inverse = self._weight[rows], self._inverse[rows[:, None], rows]
            self._left = np.arange(len(self._left))

    def _rows(self, units: IntArray) -> Tensor:
        rows = units[:, None] * self._block + np.arange(self._block)
        return torch.from_numpy(rows.ravel()).to(self._weight.device)


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
        units = axes[path].units
        if x.shape[2] > _WIDE:
            x = x.reshape(len(x), -1, units.shape[-1])
        if isinstance(module, nn.Linear) and x.shape[2] > _WIDE:
            x = x[:, :, _places(units)].transpose(2, 3).flatten(1, 2)
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
    weight = matrix(layer, model.get_parameter(f"{path}.weight").detach())
    weight = weight * _behind_norm(model, graph.norm_of.get(path), weight)
    found = []
    rows = units.reshape(len(weight), -1)  # of a transposed convolution they are not by group
    for row, second, w in zip(rows, moments, weight, strict=True):
        channels = row.size
        w = w.view(-1, channels, w.shape[1])
        if len(second) == channels:  # the taps are taken together
            w = w.permute(1, 0, 2).reshape(1, channels, -1)
        elif len(second) < channels:  # so are the places of a unit in a flattened map
            w, row = w[0, _places(row)].flatten(1)[None], np.unique(row)
        found.append(_Reader(row, second, w))
    return found


def _places(units: IntArray) -> IntArray:
    """Where the units of a flattened map stand in it: int64 ``[units, places]``, as many of each.

    Args:
        units: int64 ``[C]``, of the inputs of a linear layer.
    """
    at = [np.flatnonzero(units == unit) for unit in np.unique(units)]
    least = min(map(len, at))
    return np.stack([places[:least] for places in at])


def _behind_norm(model: nn.Module, norm: str | None, weight: Tensor) -> Tensor:
    """By what a BatchNorm multiplies each output, ``[groups, 1, outputs]``."""
    groups, _, outputs = weight.shape
    if norm is None:
        return weight.new_ones(groups, 1, outputs)
    layer: Any = model.get_submodule(norm)
    scale: Tensor = layer.weight / (layer.running_var + layer.eps).sqrt()
    return scale.detach().view(groups, 1, outputs)
