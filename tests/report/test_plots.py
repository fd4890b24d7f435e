"""Pictures, read back: bars from the SVG, colours from the PNG."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import cv2
import numpy as np
import pytest

from yoloprune.report.plots import Panel, channels_svg, detections_picture, drop_svg, scores_svg


def bars(svg: str, variable: str) -> list[float]:
    """Heights of the bars filled with one of the page's colours, in drawing units."""
    ET.fromstring(svg)
    heights = []
    for d in re.findall(rf'd="([^"]+)" [^>]*style="fill: var\({variable}\)', svg):
        ys = [float(y) for _, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", d)]
        heights.append(max(ys) - min(ys))
    return heights


def test_bars_are_as_high_as_the_layers_are_wide() -> None:
    svg = channels_svg([64, 32, 16], [32, 32, 4])
    before, after = bars(svg, "--before"), bars(svg, "--after")
    assert np.array(before) / before[0] == pytest.approx([1, 0.5, 0.25], abs=1e-3)
    assert np.array(after) / before[0] == pytest.approx([0.5, 0.5, 0.0625], abs=1e-3)


def test_removed_and_kept_scores_are_told_apart() -> None:
    svg = scores_svg(np.full(7, 1.0), np.full(3, 0.1), 0.1, "score")
    kept, removed = bars(svg, "--after"), bars(svg, "--gone")
    assert sum(h > 0 for h in kept) == sum(h > 0 for h in removed) == 1
    # Below ten the axis is linear.
    assert max(removed) / max(kept) == pytest.approx(3 / 7, abs=1e-3)


@pytest.mark.parametrize("values", [np.zeros(0), np.zeros(5)])
def test_empty_and_all_zero_scores_are_drawn(values: np.ndarray) -> None:
    ET.fromstring(scores_svg(values, values, 0.0, "score"))


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


def test_cuts_that_held_are_told_from_those_that_did_not() -> None:
    svg = drop_svg([0.5, 0.25, 0.375], [0.6, 0.4, 0.58], 0.62, 0.05, 2)
    ET.fromstring(svg)
    points = {
        variable: len(re.findall(rf"<use [^>]*style=\"fill: var\({variable}\)", svg))
        for variable in ("--before", "--after", "--gone")
    }
    assert points == {"--before": 1, "--after": 2, "--gone": 1}
