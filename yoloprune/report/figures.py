"""Figures as people read them: three digits, units, signs."""

from __future__ import annotations

UNKNOWN = "–"
"""Stands where nothing was measured."""


def number(value: float) -> str:
    """Three significant digits, never in powers of ten."""
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f}"


def quantity(value: float, unit: str = "") -> str:
    """A count with a prefix of 1000s: ``3.01 M``, ``6.22 MB``; small ones whole."""
    for limit, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{number(value / limit)} {prefix}{unit}"
    return f"{value:.0f} {unit}".rstrip()


def short(value: float) -> str:
    """A count at its shortest, where there is little room: ``6.06 M``, ``135 M``, ``12``."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * limit:  # what three digits round up to the limit
            return f"{value / limit:.3g} {unit}"
    return f"{value:.3g}"


def milliseconds(value: float) -> str:
    """A time in ms."""
    return f"{number(value)} ms"


def signed(value: float, digits: int) -> str:
    """With a sign, also of what rounds to zero."""
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return f"±{text}"
    return f"{'−' if value < 0 else '+'}{text}"


def times(ratio: float) -> str:
    """A factor: ``1.28×``, ``12.4×``."""
    return f"{ratio:.{2 if ratio < 10 else 1}f}×"


def share(value: float, digits: int = 0) -> str:
    """A share as percent."""
    return f"{100 * value:.{digits}f} %"


def plural(count: int, noun: str) -> str:
    """``1 picture``, ``2 pictures``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
