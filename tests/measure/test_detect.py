"""Non-maximum suppression against an own brute force and OpenCV's; detection end to end."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from yoloprune.errors import MeasureError
from yoloprune.measure.detect import DetectOptions, decode, detect


def random_output(classes: int = 3, count: int = 200) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    centre = torch.rand(2, count, generator=generator) * 100
    size = torch.rand(2, count, generator=generator) * 40 + 5
    scores = torch.rand(classes, count, generator=generator) ** 3
    return torch.cat((centre, size, scores))[None]


def greedy(output: torch.Tensor, conf: float, iou: float) -> list[tuple[float, ...]]:
    """Every class alone, by the definition: keep the best, drop what overlaps it, repeat."""
    kept = []
    boxes, scores = output[0, :4].T.tolist(), output[0, 4:].tolist()
    for class_id, row in enumerate(scores):
        left = sorted((s, i) for i, s in enumerate(row) if s > conf)
        chosen: list[list[float]] = []
        while left:
            score, i = left.pop()
            x, y, w, h = boxes[i]
            box = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
            if all(overlap(box, other) <= iou for other in chosen):
                chosen.append(box)
                kept.append((*box, score, float(class_id)))
    return sorted(kept, key=lambda row: -row[4])


def overlap(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (both - width * height)


@pytest.mark.parametrize(("conf", "iou"), [(0.001, 0.45), (0.2, 0.7), (0.001, 0.0), (0.5, 1.0)])
def test_nms_is_the_greedy_one_of_each_class(conf: float, iou: float) -> None:
    output = random_output()

    (rows,) = decode(output, classes=3, conf=conf, iou=iou, max_det=10_000)

    np.testing.assert_allclose(rows.numpy(), greedy(output, conf, iou), rtol=1e-5, atol=1e-4)


def test_nms_agrees_with_opencv() -> None:
    output = random_output(classes=1)
    centre, size = output[0, :2].T.numpy(), output[0, 2:4].T.numpy()
    boxes = np.concatenate((centre - size / 2, size), axis=1).astype(np.float64)

    (rows,) = decode(output, classes=1, conf=0.1, iou=0.45, max_det=10_000)
    keep = cv2.dnn.NMSBoxes(boxes.tolist(), output[0, 4].tolist(), 0.1, 0.45)

    np.testing.assert_allclose(rows[:, 4].numpy(), output[0, 4].numpy()[keep], rtol=1e-6)


def test_max_det_keeps_the_best() -> None:
    (every,) = decode(random_output(), classes=3, conf=0.001, iou=0.45, max_det=10_000)
    (some,) = decode(random_output(), classes=3, conf=0.001, iou=0.45, max_det=7)

    assert torch.equal(some, every[:7])


def test_a_box_counts_for_each_of_its_classes() -> None:
    output = torch.tensor([10.0, 10, 4, 4, 0.9, 0.001, 0.5])[None, :, None]

    (rows,) = decode(output, classes=3, conf=0.001, iou=0.45, max_det=300)

    # 0.001 is not above 0.001.
    assert rows[:, 5].tolist() == [0, 2]
    assert rows[0, :4].tolist() == [8, 8, 12, 12]


def test_rows_behind_the_scores_are_ignored() -> None:
    output = random_output()
    masked = torch.cat((output, torch.full((1, 32, 200), 9.0)), dim=1)

    (rows,) = decode(masked, classes=3, conf=0.001, iou=0.45, max_det=300)

    assert torch.equal(rows, decode(output, classes=3, conf=0.001, iou=0.45, max_det=300)[0])


def test_an_end_to_end_head_is_only_filtered() -> None:
    # Two rows that any NMS would join, and one below the threshold.
    output = torch.tensor(
        [[[0.0, 0, 9, 9, 0.5, 1], [0, 0, 9, 9, 0.8, 1], [0, 0, 9, 9, 0.1, 0], [1, 1, 2, 2, 0.3, 0]]]
    )

    (rows,) = decode((output, None), classes=80, conf=0.2, iou=0.45, max_det=2)

    assert rows[:, 4].tolist() == pytest.approx([0.8, 0.5])


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (torch.zeros(1, 6, 50), r"got \[1, 6, 50\], expected \[B, 7, N\]"),
        (torch.zeros(1, 300, 7), r"got \[1, 300, 7\], expected \[B, 7, N\]"),
        (torch.zeros(1, 7), r"got \[1, 7\], expected \[B, 7, N\]"),
        ({"a": 1}, "got dict"),
        (torch.full((1, 7, 9), float("nan")), "holds nan or inf"),
    ],
)
def test_other_outputs_are_refused(output: object, message: str) -> None:
    with pytest.raises(MeasureError, match=message):
        decode(output, classes=3, conf=0.1, iou=0.5, max_det=300)


class RedSquare(nn.Module):
    """Boxes what is red, scores it by how much of its box is; a detector with known answers."""

    names: ClassVar = {0: "red"}

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.ones(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        rows = []
        for red in images[:, 0] - images[:, 2] > 0.5:
            y, x = torch.nonzero(red, as_tuple=True)
            left, right, top, bottom = x.min(), x.max() + 1, y.min(), y.max() + 1
            box = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
            rows.append(torch.stack([*map(torch.as_tensor, box), torch.tensor(0.9)]).float())
        return torch.stack(rows)[..., None]


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Five black pictures of 80 x 40, each with a red rectangle at its own place."""
    paths = []
    for number in range(5):
        image = np.zeros((40, 80, 3), dtype=np.uint8)
        image[8 : 8 + 4 * (number + 1), 16 : 16 + 8 * (number + 1)] = (0, 0, 255)
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), image)
        paths.append(path)
    return paths


