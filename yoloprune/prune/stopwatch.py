"""How long the stages of a cut take; while one does, a terminal says which."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from yoloprune import progress

_WORDS = {
    "trace": "tracing",
    "score": "scoring",
    "share": "sharing out",
    "search": "searching",
    "plan": "planning",
    "split": "splitting routes",
    "blocks": "preparing",
    "profile": "preparing times",
    "cut": "cutting",
    "self_test": "testing the cut",
    "repair": "repairing",
    "save": "saving",
    "measure": "timing both networks",
    "time": "timing the cut",
    "val": "measuring accuracy",
    "fast_path": "looking for the fast path",
    "outline": "adding up",
}
"""Stage → what a terminal shows while it runs."""
_TIMED = {"profile", "measure", "time"}
"""Stages that take times."""


class Stopwatch:
    """Wall time by stage, in seconds."""

    def __init__(self) -> None:
        """Begin with none."""
        self.seconds: dict[str, float] = {}

    def run(self, name: str, stage: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Run one stage, and add up what it took."""
        start = time.perf_counter()
        with progress.stage(_WORDS.get(name, name), still=name in _TIMED):
            result = stage(*args, **options)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        return result
