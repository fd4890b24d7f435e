"""Memory that was freed goes back to the system."""

from __future__ import annotations

import gc
import sys
import threading
from pathlib import Path

import pytest

from yoloprune.prune.trim import trim

MANY = 2000
SIZE = 64_000
"""Bytes a piece: too small for pages of their own, so that they lie in a heap."""


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_a_thread_freed_is_given_back() -> None:
    held: list[bytearray] = []
    thread = threading.Thread(target=lambda: held.extend(bytearray(SIZE) for _ in range(MANY)))
    thread.start()
    thread.join()
    full = resident()
    last = held.pop()  # what lies last keeps a heap from shrinking by itself
    held.clear()
    gc.collect()
    trim()
    assert full - resident() > 0.5 * MANY * SIZE
    del last
