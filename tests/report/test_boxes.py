"""Boxes in a picture of its own size: where they were found, in their class's colour."""

from __future__ import annotations

import numpy as np
import pytest

from yoloprune.report.boxes import colours_of, draw_boxes

RED = {"dog": (0, 0, 255), "cat": (255, 0, 0)}


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 90, dtype=np.uint8)


def test_a_box_is_a_frame_of_its_colour_and_all_else_stays() -> None:
    image = grey(400, 600)
    box = {"name": "dog", "confidence": 0.9, "xyxy": [300.4, 200, 500, 360]}
    drawn = draw_boxes(image, [box], RED)
    assert drawn.shape == image.shape and (image == 90).all()
    changed = (drawn != 90).any(axis=2)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert columns[0] == pytest.approx(300, abs=2) and columns[-1] == pytest.approx(500, abs=2)
    assert rows[-1] == pytest.approx(360, abs=2)
    assert 200 - 30 < rows[0] < 200 - 8  # the label stands above it
    assert tuple(drawn[280, 300]) == RED["dog"]
    assert not changed[210:350, 310:490].any()


@pytest.mark.parametrize(
    "xyxy", [[0, 0, 20, 20], [590, 5, 600, 395], [-30, -30, 700, 500], [300, 395, 300, 395]]
)
def test_a_label_stays_in_the_picture(xyxy: list[float]) -> None:
    drawn = draw_boxes(grey(400, 600), [{"name": "dog", "confidence": 1.0, "xyxy": xyxy}], RED)
    ground = (drawn == RED["dog"]).all(axis=2)
    assert ground.any()
    wide = max(np.flatnonzero(row).size for row in ground)
    assert wide > 20  # of "dog 1.00", not cut to nothing


def test_a_picture_smaller_than_a_label_is_drawn_on() -> None:
    box = {"name": "dog", "confidence": 0.5, "xyxy": [2, 2, 6, 6]}
    assert draw_boxes(grey(8, 8), [box], RED).shape == (8, 8, 3)


def test_the_surest_lies_on_top() -> None:
    boxes = [
        {"name": "dog", "confidence": 0.9, "xyxy": [100, 100, 300, 300]},
        {"name": "cat", "confidence": 0.3, "xyxy": [100, 100, 300, 300]},
    ]
    assert tuple(draw_boxes(grey(400, 400), boxes, RED)[200, 100]) == RED["dog"]


def test_any_name_is_drawn() -> None:
    names = ["κόσμος", "кошка", "猫", "$x^2$", "a\nb"]
    colours = colours_of(names)
    for name in names:
        box = {"name": name, "confidence": 0.5, "xyxy": [50, 50, 90, 90]}
        assert (draw_boxes(grey(100, 200), [box], colours) != 90).any()


def test_classes_have_colours_of_their_own() -> None:
    colours = colours_of(["a", "b", "a", "c"])
    assert list(colours) == ["a", "b", "c"] and len(set(colours.values())) == 3
