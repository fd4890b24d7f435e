"""What a file may ask for, before any of it is given: limits that a user can raise."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from yoloprune.errors import YoloPruneError

MEMORY_VARIABLE = "YOLOPRUNE_MAX_MEMORY"
"""Environment variable: bytes that a network may need, such as ``16G`` or ``500M``."""
MAX_MEMORY = 8 << 30
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def count_from(
    variable: str, default: int, what: str, error: Callable[[str], YoloPruneError]
) -> int:
    """A limit in whole numbers: the default, or what the user's environment says.

    Args:
        variable: its name.
        default: where it is not set.
        what: that is counted, for people.
        error: what to raise.

    Raises:
        YoloPruneError: the environment says no number.
    """
    wanted = os.environ.get(variable, "")
    if wanted and not wanted.isdecimal():
        raise error(f"{variable}: expected a number of {what}, got {wanted!r}.")
    return int(wanted) if wanted else default


def max_memory(error: Callable[[str], YoloPruneError]) -> int:
    """Bytes that a network may need: 8 GiB, or what the user's environment says.

    Raises:
        YoloPruneError: the environment says no number of bytes.
    """
    wanted = os.environ.get(MEMORY_VARIABLE, "").strip()
    if not wanted:
        return MAX_MEMORY
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)\s*([KMGT]?)(?:i?B)?", wanted, re.IGNORECASE)
    if match is None or float(match[1]) <= 0:
        raise error(f"{MEMORY_VARIABLE}: expected bytes such as 16G or 500M, got {wanted[:40]!r}.")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def check_memory(need: int, where: str, error: Callable[[str], YoloPruneError]) -> None:
    """Refuse what needs more memory than it may.

    Args:
        need: estimated bytes.
        where: what needs them, for people.
        error: what to raise.

    Raises:
        YoloPruneError: it is more than :func:`max_memory`.
    """
    most = max_memory(error)
    if need > most:
        raise error(
            f"{where}: would need about {need / (1 << 30):.1f} GiB of memory, expected at most "
            f"{most / (1 << 30):.1f}. If it is right, set {MEMORY_VARIABLE} higher, such as "
            f"{-(-need // (1 << 30)) + 1}G."
        )