@pytest.mark.parametrize("letterbox", [None, False])
@pytest.mark.parametrize(("batch", "workers"), [(1, 0), (2, 1), (2, 0), (8, 3)])
def test_boxes_come_back_in_pixels_of_the_picture(
    pictures: list[Path], letterbox: bool | None, batch: int, workers: int
) -> None:
    options = DetectOptions(imgsz=160, batch=batch, workers=workers, letterbox=letterbox)

    found = list(detect(RedSquare(), pictures, options))

    assert [one.image for one in found] == pictures
    for number, one in enumerate(found):
        expected = [[16, 8, 16 + 8 * (number + 1), 8 + 4 * (number + 1)]]
        np.testing.assert_allclose(one.boxes_xyxy, expected, atol=0.5)
        assert (one.width, one.height, one.classes.tolist()) == (80, 40, [0])


def test_a_darknet_model_says_how_its_pictures_are_fitted(pictures: list[Path]) -> None:
    seen = []

    class Darknet(RedSquare):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(float(images[0, :, 0].mean()))
            return super().forward(images)

    for wanted in (False, True):
        model = Darknet()
        model.letterbox = wanted
        list(detect(model, pictures[:1], DetectOptions(imgsz=64)))

    # The first row is black where the picture fills the input, grey 114 where it does not.
    assert seen == pytest.approx([0, 114 / 255])


def test_the_model_is_left_as_it_was(pictures: list[Path]) -> None:
    model = RedSquare().train().double()

    list(detect(model, pictures, DetectOptions(imgsz=64)))

    assert model.training and model.unused.dtype == torch.float64


@pytest.mark.parametrize(
    "fault",
    [{"conf": 1.0}, {"conf": float("nan")}, {"iou": 1.5}, {"batch": 0}, {"max_det": 0}],
)
def test_options_that_mean_nothing_are_refused(fault: dict[str, float]) -> None:
    with pytest.raises(MeasureError, match=f"^{next(iter(fault))}: got"):
        DetectOptions(imgsz=64, **fault)


def test_a_model_without_names_or_device_is_refused(pictures: list[Path]) -> None:
    with pytest.raises(MeasureError, match="has no class names"):
        list(detect(nn.Identity(), pictures, DetectOptions(imgsz=64)))
    with pytest.raises(MeasureError, match="device 'meat': not available"):
        list(detect(RedSquare(), pictures, DetectOptions(imgsz=64, device="meat")))


@pytest.mark.parametrize("head", ["OBB26", "RTDETRDecoder"])
def test_heads_that_mean_something_else_are_refused(pictures: list[Path], head: str) -> None:
    model = RedSquare()
    model.model = nn.Sequential(type(head, (nn.Identity,), {})())

    with pytest.raises(MeasureError, match="not measured here"):
        list(detect(model, pictures, DetectOptions(imgsz=64)))
