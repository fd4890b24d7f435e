"""Pictures: SVG that takes its colours from the page it stands in, and PNG of detections."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from yoloprune.plain import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand-in colours: matplotlib writes them out, and :func:`_themed` puts the page's CSS variables
# in their place, so that one picture serves the light and the dark page.
_INK, _LINE, _BEFORE, _AFTER, _GONE, _MARK = (f"#0a0b0{i}" for i in range(1, 7))
_VARIABLES = {
    _INK: "var(--muted)",
    _LINE: "var(--line)",
    _BEFORE: "var(--before)",
    _AFTER: "var(--after)",
    _GONE: "var(--gone)",
    _MARK: "var(--mark)",
}
# Okabe and Ito 2008: told apart by colour-blind readers too.
_BOX_COLOURS = ("#56b4e9", "#e69f00", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#0072b2")


def channels_svg(before: Sequence[int], after: Sequence[int]) -> str:
    """Channels of each layer before and after, as bars in network order.

    Args:
        before: output channels of each layer.
        after: the same layers, slimmed.

    Returns:
        An ``<svg>`` element for a page that defines ``--before --after --muted --line``.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = _chart(height=2.7)
    x = np.arange(len(before))
    axes.bar(x, before, width=0.82, color=_BEFORE)
    axes.bar(x, after, width=0.82, color=_AFTER)
    axes.set_xlim(-0.8, max(len(before), 1) - 0.2)
    axes.set_xlabel("layer, in network order")
    axes.set_ylabel("output channels")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _themed(figure, "channels")


