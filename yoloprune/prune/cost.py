"""What a cut model costs, told from the full one's tensors and the units that stay."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from yoloprune.channels.graph import BoolArray, ChannelGraph, IntArray, TensorAxis
from yoloprune.errors import PlanError
from yoloprune.measure.size import Size
from yoloprune.prune.budget import PRECISIONS, Budget, Precision

if TYPE_CHECKING:
    from torch import nn

    from yoloprune.prune.clock import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one plan.

    Attributes:
        macs: multiply-adds of one image.
        params: parameters.
        bytes: of parameters and BatchNorm statistics in each precision.
    """

    macs: int
    params: int
    bytes: Mapping[Precision, int]


@dataclass(frozen=True, slots=True)
class _Part:
    """Something whose size is a product: of a constant and of counts that a cut lowers.

    Attributes:
        rest: what no cut changes.
        axes: of each axis with channels, the units along it …
        parts: … and by what their number is to be divided (groups of a grouped convolution).
    """

    rest: int
    axes: tuple[IntArray, ...]
    parts: tuple[int, ...] = ()

    def size(self, kept: BoolArray) -> int:
        """With these units; ``kept`` ends with one more, true, that stands for no unit."""
        size = self.rest
        for units, by in zip(self.axes, self.parts, strict=True):
            size *= int(np.count_nonzero(kept[units])) // by
        return size


