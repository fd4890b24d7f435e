"""Shadows: for every activation, an array of channel ids of its own shape.

A shadow belongs to a *storage*, not to a tensor, and is laid out like it. Whatever aliases the
storage (a view, a slice, a tensor written in place) therefore finds its ids by its own size,
strides and offset, and structural operations need no rule at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from yoloprune.channels.ids import IdArray

_reference: Any = StorageWeakRef  # untyped in torch


@dataclass(slots=True)
class _Held:
    """What is known of a storage.

    Attributes:
        storage: weak; an expired one says that its address means another storage now.
        number: the storage's own, in this pass.
        ids: laid out like the storage; ``None`` where it carries no channels.
    """

    storage: Any
    number: int
    ids: IdArray | None = None


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
        self._sweep_at = 256

    def number(self, tensor: Tensor) -> int:
        """What tells the storage of a tensor from all others of the pass, dead ones included."""
        return self._held(tensor).number

    def get(self, tensor: Tensor) -> IdArray | None:
        """The ids of a tensor, of its shape, or ``None`` where it carries no channels."""
        found = self._found(key(tensor))
        return None if found is None or found.ids is None else _view(found.ids, tensor)

    def has(self, tensor: Tensor) -> bool:
        """Whether :meth:`get` would find ids."""
        found = self._found(key(tensor))
        return found is not None and found.ids is not None

    def put(self, tensor: Tensor, ids: IdArray) -> None:
        """Give a tensor ids (broadcast to its shape); the rest of its storage keeps its own."""
        storage = tensor.untyped_storage()
        if not storage.data_ptr():
            return
        held = self._held(tensor)
        if held.ids is not None:
            flat = held.ids.copy()
        elif not ids.any():
            return
        else:
            flat = np.zeros(storage.nbytes() // tensor.itemsize, dtype=np.int32)
        _view(flat, tensor)[...] = ids
        held.ids = flat

    def share(self, tensor: Tensor, source: Tensor) -> None:
        """Give ``tensor`` the ids of ``source``, a tensor of the same shape."""
        old = self._found(key(source))
        if old is None or old.ids is None:
            return
        storage = tensor.untyped_storage()
        alike = (
            storage.nbytes() // tensor.itemsize == old.ids.size
            and tensor.stride() == source.stride()
            and tensor.storage_offset() == source.storage_offset()
        )
        if alike and not self.has(tensor):
            self._held(tensor).ids = old.ids
        else:
            self.put(tensor, _view(old.ids, source))

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
            if len(self._of) > self._sweep_at:
                self._of = {at: one for at, one in self._of.items() if not one.storage.expired()}
                self._sweep_at = 2 * len(self._of) + 256
        return held


def key(tensor: Tensor) -> int:
    """What identifies the storage of a tensor while that is alive; 0 for an empty one."""
    return tensor.untyped_storage().data_ptr()


def _view(flat: IdArray, tensor: Tensor) -> IdArray:
    seen: IdArray = np.ndarray(
        tuple(map(int, tensor.shape)),
        dtype=np.int32,
        buffer=flat,
        offset=4 * tensor.storage_offset(),
        strides=[4 * step for step in tensor.stride()],
    )
    return seen


def compact(ids: IdArray) -> IdArray:
    """The same ids of the same shape, in memory of their own: one for each channel of a picture.

    What is kept of every module's inputs would otherwise keep whole activations.
    """
    if ids.ndim > 2:
        whole = (slice(None), slice(None))
        line: IdArray = ids[whole + (slice(0, 1),) * (ids.ndim - 2)]
        if (ids == line).all():
            kept: IdArray = np.broadcast_to(line.copy(), ids.shape)
            return kept
    copied: IdArray = ids.copy()
    return copied
