"""What the rules write to while a model runs: ids, sizes, and the tensors that they stand in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from yoloprune.channels.graph import Role
from yoloprune.channels.ids import NONE, IdArray, Ids, line
from yoloprune.channels.provenance import Attr, Dim, TracedInt, terms_of
from yoloprune.channels.shadow import Shadows, compact, key
from yoloprune.channels.sizes import Sizes


@dataclass(slots=True)
class Axis:
    """One axis of one parameter or buffer, and the raw ids along it."""

    ids: IdArray
    role: Role


@dataclass(slots=True)
class Reads:
    """Who reads what in one pass; tells which BatchNorm alone reads a layer's output."""

    count: Counter[int] = field(default_factory=Counter)
    made_by: dict[int, str] = field(default_factory=dict)
    normed: dict[int, str] = field(default_factory=dict)


class Tracer:
    """The state of a trace, over all its passes.

    Attributes:
        ids: the channels.
        sizes: equations between integers and counts of channels.
        axes: (tensor name, axis) → ids, in the order in which they were met.
        reached: data pointers of the parameters that some operation read.
        shadows: of the current pass.
        place: paths of the modules that are running, innermost last.
        entered: path of each module → ids of what entered it last.
        left: path of each module → ids of what left it last.
        flows: ``entered`` and ``left`` as they were after the first pass.
        products: matrix products of the first pass: module, line of channels, multiply-adds.
        gates: ids of both sides of each product of two activations.
        added: ids of activations that were added to others.
        vectors: storage of a vector that was computed element by element from parameters and
            buffers → these; of the current pass.
        quiet: while true, operations are neither followed nor judged.
        judging: above 0 while what runs is not the model's own code but torch's, or the tracer's.
        shape: sizes that the running function asks for, one each axis of its result; an entry
            is a (traced) integer, or ``None`` for "whatever is left".
    """

    def __init__(self, model: nn.Module, rigid: Iterable[Attr] = ()) -> None:
        """Prepare to watch ``model``; ``rigid`` attributes must keep their value."""
        self.ids = Ids()
        self.sizes = Sizes()
        self.axes: dict[tuple[str, int], Axis] = {}
        self.held = frozenset(rigid)
        self.reached: set[int] = set()
        self.shadows = Shadows()
        self.reads: list[Reads] = []
        self.place: list[str] = []
        self.quiet = False
        self.judging = 0
        self.shape: list[int | None] | None = None
        self.tensors: dict[int, tuple[str, Tensor]] = {}
        self.vectors: dict[int, tuple[Tensor, ...]] = {}
        self.depthwise: set[str] = set()
        self.whole: set[tuple[str, int | None]] = set()
        self.entered: dict[str, list[IdArray]] = {}
        self.left: dict[str, list[IdArray]] = {}
        self.flows: dict[str, tuple[list[IdArray], list[IdArray]]] = {}
        self.products: list[tuple[str, IdArray, int]] = []
        self.gates: list[tuple[set[int], set[int]]] = []
        self.added: set[int] = set()
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if tensor.numel():
                self.tensors.setdefault(tensor.data_ptr(), (name, tensor))

    def begin_pass(self) -> None:
        """Forget activations; keep channels."""
        self.shadows = Shadows()
        self.vectors = {}
        self.reads.append(Reads())
        self.place = []

    def note_flows(self) -> None:
        """Keep what has entered and left each module until now."""
        self.flows = {path: (found, self.left[path]) for path, found in self.entered.items()}

    @property
    def where(self) -> str:
        """Path of the innermost running module, for reasons."""
        return self.place[-1] if self.place and self.place[-1] else "the model"

    def name_of(self, tensor: Any) -> str | None:
        """Name of the parameter or buffer that this tensor is, whole."""
        if not isinstance(tensor, Tensor) or not tensor.numel():
            return None
        found = self.tensors.get(tensor.data_ptr())
        return found[0] if found is not None and found[1].shape == tensor.shape else None

    def touch(self, tensors: Iterable[Any]) -> None:
        """Note that an operation read these tensors."""
        count = self.reads[-1].count
        for tensor in tensors:
            if isinstance(tensor, Tensor):
                where = key(tensor)
                count[self.shadows.number(tensor)] += 1
                if where in self.tensors:
                    self.reached.add(where)

    def bind(self, name: str, dim: int, ids: IdArray, role: Role) -> IdArray:
        """Say which channels stand along an axis of a tensor; the same ones as last time."""
        known = self.axes.get((name, dim))
        if (name, dim) in self.whole or (name, None) in self.whole:
            self.ids.freeze(ids, f"{name} also meets tensors without channels")
        if known is None:
            self.axes[name, dim] = Axis(compact(ids), role)
            return ids
        self.ids.unify(known.ids, ids)
        return known.ids

    def keep_whole(self, name: str, dim: int | None = None) -> None:
        """A tensor is used at its full size along an axis (or all): no cut may shorten it."""
        if (name, dim) not in self.whole:
            self.whole.add((name, dim))
            for (owner, axis), found in self.axes.items():
                if owner == name and dim in (None, axis):
                    self.ids.freeze(found.ids, f"{name} also meets tensors without channels")

    def frozen_norm(self, path: str, given: Iterable[Tensor]) -> None:
        """Note a BatchNorm that keeps buffers only, and which tensor it is about to read."""
        for tensor in given:
            self.reads[-1].normed[self.shadows.number(tensor)] = path

    def multiply(self, ids: IdArray | None, macs: int) -> None:
        """Note a matrix product of activations whose cost goes with a line of channels."""
        if len(self.reads) == 1:
            line = np.zeros(0, dtype=np.int32) if ids is None else ids.ravel()
            self.products.append((self.place[-1] if self.place else "", line, macs))

    def freeze(self, tensors: Iterable[Any], reason: str) -> None:
        """Freeze every channel that these tensors carry."""
        for tensor in tensors:
            ids = self.get(tensor)
            if ids is not None:
                self.ids.freeze(np.unique(ids), f"{reason} in {self.where}")

    def get(self, tensor: Any) -> IdArray | None:
        """The ids of a tensor, where it has any."""
        return self.shadows.get(tensor) if isinstance(tensor, Tensor) else None

    def filled(self, ids: IdArray, reason: str) -> IdArray:
        """A line in which every place has an id; new ones, frozen, where there was none."""
        holes = ids == NONE
        if not holes.any():
            return ids
        ids = ids.copy()
        ids[holes] = self.ids.fresh(int(holes.sum()))
        self.ids.freeze(ids[holes], f"{reason} in {self.where}")
        return ids

    def vector_of(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """The parameters and buffers that a whole vector is, or was computed from, one by one.

        Args:
            tensor: such as a scale for each channel, ``[C]`` or a view ``[1, C, 1, 1]``.
        """
        if max(tensor.shape, default=0) != tensor.numel():
            return ()
        found = self.tensors.get(key(tensor))
        sources = self.vectors.get(self.shadows.number(tensor), ()) if found is None else found[1:]
        return sources if all(s.numel() == tensor.numel() for s in sources) else ()

    def param_ids(self, tensor: Tensor) -> IdArray | None:
        """Ids of a parameter or buffer (or a view of one) that meets channels one by one.

        Those that a vector was computed from lose the same channels.
        """
        if self.shadows.number(tensor) in self.vectors:
            found_ids = map(self.param_ids, self.vector_of(tensor))
            lines = [ids.ravel() for ids in found_ids if ids is not None]
            for other in lines[1:]:
                self.ids.unify(lines[0], other)
            if lines:
                self.shadows.put(tensor, lines[0].reshape(tensor.shape))
            return self.shadows.get(tensor)
        found = self.tensors.get(key(tensor))
        if found is None or found[1].itemsize != tensor.itemsize:
            return None
        if not self.shadows.has(tensor):
            name, whole = found
            known = self.axes.get((name, -1))
            if known is None:
                ids = self.ids.fresh(whole.numel()).reshape(whole.shape)
                known = self.axes[name, -1] = Axis(ids, "affine")
                if (name, None) in self.whole:
                    self.ids.freeze(ids, f"{name} also meets tensors without channels")
            self.shadows.put(whole, known.ids)
        return self.shadows.get(tensor)

    def size(self, ids: IdArray, axis: int) -> TracedInt:
        """The size of an axis, handed to the model."""
        return TracedInt.of(ids.shape[axis], Dim(ids, axis), self)

    def on_equal(self, value: TracedInt, other: int) -> None:
        """The model found a number of channels to be what it expects: it must find it again."""
        if self.quiet or self.judging:
            return
        for one, wanted in ((value, other), (other, value)):
            found = one.axis() if isinstance(one, TracedInt) else None
            if found is not None and self.ids.varies(found.ids, found.axis):
                reason = f"their number is compared in {self.where}"
                self.sizes.require(terms_of(wanted), line(found.ids, found.axis), reason)
                return

    def on_rigid(self, value: TracedInt) -> None:
        """A traced integer was used for its value: what it counts must not change."""
        for source in set(value.sources()):
            if isinstance(source, Attr):
                self.sizes.rigid.add(source)
            elif self.ids.varies(source.ids, source.axis):
                reason = f"their number enters the arithmetic in {self.where}"
                self.ids.freeze(np.unique(source.ids), reason)
