"""Modules that say of themselves that their channels cannot be followed.

What one forward pass shows may hold for the size of that pass only: Darknet's ``[reorg]`` keeps
its channels apart when height and width are multiples of stride², and mixes them otherwise. Such
a class carries an attribute ``opaque_channels = "why"``, and is treated as an operation without
a rule, whatever the picture.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from yoloprune.channels.shadow import key
from yoloprune.channels.tracer import Tracer

MARK = "opaque_channels"
"""Name of the class attribute; its value is the reason, for people."""


@dataclass(frozen=True, slots=True)
class Opaque:
    """One running call of a marked module.

    Attributes:
        reason: why its channels stay.
        first: the first id that was begun after it was entered.
        given: storages of its inputs.
    """

    reason: str
    first: int
    given: frozenset[int]

    @staticmethod
    def enter(tracer: Tracer, module: nn.Module, given: Iterable[Tensor]) -> Opaque | None:
        """Freeze what enters a marked module; ``None`` for any other."""
        why = getattr(type(module), MARK, None)
        if why is None:
            return None
        given = list(given)
        tracer.freeze(given, why)
        reason = f"{why} in {tracer.where}"
        return Opaque(reason, tracer.ids.count, frozenset(map(key, given)))

    def leave(self, tracer: Tracer, results: Iterable[Tensor]) -> None:
        """Give the results frozen channels of their own, and freeze what was begun inside."""
        for tensor in results:
            ids = tracer.get(tensor)
            if ids is not None:
                tracer.ids.freeze(np.unique(ids), self.reason)
            if tensor.dim() > 1 and key(tensor) not in self.given:
                fresh = tracer.ids.fresh(tensor.shape[1])
                tracer.shadows.put(tensor, fresh.reshape(1, -1, *([1] * (tensor.dim() - 2))))
        inside = np.arange(self.first, tracer.ids.count, dtype=np.int32)
        tracer.ids.freeze(inside, self.reason)
