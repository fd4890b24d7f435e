"""Charts of a page: histograms, and the layers of a network in their order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from yoloprune.report.figures import share
from yoloprune.report.svg import Drawing, Scale, responsive

if TYPE_CHECKING:
    from markupsafe import Markup

_LEFT, _RIGHT, _GAP = 54, 8, 40
_LEAST_ERROR = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer before and after.

    Attributes:
        path: module path.
        before, after: output channels.
        error: mean square error of its output before and after repair, as shares of its variance;
            None where it was not repaired.
        off: why it leaves the fast path after the cut; empty where it does not.
    """

    path: str
    before: int
    after: int
    error: tuple[float, float] | None = None
    off: str = ""

    @property
    def kept(self) -> float:
        """Share of its channels."""
        return self.after / self.before


def layer_strip(layers: Sequence[Layer]) -> Markup:
    """Channels of every layer, below them its error, and marks where it leaves the fast path.

    Args:
        layers: in network order, at least one.
    """
    return responsive(
        lambda width: _strip(layers, width), "Channels of each layer before and after"
    )


def _strip(layers: Sequence[Layer], width: int) -> Drawing:
    repaired = any(layer.error for layer in layers)
    tops = (22.0, 22.0 + 150 + _GAP)
    height = tops[1] + 110 if repaired else tops[0] + 150
    drawing = Drawing(width, height + 40)
    step = (width - _LEFT - _RIGHT) / max(len(layers), 1)
    bar = max(step * 0.82, 0.8)
    channels = Scale(
        low=0, high=max(layer.before for layer in layers), start=tops[0] + 150, end=tops[0]
    )
    _levels(drawing, channels, [(t, f"{t:,.0f}") for t in channels.ticks(4)])
    drawing.text(0, 11, "output channels")
    errors = Scale(low=_LEAST_ERROR, high=1, start=height, end=tops[1], log=True)
    if repaired:
        _levels(
            drawing,
            errors,
            [(t, share(t, max(0, -2 - round(math.log10(t))))) for t in (1e-4, 1e-2, 1)],
        )
        drawing.text(0, tops[1] - 11, "error, log scale")
    for index, layer in enumerate(layers):
        x = _LEFT + index * step
        with drawing.group(_told(layer)):
            bars: list[tuple[Scale, float, str]] = [
                (channels, layer.before, "before"),
                (channels, layer.after, "after"),
            ]
            if layer.error:
                bars += [(errors, layer.error[0], "gone faint"), (errors, layer.error[1], "after")]
            for scale, value, kind in bars:
                drawing.rect(x, scale(value), bar, scale.start - scale(value), kind)
            if layer.off:
                middle, y = x + bar / 2, channels(layer.before) - 4
                drawing.path([(middle - 4, y - 7), (middle + 4, y - 7), (middle, y)], "off")
    every = next((n for n in (1, 5, 10, 20, 50, 100) if step * n >= 28), len(layers))
    for index in range(0, len(layers), every):
        drawing.text(_LEFT + index * step + bar / 2, height + 16, str(index + 1), "", "middle")
    drawing.text(_LEFT, height + 34, "layer, in network order")
    return drawing


def _told(layer: Layer) -> str:
    text = f"{layer.path}: {layer.before} → {layer.after} channels"
    if layer.error:
        text += f"; error {share(layer.error[0], 1)} → {share(layer.error[1], 1)}"
    return text + (f"; {layer.off}" if layer.off else "")


def _levels(drawing: Drawing, scale: Scale, levels: Sequence[tuple[float, str]]) -> None:
    """Horizontal lines with their figures to the left."""
    for value, text in levels:
        y = scale(value)
        drawing.line(_LEFT, y, drawing.width - _RIGHT, y, "grid")
        drawing.text(_LEFT - 8, y + 4, text, "", "end")


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """One series of a histogram.

    Attributes:
        values: how many in each bin.
        kind: class of its bars.
        name: what they are, for people.
    """

    values: Sequence[int]
    kind: str
    name: str


def histogram(
    edges: Sequence[float], series: Sequence[Counts], label: str, mark: float | None = None
) -> Markup:
    """Counts of values, several series in front of one another; counts on a log scale.

    Args:
        edges: of the bins, one more than there are.
        series: the one in front last.
        label: what the values are.
        mark: a value with a dashed line.
    """
    return responsive(lambda width: _histogram(edges, series, label, mark, width), label)


def _histogram(
    edges: Sequence[float],
    series: Sequence[Counts],
    label: str,
    mark: float | None,
    width: int,
) -> Drawing:
    top, bottom = 22.0, 190.0
    drawing = Drawing(width, bottom + 40)
    most = max((max(one.values, default=0) for one in series), default=0)
    x = Scale(low=edges[0], high=edges[-1], start=_LEFT, end=width - _RIGHT)
    y = Scale(low=0, high=math.log1p(max(most, 9)), start=bottom, end=top)
    levels = [0, *(10**power for power in range(8) if 10**power <= max(most, 9))]
    _levels(drawing, y, [(math.log1p(level), f"{level:,}") for level in levels if level != 1])
    drawing.text(0, 11, "count, log scale")
    for one in series:
        for low, high, count in zip(edges, edges[1:], one.values, strict=False):
            if count:
                at, title = y(math.log1p(count)), f"{one.name}: {count:,}, {low:.3g} to {high:.3g}"
                drawing.rect(
                    x(low), at, max(x(high) - x(low) - 0.6, 0.6), bottom - at, one.kind, title
                )
    if mark is not None:
        drawing.line(x(mark), top - 6, x(mark), bottom, "dash")
    ticks = x.ticks(8 if width > 500 else 4)
    for tick in ticks:
        drawing.text(x(tick), bottom + 16, f"{tick:.4g}", "", "middle")
    drawing.text(_LEFT, bottom + 34, label)
    return drawing
