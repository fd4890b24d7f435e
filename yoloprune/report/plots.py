"""PNG pictures of detections."""

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

# Okabe and Ito 2008: told apart by colour-blind readers too.
BOX_COLOURS = ("#56b4e9", "#e69f00", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#0072b2")


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
    colours = {name: BOX_COLOURS[i % len(BOX_COLOURS)] for i, name in enumerate(names)}
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