class Costs:
    """Multiply-adds, parameters and bytes of any plan of one network, exactly.

    A tensor holds as many numbers as the product of its sides, and a layer multiplies as many
    as its weight holds at each of its places. Products of activations (attention) go with the
    channels that are multiplied, see :class:`~yoloprune.channels.graph.Product`. What neither
    explains stays as it was. A bias that compensation adds to a layer that had none is not
    counted, and neither is what a file holds beside numbers.

    Attributes:
        full: of the network without a cut.
        outside: multiply-adds of no layer with weights.
        clock: what plans take in time, where that is known.
    """

    def __init__(
        self, model: nn.Module, graph: ChannelGraph, size: Size, clock: Clock | None = None
    ) -> None:
        """Sort what there is by the units that it depends on.

        Args:
            model: the traced network.
            graph: its channels.
            size: of it, layer by layer.
            clock: that tells what plans take in time; needed where a budget limits that.
        """
        from yoloprune.prune.patches import LAYERS

        axes: dict[str, list[TensorAxis]] = defaultdict(list)
        for axis in graph.axes:
            axes[axis.tensor].append(axis)
        self._n, self.clock = graph.n_units, clock
        self._params, self._buffers, self._weights = list[_Part](), list[_Part](), list[_Part]()
        for name, tensor in model.named_parameters():
            part = _tensor(tensor.shape, axes.get(name, ()))
            self._params.append(part)
            if name.endswith(".weight") and isinstance(
                model.get_submodule(name.removesuffix(".weight")), LAYERS
            ):
                self._weights.append(part)
        stored = model.state_dict().keys()  # anchors and the like are of the cfg
        for name, buffer in model.named_buffers():
            if buffer.is_floating_point() and name in stored:
                self._buffers.append(_tensor(buffer.shape, axes.get(name, ())))
        self._layers: dict[str, _Part] = {}
        weights = _weights(model, axes)
        each = {layer.name: layer.macs for layer in size.layers if layer.macs}
        multiplied = {product.module for product in graph.products}
        others = {}
        for name, macs in each.items():
            if name in weights and not (name in multiplied and len(weights[name]) > 1):
                self._multiplied(name, macs, weights[name])
            else:
                others[name] = macs
        self.outside = sum(others.values())
        for module, macs in others.items():
            self._products(module, macs, graph)
        self.full = self.of(np.ones(graph.n_units, dtype=bool))

    def _multiplied(self, module: str, macs: int, weights: Mapping[str, _Part]) -> None:
        """Share the multiply-adds of a module out to its weights, as many to each number."""
        rest, full = macs, np.ones(self._n + 1, dtype=bool)
        numbers = sum(part.size(full) for part in weights.values())
        for name, part in weights.items():
            share = _Part(part.rest * macs // numbers, part.axes, part.parts)
            self._layers[module if len(weights) == 1 else name] = share
            rest -= share.size(full)
        if rest:
            self._layers[f"{module} rest"] = _Part(rest, ())

    def _products(self, module: str, macs: int, graph: ChannelGraph) -> None:
        """Share the multiply-adds of a module without weights out to its products."""
        found = [product for product in graph.products if product.module == module]
        traced = sum(product.macs for product in found)
        rest = macs
        for i, product in enumerate(found):
            if product.units.size:
                each = macs * product.macs // traced // product.units.size
                self._layers[f"{module} product {i}"] = _Part(each, (product.units.ravel(),), (1,))
                rest -= each * product.units.size
        self._layers[f"{module} rest"] = _Part(rest, ())

    def macs(self, kept: BoolArray) -> int:
        """Of the network in which these units are kept, bool ``[n_units]``."""
        return _total(self._layers.values(), self._with_none(kept))

    def params(self, kept: BoolArray) -> int:
        """As :meth:`macs`."""
        return _total(self._params, self._with_none(kept))

    def bytes(self, kept: BoolArray, precision: Precision) -> int:
        """As :meth:`macs`."""
        kept = self._with_none(kept)
        numbers = _total(self._params, kept) + _total(self._buffers, kept)
        if precision == "int8":
            return 4 * numbers - 3 * _total(self._weights, kept)
        return {"fp32": 4, "fp16": 2}[precision] * numbers

    def of(self, kept: BoolArray) -> Cost:
        """All three."""
        return Cost(
            macs=self.macs(kept),
            params=self.params(kept),
            bytes={name: self.bytes(kept, name) for name in PRECISIONS},
        )

    def limited(self, kept: BoolArray, budget: Budget) -> dict[str, int]:
        """What a budget sets limits to, by its flag: ``macs``, ``params``, ``bytes``, ``latency``.

        Raises:
            PlanError: time is limited, and no table tells what plans take.
        """

        def one(name: str) -> int:
            if name == "bytes":
                return self.bytes(kept, budget.precision)
            if name == "latency":
                if self.clock is None:
                    raise PlanError(
                        "--latency: what plans take is not known here. `yoloprune profile` "
                        "measures it."
                    )
                return round(1000 * self.clock.ms(kept))
            return self.macs(kept) if name == "macs" else self.params(kept)

        return {name: one(name) for name in budget.limits}

    def limits(self, budget: Budget) -> dict[str, float]:
        """The most that may stay of each: shares of the full network's are turned into amounts."""
        full = self.limited(np.ones(self._n, dtype=bool), budget)
        return {
            name: limit * full[name] if limit < 1 else limit
            for name, limit in budget.limits.items()
        }

    def layer(self, path: str, kept: BoolArray) -> int:
        """Multiply-adds of one layer with weights; 0 where it has none."""
        part = self._layers.get(path)
        return 0 if part is None else part.size(self._with_none(kept))

    def _with_none(self, kept: BoolArray) -> BoolArray:
        return np.append(kept, True)


def _tensor(shape: Iterable[int], axes: Iterable[TensorAxis]) -> _Part:
    """How many numbers a tensor holds."""
    sides = list(shape)
    units, parts = [], []
    for axis in axes:
        sides[axis.dim] = 1
        units.append(axis.units.ravel())
        parts.append(axis.units.shape[0] if axis.units.ndim > 1 else 1)
    return _Part(math.prod(sides), tuple(units), tuple(parts))


def _weights(model: nn.Module, axes: Mapping[str, list[TensorAxis]]) -> dict[str, dict[str, _Part]]:
    """Of each module the tensors that it multiplies by, its own and those that it has in lists."""
    from torch import nn

    from yoloprune.prune.patches import LAYERS

    found: dict[str, dict[str, _Part]] = defaultdict(dict)
    lists = (nn.ParameterList, nn.ParameterDict)
    for name, tensor in model.named_parameters():
        owner = name.rpartition(".")[0]
        if tensor.ndim < 2 or name not in axes:
            continue
        scales = tensor.numel() == axes[name][0].units.size and axes[name][0].role == "affine"
        if scales and not isinstance(model.get_submodule(owner), LAYERS):
            continue
        while isinstance(model.get_submodule(owner), lists):
            owner = owner.rpartition(".")[0]
        found[owner][name] = _tensor(tensor.shape, axes[name])
    return found


def _total(parts: Iterable[_Part], kept: BoolArray) -> int:
    return sum(part.size(kept) for part in parts)
