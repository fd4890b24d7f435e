"""Boxes, drawn into a picture of its own size: a frame, the class and how sure, nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from yoloprune.plain import plain
from yoloprune.report.plots import BOX_COLOURS

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

ImageArray = NDArray[np.uint8]
Colour = tuple[int, int, int]
"""Blue, green, red."""
_INK: Colour = (27, 21, 16)
_LEAST_TEXT = 10
"""Pixels; smaller letters cannot be read."""


def colours_of(names: Iterable[str]) -> dict[str, Colour]:
    """A colour for each class, the same in every picture of one model.

    Args:
        names: of all classes, in order.
    """
    return {
        name: _bgr(BOX_COLOURS[i % len(BOX_COLOURS)]) for i, name in enumerate(dict.fromkeys(names))
    }


def draw_boxes(
    image: ImageArray, boxes: Sequence[Mapping[str, Any]], colours: Mapping[str, Colour]
) -> ImageArray:
    """A copy of a picture with boxes, the surest on top.

    Args:
        image: uint8 ``[H, W, 3]`` BGR. Not modified.
        boxes: ``name``, ``confidence`` in [0, 1] and ``xyxy`` in pixels of the picture, each.
        colours: of :func:`colours_of`.

    Returns:
        uint8 ``[H, W, 3]`` BGR.
    """
    drawn: ImageArray = image.copy()
    height, width = drawn.shape[:2]
    line = max(round((height + width) / 2 * 0.003), 2)
    text = max(round((height + width) / 2 * 0.022), _LEAST_TEXT)
    surest_last = [
        (box, colours[str(box["name"])], [round(float(v)) for v in box["xyxy"]])
        for box in sorted(boxes, key=lambda box: float(box["confidence"]))
    ]
    for _, colour, (x1, y1, x2, y2) in surest_last:
        cv2.rectangle(drawn, (x1, y1), (x2, y2), colour, line)
    for box, colour, (x1, y1, _, _) in surest_last:  # no frame goes through letters
        label = _label(f"{box['name']} {float(box['confidence']):.2f}", text, colour)
        _put(drawn, label, x1 - line // 2, y1 - label.shape[0] if y1 >= label.shape[0] else y1)
    return drawn


def _put(image: ImageArray, label: ImageArray, x: int, y: int) -> None:
    """Lay a label into a picture, moved so that as much of it as can be is inside."""
    height, width = image.shape[:2]
    x = max(0, min(x, width - label.shape[1]))
    y = max(0, min(y, height - label.shape[0]))
    inside = label[: height - y, : width - x]
    image[y : y + inside.shape[0], x : x + inside.shape[1]] = inside


@lru_cache(maxsize=4096)
def _label(text: str, size: int, colour: Colour) -> ImageArray:
    """Letters on a ground of one colour, uint8 ``[h, w, 3]`` BGR."""
    from PIL import Image, ImageDraw

    font = _font(size)
    text = plain(text)
    left, _, right, _ = font.getbbox(text)
    ascent, descent = font.getmetrics()
    pad = max(size // 5, 1)
    extent = (int(right - left) + 2 * pad, ascent + descent + pad)
    image = Image.new("RGB", extent, colour[::-1])
    ink = _INK if _bright(colour) else (255, 255, 255)
    ImageDraw.Draw(image).text((pad - left, pad // 2), text, ink[::-1], font)
    return cast(ImageArray, np.asarray(image)[:, :, ::-1])


@lru_cache(maxsize=64)
def _font(size: int) -> FreeTypeFont:
    """DejaVu Sans, which matplotlib brings: Latin, Greek, Cyrillic and more."""
    import matplotlib
    from PIL import ImageFont

    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(str(path), size)


def _bgr(colour: str) -> Colour:
    """A colour that is written ``#rrggbb``."""
    red, green, blue = bytes.fromhex(colour[1:])
    return blue, green, red


def _bright(colour: Colour) -> bool:
    """Whether dark letters are read better on it (luma of ITU-R BT.601)."""
    blue, green, red = colour
    return 0.299 * red + 0.587 * green + 0.114 * blue > 110
