"""Shadows: for every activation, an array of channel ids of its own shape.

A shadow belongs to a *storage*, not to a tensor, and is laid out like it. Whatever aliases the
storage (a view, a slice, a tensor written in place) therefore finds its ids by its own size,
strides and offset, and structural operations need no rule at all.

Most tensors are only read as they were written, and their ids differ along one axis. So ids take
memory along that axis alone, until another view of the storage asks for its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from yoloprune.channels.ids import IdArray, unrepeated

_reference: Any = StorageWeakRef  # untyped in torch
_YOUNG = 64
"""After so many new storages the dead among them are forgotten. What is left of one, some hundred
bytes amid free memory, would leave no room there for a tensor of its size."""


class _Place(NamedTuple):
    """How a tensor lies in its storage, in elements."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    @staticmethod
    def of(tensor: Tensor) -> _Place:
        shape = tuple(map(int, tensor.shape))
        return _Place(shape, tensor.stride(), int(tensor.storage_offset()))


@dataclass(slots=True)
class _Held:
    """What is known of a storage.

    Attributes:
        storage: weak; an expired one says that its address means another storage now.
        number: the storage's own, in this pass.
        size: elements of the storage, once it has ids.
        ids: of one tensor's shape, or laid out like the storage; ``None`` where it carries no
            channels.
        place: of that tensor, beside which nothing in the storage has ids; ``None`` for ids laid
            out like the storage.
    """

    storage: Any
    number: int
    size: int = 0
    ids: IdArray | None = None
    place: _Place | None = None

    def at(self, place: _Place) -> IdArray | None:
        """The ids of a tensor, of its shape."""
        if self.ids is None or self.place == place:
            return self.ids
        if self.place is not None:
            self.ids, self.place = self.laid_out(), None
        return _view(self.ids, place)

    def laid_out(self) -> IdArray:
        """A new array of the ids, laid out like the storage."""
        if self.ids is not None and self.place is None:
            return np.array(self.ids)
        flat = np.zeros(self.size, dtype=np.int32)
        if self.ids is not None and self.place is not None:
            _view(flat, self.place)[...] = self.ids
        return flat


class Shadows:
    """The shadows of all storages that were met in one forward pass.

    Storages are not kept alive: a network of ten thousand layers would need gigabytes. An address
    that comes to mean another storage is told by the expired reference to the old one. The arrays
    are never written: a new one takes the place of the old.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self._of: dict[int, _Held] = {}
        self._numbers = 0
        self._young: list[int] = []
        self._sweep_at = 256

    def number(self, tensor: Tensor) -> int:
        """What tells the storage of a tensor from all others of the pass, dead ones included."""
        return self._held(tensor).number

    def get(self, tensor: Tensor) -> IdArray | None:
        """The ids of a tensor, of its shape, or ``None`` where it carries no channels."""
        found = self._found(key(tensor))
        return None if found is None else found.at(_Place.of(tensor))

    def has(self, tensor: Tensor) -> bool:
        """Whether :meth:`get` would find ids."""
        found = self._found(key(tensor))
        return found is not None and found.ids is not None

    def put(self, tensor: Tensor, ids: IdArray) -> None:
        """Give a tensor ids (broadcast to its shape); the rest of its storage keeps its own."""
        if not key(tensor):
            return
        held = self._held(tensor)
        ids = unrepeated(ids)
        if held.ids is None:
            if not ids.any():
                return
            held.size = _elements(tensor)
        place = _Place.of(tensor)
        if held.place == place or (held.ids is None and _dense(tensor)):
            held.ids, held.place = np.broadcast_to(_lone(ids), place.shape), place
        else:
            flat = held.laid_out()
            _view(flat, place)[...] = ids
            held.ids, held.place = flat, None

    def share(self, tensor: Tensor, source: Tensor) -> None:
        """Give ``tensor`` the ids of ``source``, a tensor of the same shape."""
        old = self._found(key(source))
        place = _Place.of(source)
        ids = None if old is None else old.at(place)
        if old is None or ids is None:
            return
        alike = _elements(tensor) == old.size and _Place.of(tensor) == place
        if alike and not self.has(tensor):
            held = self._held(tensor)
            held.size, held.ids, held.place = old.size, old.ids, old.place
        else:
            self.put(tensor, ids)

    def _found(self, where: int) -> _Held | None:
        """What is known of the storage at an address, if that is still the one."""
        held = self._of.get(where)
        if held is not None and held.storage.expired():
            del self._of[where]
            return None
        return held

    def _held(self, tensor: Tensor) -> _Held:
        """What is known of a tensor's storage; begun where nothing was."""
        where = key(tensor)
        held = self._found(where)
        if held is None:
            self._numbers += 1
            reference = _reference(tensor.untyped_storage())
            held = self._of[where] = _Held(reference, self._numbers)
            self._young.append(where)
            if len(self._young) >= _YOUNG:
                self._forget_dead()
        return held

    def _forget_dead(self) -> None:
        """Drop the dead among the newest, and among all when these have doubled in number."""
        for where in self._young:
            self._found(where)
        self._young.clear()
        if len(self._of) > self._sweep_at:
            self._of = {at: one for at, one in self._of.items() if not one.storage.expired()}
            self._sweep_at = 2 * len(self._of)


def key(tensor: Tensor) -> int:
    """What identifies the storage of a tensor while that is alive; 0 for an empty one."""
    return tensor.untyped_storage().data_ptr()


def _elements(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes() // tensor.itemsize


def _dense(tensor: Tensor) -> bool:
    """Whether each element of a tensor surely has memory of its own."""
    last = torch.channels_last
    if tensor.is_contiguous():
        return True
    return tensor.dim() == 4 and tensor.is_contiguous(memory_format=last)


def _view(flat: IdArray, place: _Place) -> IdArray:
    seen: IdArray = np.ndarray(
        place.shape,
        dtype=np.int32,
        buffer=flat,
        offset=4 * place.offset,
        strides=[4 * step for step in place.strides],
    )
    return seen


def compact(ids: IdArray) -> IdArray:
    """The same ids of the same shape, in little memory: one for each channel of a picture.

    What is kept of every module's inputs would otherwise keep whole activations.
    """
    once = unrepeated(ids)
    if ids.ndim > 2:
        line = once[(slice(None), slice(None)) + (slice(0, 1),) * (ids.ndim - 2)]
        once = line if (once == line).all() else once
    kept: IdArray = np.broadcast_to(_lone(once), ids.shape)
    return kept


def _lone(ids: IdArray) -> IdArray:
    """The same ids, copied only where they would keep an array much larger than they are."""
    return ids.copy() if ids.base is not None and ids.base.size > 4 * ids.size else ids
