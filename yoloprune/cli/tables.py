"""Tables for people, made from the same records as the JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def console_of() -> Console:
    """Where tables go."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=False)


def quantity(value: float) -> str:
    """A count with a decimal prefix: ``6.06 M``."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.3g}"


def size_of(imgsz: list[int]) -> str:
    """Width and height of an input."""
    return f"{imgsz[1]}×{imgsz[0]}"


def time_of(side: Mapping[str, Any], key: str) -> str:
    """A median with its spread."""
    spread = side.get("latency_iqr_ms")
    return f"{side[key]:.2f}" + (f" ± {spread:.2f}" if spread is not None else "")