def repair_svg(before: Sequence[float], after: Sequence[float]) -> str:
    """Error of each layer on held-out pictures, before and after repair, in network order.

    Args:
        before: mean square error of each layer, as a share of its output's variance.
        after: the same layers, repaired.

    Returns:
        An ``<svg>`` element for a page that defines ``--gone --after --muted --line``.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = _chart(height=2.7)
    x = np.arange(len(before))
    least = 1e-4
    axes.bar(x, np.clip(before, least, 1), width=0.82, color=_GONE, alpha=0.55)
    axes.bar(x, np.clip(after, least, 1), width=0.82, color=_AFTER)
    axes.set_yscale("log")
    axes.set_ylim(least, 1)
    axes.set_yticks([1e-4, 1e-3, 1e-2, 1e-1, 1], ["0.01 %", "0.1 %", "1 %", "10 %", "100 %"])
    axes.minorticks_off()
    axes.set_xlim(-0.8, max(len(before), 1) - 0.2)
    axes.set_xlabel("layer, in network order")
    axes.set_ylabel("error (log scale)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _themed(figure, "repair")


def scores_svg(
    kept: NDArray[np.float64], removed: NDArray[np.float64], threshold: float, label: str
) -> str:
    """Histogram of the units' scores, the removed apart from the kept, and the threshold.

    Args:
        kept: float64 ``[k]``.
        removed: float64 ``[r]``.
        threshold: the highest removed score.
        label: what the score is.

    Returns:
        An ``<svg>`` element for a page that defines ``--after --gone --mark --muted --line``.
    """
    figure, axes = _chart(height=2.7)
    values = np.concatenate([kept, removed])
    # A few far outliers would press everything else into one bar; the last bar holds them.
    top = float(np.quantile(values, 0.995)) if values.size else 1.0
    edges = np.linspace(0, max(top, threshold, 1e-12) * 1.02, 61)
    for part, colour in ((kept, _AFTER), (removed, _GONE)):
        count, _ = np.histogram(np.minimum(part, edges[-1]), edges)
        axes.bar(
            edges[:-1], count, width=np.diff(edges), align="edge", color=colour, alpha=0.85,
            linewidth=0,
        )  # fmt: skip
    axes.axvline(threshold, color=_MARK, linewidth=1.4, linestyle=(0, (4, 3)))
    axes.set_xlim(edges[0] - 0.01 * edges[-1], edges[-1])
    # Exact zeros make one bar hundreds of times as tall as the rest.
    axes.set_yscale("symlog", linthresh=10, linscale=0.6)
    axes.set_ylim(0, max(axes.get_ylim()[1] * 1.5, 12))
    ticks = [0, *(10**k for k in range(1, 6) if 10**k <= axes.get_ylim()[1])]
    axes.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(label)
    axes.set_ylabel("units (log scale)")
    return _themed(figure, "scores")


def drop_svg(
    macs: Sequence[float], values: Sequence[float], full: float, bound: float, chosen: int
) -> str:
    """AP over multiply-adds of the cuts that were tried, and how low it may fall.

    Args:
        macs: of each cut, as a share of the full network's.
        values: AP of each, in [0, 1].
        full: of the full network.
        bound: what AP may fall by.
        chosen: index of the cut that was taken.

    Returns:
        An ``<svg>`` element for a page that defines ``--before --after --gone --mark --muted
        --line``.
    """
    figure, axes = _chart(height=2.7)
    axes.axhline(full - bound, color=_MARK, linewidth=1.4, linestyle=(0, (4, 3)))
    axes.scatter([1.0], [full], s=60, color=_BEFORE, zorder=3)
    held = [value >= full - bound - 1e-9 for value in values]
    for wanted, colour in ((True, _AFTER), (False, _GONE)):
        at = [i for i, one in enumerate(held) if one == wanted]
        axes.scatter([macs[i] for i in at], [values[i] for i in at], s=44, color=colour, zorder=3)
    axes.scatter([macs[chosen]], [values[chosen]], s=150, facecolors="none", edgecolors=_AFTER)
    axes.set_xlim(0, 1.04)
    axes.set_xlabel("multiply-adds, share of the full network's")
    axes.set_ylabel("AP")
    return _themed(figure, "drop")


@dataclass(frozen=True, slots=True)
class Panel:
    """A picture with its detections.

    Attributes:
        image: uint8 ``[H, W, 3]``, BGR as OpenCV reads it.
        boxes: as ``predict`` gives them: ``name``, ``confidence`` in [0, 1] and ``xyxy`` in
            pixels of the picture, ``[left, top, right, bottom]``.
        title: what stands above it.
    """

    image: NDArray[np.uint8]
    boxes: Sequence[Mapping[str, Any]]
    title: str


def detections_picture(*panels: Panel) -> bytes:
    """Pictures with their detections, side by side; a class has one colour in all of them.

    Returns:
        A PNG file's bytes.
    """
    from matplotlib.figure import Figure

    names = sorted({str(box["name"]) for panel in panels for box in panel.boxes})
    colours = {name: _BOX_COLOURS[i % len(_BOX_COLOURS)] for i, name in enumerate(names)}
    ratios = [panel.image.shape[1] / panel.image.shape[0] for panel in panels]
    height, gap, band = 4.6, 0.18, 0.42
    figure = Figure(figsize=(height * sum(ratios) + (len(panels) + 1) * gap, height + gap + band))
    figure.set_facecolor("white")
    width, tall = figure.get_size_inches()
    left = gap
    for panel, ratio in zip(panels, ratios, strict=True):
        place = (left / width, gap / tall, height * ratio / width, height / tall)
        _draw_boxes(figure.add_axes(place), panel.image, panel.boxes, colours)
        figure.text(
            left / width, (gap + height + 0.12) / tall, plain(panel.title), fontsize=12,
            weight="bold", color="#1c2530", parse_math=False,
        )  # fmt: skip
        left += height * ratio + gap
    file = io.BytesIO()
    with warnings.catch_warnings():
        # A name in a script that no font at hand has is drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(file, format="png", dpi=140, metadata={"Software": None})
    return file.getvalue()


def _draw_boxes(
    axes: Axes,
    image: NDArray[np.uint8],
    boxes: Sequence[Mapping[str, Any]],
    colours: Mapping[str, str],
) -> None:
    """One picture with its boxes, the surest on top."""
    from matplotlib.patches import Rectangle

    axes.imshow(image[:, :, ::-1], interpolation="lanczos")
    axes.set_axis_off()
    for box in sorted(boxes, key=lambda box: float(box["confidence"])):
        x1, y1, x2, y2 = map(float, box["xyxy"])
        colour = colours[str(box["name"])]
        axes.add_patch(
            Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=2)
        )
        axes.text(
            x1, max(y1, 0), f"{plain(str(box['name']))} {float(box['confidence']):.0%}",
            fontsize=8.5, color="#10151b", parse_math=False, clip_on=True,
            va="bottom" if y1 > 0.05 * image.shape[0] else "top",
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.6},
        )  # fmt: skip


def _chart(height: float) -> tuple[Figure, Axes]:
    """An empty chart in the page's style; no pyplot, hence no global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.2, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_LINE)
    axes.tick_params(colors=_INK, labelsize=9, length=0, pad=5)
    axes.grid(axis="y", color=_LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(_INK)
        axis.label.set_fontsize(9.5)
    return figure, axes


def _themed(figure: Figure, name: str) -> str:
    """The ``<svg>`` element of a figure, its colours those of the page."""
    import matplotlib as mpl

    file = io.StringIO()
    # Text stays text (small, sharp, found by search); the salt makes ids repeatable and keeps
    # those of two pictures on one page apart.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg
