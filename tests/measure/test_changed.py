"""What one network sees and another does not, counted by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from yoloprune.measure.changed import Sights, compare_sight, confident, same_object
from yoloprune.measure.data import Dataset
from yoloprune.measure.detect import Detections

WIDTH, HEIGHT = 400, 200


def picture(path: Path) -> Path:
    image = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    cv2.imwrite(str(path), image)
    return path


def label(class_id: int, x1: float, y1: float, x2: float, y2: float) -> list[float]:
    return [
        class_id, (x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT, (x2 - x1) / WIDTH,
        (y2 - y1) / HEIGHT,
    ]  # fmt: skip


def seen(path: Path, *rows: list[float]) -> Detections:
    """Rows are x1, y1, x2, y2, class, score."""
    table = np.array(rows, dtype=np.float32).reshape(-1, 6)
    return Detections(
        image=path, width=WIDTH, height=HEIGHT, boxes_xyxy=table[:, :4], scores=table[:, 5],
        classes=table[:, 4].astype(np.int64),
    )  # fmt: skip


def data(images: list[Path], *labels: list[list[float]]) -> Dataset:
    rows = tuple(np.array(each, dtype=np.float64).reshape(-1, 5) for each in labels)
    return Dataset(
        names=("cell", "cat", "dog"), images=tuple(images), labels=rows, source=Path("d.yaml"),
        split="val",
    )  # fmt: skip


SMALL, LARGE = [10.0, 10.0, 30.0, 30.0], [100.0, 20.0, 250.0, 170.0]
MEDIUM = [300.0, 100.0, 350.0, 150.0]


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return [picture(tmp_path / name) for name in ("a.jpg", "b.jpg", "c.jpg")]


def test_what_is_lost_and_what_is_invented(images: list[Path]) -> None:
    a, b, c = images
    truth = data(
        images,
        [label(0, *SMALL), label(1, *LARGE)],
        [label(0, *SMALL), label(0, *MEDIUM)],
        [],
    )
    before = [
        seen(a, [*SMALL, 0, 0.9], [*LARGE, 1, 0.8]),
        seen(b, [*SMALL, 0, 0.9], [*LARGE, 1, 0.5]),  # the second fits no label
        seen(c),
    ]
    after = [
        seen(a, [*LARGE, 1, 0.8], [*SMALL, 0, 0.2]),  # not sure enough
        seen(b, [*MEDIUM, 0, 0.7], [*LARGE, 1, 0.6]),  # no invention: the baseline sees it too
        seen(c, [*SMALL, 2, 0.4], [*LARGE, 1, 0.3]),
    ]
    found = compare_sight(truth, before, after, model="slim")
    told = {(one.by, one.name): (one.truths, one.baseline, one.found) for one in found.counts}
    assert told == {
        ("class", "cell"): (3, 2, 1), ("class", "cat"): (1, 1, 1),
        ("size", "small"): (2, 2, 0), ("size", "medium"): (1, 0, 1), ("size", "large"): (1, 1, 1),
    }  # fmt: skip
    assert [(one.image, one.lost, one.found) for one in found.changes] == [
        ("c.jpg", 0, 2), ("a.jpg", 1, 0), ("b.jpg", 1, 0),
    ]  # fmt: skip
    assert found.changes[1].boxes_after == ((*LARGE, 1, 0.8),)
    assert {one.model for one in (*found.counts, *found.changes)} == {"slim"}
    thumbnail = cv2.imdecode(np.frombuffer(found.changes[0].thumbnail, np.uint8), 1)
    assert thumbnail is not None and thumbnail.shape == (180, 360, 3)
    assert (found.changes[0].width, found.changes[0].height) == (WIDTH, HEIGHT)
    record = found.to_dict()
    assert record["images"] == 3
    assert record["pictures"][1] == {"image": "a.jpg", "lost": 1, "invented": 0}
    assert [one.image for one in compare_sight(truth, before, after, model="x", most=1).changes] \
        == ["c.jpg"]  # fmt: skip


def test_a_network_beside_itself_changes_nothing(images: list[Path]) -> None:
    truth = data(images[:1], [label(0, *SMALL)])
    same = [seen(images[0], [*SMALL, 0, 0.9], [*LARGE, 2, 0.9])]
    found = compare_sight(truth, same, same, model="twin")
    assert found.changes == ()
    assert all(one.baseline == one.found == 1 for one in found.counts)


def test_an_object_is_found_once_by_the_surest_box(images: list[Path]) -> None:
    truth = data(images[:1], [label(0, *SMALL)])
    twice = seen(images[0], [*SMALL, 0, 0.5], [11, 11, 30, 30, 0, 0.9])
    (count, _) = compare_sight(truth, [seen(images[0])], [twice], model="m").counts
    assert (count.truths, count.found) == (1, 1)
    (change,) = compare_sight(truth, [seen(images[0])], [twice], model="m").changes
    assert (change.lost, change.found) == (0, 1)  # the second box of it


def test_boxes_are_one_object_by_class_and_overlap() -> None:
    box = (0.0, 0.0, 10.0, 10.0, 1, 0.9)
    others = [(0.0, 0.0, 10.0, 5.1, 1, 0.3), (0.0, 0.0, 10.0, 4.9, 2, 0.3)]
    assert same_object([box], others[:1]) == [True]
    assert same_object([box], [replace_class(others[0], 2)]) == [False]
    assert same_object([box], others[1:]) == [False]
    assert same_object([box], []) == [False] and same_object([], [box]) == []


def replace_class(box: tuple[float, ...], class_id: int) -> tuple[float, ...]:
    return (*box[:4], class_id, box[5])


def test_what_is_not_sure_is_forgotten(images: list[Path]) -> None:
    (kept,) = confident([seen(images[0], [*SMALL, 0, 0.25], [*SMALL, 0, 0.24])])
    assert kept.scores.tolist() == [0.25] and kept.boxes_xyxy.shape == (1, 4)


def test_sights_are_compared_in_the_order_that_they_came(images: list[Path]) -> None:
    truth, sights = data(images[:1], [label(0, *SMALL)]), Sights("slim")
    assert sights.compared() is None  # a task without upright boxes
    sights.add(truth, [seen(images[0], [*SMALL, 0, 0.9])])
    sights.add(replace(truth), [seen(images[0])])
    found = sights.compared()
    assert found is not None and found.changes[0].lost == 1
