"""Drawings as SVG for pages: numbers and words, coloured by the page's own style sheet.

A shape has a class, and the page says what that looks like in light, dark and print. A drawing
is made twice, for wide and for narrow screens, as text in a shrunken picture cannot be read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from yoloprune.plain import plain

if TYPE_CHECKING:
    from markupsafe import Markup

WIDE, NARROW = 920, 350
"""Widths of drawings in CSS pixels; the style sheet shows one of the two."""
_CHARACTER = 7.0
"""Width of a character of a chart's text in pixels, on average and a little more."""


class Drawing:
    """An SVG element that grows shape by shape; coordinates in pixels from the top left."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self._shapes: list[str] = []

    def rect(
        self, x: float, y: float, width: float, height: float, kind: str, title: str = ""
    ) -> None:
        """A filled rectangle."""
        place = f'x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}"'
        self._add("rect", place, kind, title)

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """A straight line."""
        place = f'x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}"'
        self._add("line", place, kind)

    def path(self, points: Sequence[tuple[float, float]], kind: str, title: str = "") -> None:
        """A line through points, or a shape where its class fills it."""
        d = "M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in points)
        self._add("path", f'd="{d}"', kind, title)

    def circle(self, x: float, y: float, radius: float, kind: str, title: str = "") -> None:
        """A disc."""
        self._add("circle", f'cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}"', kind, title)

    @contextmanager
    def group(self, title: str) -> Iterator[None]:
        """Shapes that a pointer is told one thing of."""
        from markupsafe import escape

        self._shapes.append(f"<g><title>{escape(plain(title))}</title>")
        yield
        self._shapes.append("</g>")

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
        """Words, their base line at ``y``."""
        from markupsafe import escape

        place = f'x="{_n(x)}" y="{_n(y)}"'
        place += "" if anchor == "start" else f' text-anchor="{anchor}"'
        cls = f' class="{kind}"' if kind else ""
        self._shapes.append(f"<text {place}{cls}>{escape(plain(text))}</text>")

    def markup(self, label: str) -> Markup:
        """The element; ``label`` is read out in its place."""
        from markupsafe import Markup, escape

        size = f'viewBox="0 0 {_n(self.width)} {_n(self.height)}"'
        head = f'<svg {size} role="img" aria-label="{escape(plain(label))}">'
        return Markup(head + "".join(self._shapes) + "</svg>")

    def _add(self, tag: str, place: str, kind: str, title: str = "") -> None:
        from markupsafe import escape

        inner = f"><title>{escape(plain(title))}</title></{tag}>" if title else "/>"
        self._shapes.append(f'<{tag} {place} class="{kind}"{inner}')


def responsive(draw: Callable[[int], Drawing], label: str) -> Markup:
    """A drawing for wide screens and paper, and one for narrow screens.

    Args:
        draw: makes it in a width in pixels.
        label: what it shows, for those who cannot see it.
    """
    from markupsafe import Markup

    wide, narrow = (draw(width).markup(label) for width in (WIDE, NARROW))
    return Markup('<div class="chart wide">{}</div><div class="chart narrow">{}</div>').format(
        wide, narrow
    )


def text_width(text: str) -> float:
    """About how wide a chart's text is, in pixels."""
    return _CHARACTER * len(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Values → pixels, linear or logarithmic.

    Attributes:
        low, high: values at the ends.
        start, end: pixels there.
        log: whether equal factors are equally far apart.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value; beyond the ends it stays at them."""
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return self.start + (at - low) / ((high - low) or 1.0) * (self.end - self.start)

    def ticks(self, most: int) -> list[float]:
        """Round values within the ends, at most so many."""
        return (
            _decades(self.low, self.high, most) if self.log else _steps(self.low, self.high, most)
        )


def _steps(low: float, high: float, most: int) -> list[float]:
    rough = (high - low) / max(most, 1)
    if rough <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * nice for nice in (1, 2, 2.5, 5, 10) if power * nice >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(step * at, 12) for at in range(first, last + 1)]


def _decades(low: float, high: float, most: int) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for nice in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        found = [n * 10.0**p for p in powers for n in nice]
        found = [value for value in found if low * 0.999 <= value <= high * 1.001]
        if len(found) <= most:
            break
    return found


def tick_text(value: float, ticks: Sequence[float]) -> str:
    """A tick's figure, with as many decimals as all of them need."""
    digits = next((n for n in range(6) if all(abs(round(t, n) - t) < 1e-9 for t in ticks)), 6)
    return f"{value:,.{digits}f}"


def _n(value: float) -> str:
    """A coordinate, to a tenth of a pixel."""
    text = f"{value:.1f}"
    return text[:-2] if text.endswith(".0") else text
