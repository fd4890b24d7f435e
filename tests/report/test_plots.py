"""Pictures, read back: colours from the PNG."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from yoloprune.report.plots import Panel, detections_picture


def test_boxes_stand_where_they_were_found() -> None:
    grey = np.full((200, 300, 3), 90, dtype=np.uint8)
    box = {"name": "dog", "confidence": 0.9, "xyxy": [150, 100, 250, 180]}
    png = detections_picture(Panel(grey, [box], "with"), Panel(grey, [], "without"))
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    # The two pictures are the only large grey areas: find them, then the coloured pixels.
    columns = np.flatnonzero((picture == 90).all(axis=2).mean(axis=0) > 0.4)
    split = int(np.argmax(np.diff(columns)))
    left, right = columns[: split + 1], columns[split + 1 :]
    coloured = (picture.max(axis=2).astype(int) - picture.min(axis=2)) > 60
    assert coloured[:, left].any()
    assert not coloured[:, right[0] :].any()
    x = np.flatnonzero(coloured.any(axis=0))
    scale = (left[-1] - left[0] + 1) / 300
    assert (x[0] - left[0]) / scale == pytest.approx(150, abs=3)
    assert (x[-1] - left[0]) / scale == pytest.approx(250, abs=3)


NAMES = [
    "disc [i]x[/i]", r"$\frac{$", "$x^2$ and $y$", "a\nb\x1b[2J\u202e", "球 🎈", "\udce9", "_{x}^",
]  # fmt: skip


def drawn(name: str) -> np.ndarray:
    box = {"name": name, "confidence": 0.5, "xyxy": [8, 30, 60, 60]}
    png = detections_picture(Panel(np.full((80, 320, 3), 90, dtype=np.uint8), [box], name))
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image.astype(int)


@pytest.mark.parametrize("name", NAMES)
def test_any_name_can_be_drawn(name: str) -> None:
    assert (drawn(name) != drawn("")).any()


def test_a_name_is_no_mathematics() -> None:
    blank = drawn("")
    letters, formula = (
        np.ptp(np.flatnonzero((drawn(name) != blank)[:40].any((0, 2))))
        for name in ("x" * 4, "$" + r"\alpha" * 4 + "$")
    )
    assert formula > 2.5 * letters  # 26 characters; read as mathematics, 4 letters
