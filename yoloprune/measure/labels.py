"""YOLO label files: one object a line, ``class x y w h``, or ``class x1 y1 x2 y2 …``.

Coordinates are fractions of the image's width and height. A line with more than two corner
points is a polygon, of which the bounding box is taken; unless the data set has key points, which
stand behind the box: ``class x y w h px py (visible) …``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from yoloprune.errors import DataError
from yoloprune.texts import cut, read_text

LabelArray = NDArray[np.float64]

# Boxes that were rounded when they were written may leave the image by a hair.
_TOLERANCE = 0.01


def empty_labels() -> LabelArray:
    """The labels of an image that shows nothing: float64 ``[0, 5]``."""
    return np.zeros((0, 5), dtype=np.float64)


def parse_labels(text: str, *, classes: int, where: str, keypoints: int = 0) -> LabelArray:
    """Read the text of one label file.

    Args:
        text: content of the file.
        classes: number of classes of the data set; ids are ``0 … classes - 1``.
        where: how errors name the file.
        keypoints: numbers that stand behind each box; 0 for a data set without key points.

    Returns:
        float64 ``[n, 5]``: class id, centre x, centre y, width, height (fractions of the
        image). Objects without area and exact repetitions are left out, since neither Darknet
        nor Ultralytics trains on them.

    Raises:
        DataError: a line has a wrong count of numbers, something that is no number, a class id
            out of range or a coordinate outside the image.
    """
    rows: dict[tuple[float, ...], tuple[float, ...]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        numbers = _numbers(words, f"{where}:{number}", keypoints)
        row = _box(numbers, words, classes, f"{where}:{number}", keypoints)
        if row[3] > 0 and row[4] > 0:
            # Two people may fill one box; two polygons of one box are one object.
            rows[tuple(numbers) if keypoints else row] = row
    if not rows:
        return empty_labels()
    return np.array(list(rows.values()), dtype=np.float64)


def read_labels(path: Path, *, classes: int, keypoints: int = 0) -> LabelArray:
    """Read one label file; see `parse_labels`.

    Raises:
        DataError: the file cannot be read, is not text, or is malformed.
    """
    text = read_text(path, DataError)
    return parse_labels(text, classes=classes, where=str(path), keypoints=keypoints)


def label_path(image: Path) -> Path | None:
    """Find the label file of an image.

    The last folder called ``images`` is replaced by ``labels`` (the rule of Ultralytics and
    Darknet); where that file does not exist, the ``.txt`` beside the image (Darknet's other
    habit) is taken.

    Returns:
        The label file, or None where there is none: an image that shows nothing.
    """
    beside = image.with_suffix(".txt")
    candidates = [beside]
    parts = list(image.parts)
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[-2::-1].index("images")
        parts[last] = "labels"
        candidates.insert(0, Path(*parts).with_suffix(".txt"))
    return next((path for path in candidates if path.is_file()), None)


def _box(
    numbers: Sequence[float], words: Sequence[str], classes: int, where: str, keypoints: int
) -> tuple[float, ...]:
    class_id = numbers[0]
    if not class_id.is_integer() or not 0 <= class_id < classes:
        raise DataError(
            f"{where}: class id out of range, got {cut(words[0], 60)}, expected 0 … {classes - 1}."
            " Do the labels belong to this data file's list of names?"
        )
    # Key points that are not seen may lie anywhere; the box counts.
    given = numbers[1:5] if keypoints else numbers[1:]
    outside = [v for v in given if not -_TOLERANCE <= v <= 1 + _TOLERANCE]
    if outside:
        raise DataError(
            f"{where}: coordinate outside the image, got {outside[0]:g}, expected a fraction of"
            " its width or height in 0 … 1."
        )
    if keypoints or len(numbers) == 5:
        return tuple(numbers[:5])
    return (class_id, *_bounding_box(numbers[1:]))


def _numbers(words: Sequence[str], where: str, keypoints: int) -> list[float]:
    if keypoints and len(words) != 5 + keypoints:
        raise DataError(
            f"{where}: wrong count of numbers, got {len(words)}, expected {5 + keypoints} (class x"
            f" y w h, and {keypoints} of key points as the data file's kpt_shape says)."
        )
    if not keypoints and len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
        raise DataError(
            f"{where}: wrong count of numbers, got {len(words)}, expected 5 (class x y w h) or a"
            " polygon (class x1 y1 x2 y2 x3 y3 …)."
        )
    try:
        numbers = [float(word) for word in words]
    except ValueError as exc:
        raise DataError(f"{where}: not a number: {cut(str(exc), 60)}.") from exc
    for word, number in zip(words, numbers, strict=True):
        if not math.isfinite(number):
            raise DataError(f"{where}: not a finite number, got {cut(word, 60)!r}.")
    return numbers


def _bounding_box(points: Sequence[float]) -> tuple[float, float, float, float]:
    xs, ys = points[0::2], points[1::2]
    left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
    return ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
