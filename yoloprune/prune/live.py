"""How much memory a forward pass holds at each of its layers."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from yoloprune.channels.table import tensors_in


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what the tensors that are made in it hold, as long as they are alive.

    Attributes:
        now: bytes at present.
        most: at the worst moment.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._holders: dict[int, int] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True would import all of torch's compiler

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tensors_in(out):
            self._hold(tensor)
        return out

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        if not size:
            return
        if place not in self._holders:
            self.now += size
            self.most = max(self.most, self.now)
        self._holders[place] = self._holders.get(place, 0) + 1
        weakref.finalize(tensor, self._let_go, place, size)

    def _let_go(self, place: int, size: int) -> None:
        self._holders[place] -= 1
        if not self._holders[place]:
            del self._holders[place]
            self.now -= size


def live_bytes(
    model: nn.Module, picture: Tensor, layers: Mapping[str, nn.Module]
) -> dict[str, int]:
    """What a forward pass holds as it comes to each layer, and at its worst.

    Args:
        model: is run.
        picture: one batch.
        layers: path → layer of ``model``.

    Returns:
        Path → bytes at the layer's first call; under ``""`` the most at any time.
    """
    found: dict[str, int] = {}
    counter = LiveBytes()
    handles = []
    for path, layer in layers.items():

        def note(module: nn.Module, args: Any, path: str = path) -> None:
            found.setdefault(path, counter.now)

        handles.append(layer.register_forward_pre_hook(note))
    try:
        with torch.no_grad(), counter:
            model(picture)
    finally:
        for handle in handles:
            handle.remove()
    return {**found, "": counter.most}
