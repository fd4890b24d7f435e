"""What a trace finds: which tensors share which channels, and what must stay equal.

The smallest thing that can be pruned is a **unit**: a class of channels, over all layers,
that live or die together. Everything here speaks of units by number, ``0 … n_units - 1``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
Role = Literal["out", "in", "affine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorAxis:
    """One axis of one parameter or buffer, and the unit of each of its indices.

    Attributes:
        tensor: qualified name, as in ``named_parameters()``: ``model.0.conv.weight``.
        dim: the axis that shrinks.
        units: int64 ``[size]``; for the input axis of a grouped convolution (1 < g < C)
            int64 ``[groups, size]``, since each group reads channels of its own.
        role: ``out`` the axis creates channels (a dense conv's or linear's rows), ``in`` it
            consumes them, ``affine`` one number a channel (BN, bias, depthwise kernels).
    """

    tensor: str
    dim: int
    units: IntArray
    role: Role

    @property
    def module(self) -> str:
        """Path of the module that owns the tensor."""
        return self.tensor.rpartition(".")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class IntField:
    """An integer attribute that must equal the number of kept units of ``units``.

    Attributes:
        module: path of the module that holds the attribute.
        attr: attribute name: ``out_channels``, ``groups``, ``c`` …
        index: position, where the attribute is a list or tuple.
        units: int64 ``[n]``: before any cut the attribute equals ``n``.
    """

    module: str
    attr: str
    units: IntArray
    index: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """Lists of units of which equal counts must be kept (``chunk``, grouped route, heads).

    Attributes:
        parts: at least two int64 arrays of one length.
        reason: what asks for it, for people: ``chunk(2) in model.2``.
    """

    parts: tuple[IntArray, ...]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Units that stand in exactly the same tensors, hence are interchangeable.

    Attributes:
        index: number of the group.
        units: int64 ``[n]``, sorted.
        layers: paths of the modules that create these channels (role ``out``).
    """

    index: int
    units: IntArray
    layers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """A matrix product of activations (attention), which no layer with weights multiplies.

    Attributes:
        module: path of the module that carries it out.
        units: int64 ``[n]``: the channels of the one axis that a cut shortens, each of which
            costs the same; -1 for one that is of no layer. Empty where none does.
        macs: multiply-adds on the picture that was traced.
    """

    module: str
    units: IntArray
    macs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """The channels that a module reads and writes in evaluation, in the last call of it.

    Attributes:
        module: its path; empty for the model itself.
        entered: int64 ``[n]`` of each tensor that enters it with channels along one axis: their
            units, -1 for a channel that is of no layer.
        left: of each tensor that leaves it.
    """

    module: str
    entered: tuple[IntArray, ...]
    left: tuple[IntArray, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelGraph:
    """The channel dependencies of one model.

    Attributes:
        n_units: how many units there are.
        frozen: unit → why it must not be removed; a unit that is absent is prunable.
        axes: every tensor axis that carries units.
        fields: every integer attribute that follows a count of units.
        balances: counts that must stay equal.
        groups: the partition of all units into interchangeable ones.
        norm_of: conv or linear → the BatchNorm that reads its output first and alone, where
            there is one (compensation folds constants into its running mean).
        bare: layers that create channels which no BatchNorm scales on their way: what a unit is
            worth is not told by its BatchNorms alone where one of these makes it, too.
        gates: layers without a BatchNorm of which everything is multiplied by normed channels, as
            in squeeze-and-excitation, and comes to nothing where those are zero.
        unreached: parameters that no traced forward pass touched.
        input_shape: of the picture that was traced, ``(1, C, H, W)``.
        carried_outputs: which tensors of the model's (flattened) eval output are inputs that a
            head of Ultralytics hands on beside its results; their channels may be pruned, so they
            are no results to compare.
        products: matrix products of activations in evaluation, in the order of the pass.
        flows: what passes through each module, in the order of the modules.
    """

    n_units: int
    frozen: Mapping[int, str]
    axes: tuple[TensorAxis, ...]
    fields: tuple[IntField, ...]
    balances: tuple[Balance, ...]
    groups: tuple[Group, ...]
    norm_of: Mapping[str, str] = field(default_factory=dict)
    bare: tuple[str, ...] = ()
    gates: tuple[str, ...] = ()
    unreached: tuple[str, ...] = ()
    input_shape: tuple[int, ...] = (1, 3, 64, 64)
    carried_outputs: tuple[int, ...] = ()
    products: tuple[Product, ...] = ()
    flows: tuple[Flow, ...] = ()

    def reasons(self, most: int = 3) -> str:
        """Why units are frozen, in words: the most frequent reasons and how many units each has."""
        often = Counter(self.frozen.values()).most_common(most)
        return "; ".join(f"{reason} ({count})" for reason, count in often)

    @property
    def prunable(self) -> BoolArray:
        """Bool ``[n_units]``: true where a unit may be removed."""
        mask = np.ones(self.n_units, dtype=bool)
        mask[list(self.frozen)] = False
        return mask

    @property
    def channels(self) -> IntArray:
        """Int64 ``[n_units]``: how many conv/linear output channels each unit stands for."""
        count = np.zeros(self.n_units, dtype=np.int64)
        for axis in self.out_axes:
            np.add.at(count, axis.units.ravel(), 1)
        return count

    @property
    def out_axes(self) -> tuple[TensorAxis, ...]:
        """The axes that create channels, in module order."""
        return tuple(axis for axis in self.axes if axis.role == "out")
