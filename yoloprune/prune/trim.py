"""Memory that nobody uses, given back to the system."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable
from typing import Any


def trim() -> None:
    """Have glibc let go of what it keeps for later; where there is no glibc, do nothing.

    It keeps what is freed in a heap for every thread, up to 32 MiB a piece. Passes that run in
    turn, each in a thread of its own, leave as much behind as they ever held.
    """
    found = _malloc_trim()
    if found is not None:
        found(0)


@functools.cache
def _malloc_trim() -> Callable[[int], Any] | None:
    if sys.platform != "linux":
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
