"""Memory that nobody uses, shared by threads that run in turn and given back to the system."""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Any

_ARENA_MAX = -8
"""``M_ARENA_MAX`` of glibc's ``malloc.h``."""


def share_heap() -> None:
    """Have threads that begin from now on take memory from one heap; without glibc, do nothing.

    Else each has its own, which keeps for itself what is freed in it: passes that run in turn,
    each in a thread, then hold as much as if they ran at once.
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_ARENA_MAX, 1)


def trim() -> None:
    """Have glibc let go of what it keeps for later; where there is no glibc, do nothing.

    It keeps what is freed, up to 32 MiB a piece.
    """
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@functools.cache
def _glibc() -> Any:
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") and hasattr(libc, "mallopt") else None
