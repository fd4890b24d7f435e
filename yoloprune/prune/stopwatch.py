"""How long the stages of a cut take."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


class Stopwatch:
    """Wall time by stage, in seconds."""

    def __init__(self) -> None:
        """Begin with none."""
        self.seconds: dict[str, float] = {}

    def run(self, name: str, stage: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Run one stage, and add up what it took."""
        start = time.perf_counter()
        result = stage(*args, **options)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        return result
