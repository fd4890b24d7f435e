"""The full network under the names of a shorter one, so that each layer finds its target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


class Aligned(nn.Module):
    """The full network, whose layers go by the paths that they have in a shorter one.

    Args:
        full: the network. Shared, not copied.
        names: path of a module in the shorter network → its path in ``full``.
    """

    def __init__(self, full: nn.Module, names: Mapping[str, str]) -> None:
        super().__init__()
        for path, old in names.items():
            module = full.get_submodule(old)
            if path and not any(True for _ in module.children()):
                self._enter(path, module)
        self.full = full

    def _enter(self, path: str, module: nn.Module) -> None:
        *around, key = path.split(".")
        place: nn.Module = self
        for name in around:
            if name not in dict(place.named_children()):
                place.add_module(name, nn.Module())
            place = place.get_submodule(name)
        place.add_module(key, module)

    def forward(self, *args: Any) -> Any:
        """What the full network gives."""
        return self.full(*args)
