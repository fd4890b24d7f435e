"""Wall time by stage."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


class Stopwatch:
    """Wall time by stage.

    Attributes:
        seconds: stage → what it took, all its runs together.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def run(self, name: str, stage: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Run one stage, and add up what it took."""
        start = time.perf_counter()
        result = stage(*args, **options)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        return result
