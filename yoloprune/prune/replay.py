"""Choices that depend on the picture, made once and taken over.

A network that picks its best places (``topk``) goes on with these alone. A cut copy would pick
others, and what it then gives could not be held against what the full network gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_CHOICES = (torch.topk, Tensor.topk)


class Recorder(TorchFunctionMode):
    """Keeps what ``topk`` picks.

    Args:
        choices: indices are added here, in order.
    """

    def __init__(self, choices: list[Tensor]) -> None:
        super().__init__()
        self._choices = choices

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in _CHOICES:
            self._choices.append(out.indices)
        return out


class Replayer(TorchFunctionMode):
    """Lets ``topk`` pick what it picked before, as far as that fits.

    Args:
        choices: what :class:`Recorder` kept; not modified.
    """

    def __init__(self, choices: list[Tensor]) -> None:
        super().__init__()
        self._choices = iter(choices)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func not in _CHOICES:
            return out
        before = next(self._choices, None)
        if before is None or before.shape != out.indices.shape:
            return out
        names = ("input", "k", "dim")
        given = {"dim": -1, **dict(zip(names, args, strict=False)), **(kwargs or {})}
        values = given["input"].gather(given["dim"], before)
        return torch.return_types.topk((values, before))
