"""Shadows: for every activation, an array of channel ids of its own shape.

A shadow belongs to a *storage*, not to a tensor, and is laid out like it. Whatever aliases the
storage (a view, a slice, a tensor written in place) therefore finds its ids by its own size,
strides and offset, and structural operations need no rule at all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from yoloprune.channels.ids import IdArray


class Shadows:
    """The shadows of all storages that were met in one forward pass.

    Storages are kept alive, so that an address never comes to mean another one. The arrays are
    never written: a new one takes the place of the old.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self._of: dict[int, tuple[IdArray, Any]] = {}

    def get(self, tensor: Tensor) -> IdArray | None:
        """The ids of a tensor, of its shape, or ``None`` where it carries no channels."""
        found = self._of.get(key(tensor))
        return None if found is None else _view(found[0], tensor)

    def has(self, tensor: Tensor) -> bool:
        """Whether :meth:`get` would find ids."""
        return key(tensor) in self._of

    def put(self, tensor: Tensor, ids: IdArray) -> None:
        """Give a tensor ids (broadcast to its shape); the rest of its storage keeps its own."""
        storage = tensor.untyped_storage()
        where = storage.data_ptr()
        if not where:
            return
        old = self._of.get(where)
        if old is not None:
            flat = old[0].copy()
        elif not ids.any():
            return
        else:
            flat = np.zeros(storage.nbytes() // tensor.itemsize, dtype=np.int32)
        _view(flat, tensor)[...] = ids
        self._of[where] = (flat, storage)

    def share(self, tensor: Tensor, source: Tensor) -> None:
        """Give ``tensor`` the ids of ``source``, a tensor of the same shape."""
        old = self._of.get(key(source))
        if old is None:
            return
        storage = tensor.untyped_storage()
        alike = (
            storage.nbytes() // tensor.itemsize == old[0].size
            and tensor.stride() == source.stride()
            and tensor.storage_offset() == source.storage_offset()
        )
        if alike and storage.data_ptr() not in self._of:
            self._of[storage.data_ptr()] = (old[0], storage)
        else:
            self.put(tensor, _view(old[0], source))


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
