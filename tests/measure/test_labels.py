"""YOLO label files: what is read, and what is refused by file and line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from yoloprune.errors import DataError
from yoloprune.measure.labels import label_path, parse_labels, read_labels


def test_boxes_are_read_as_written() -> None:
    text = "0 0.5 0.25 0.1 0.2\n\n2.0 0.1 0.9 0.05 0.06\n"

    labels = parse_labels(text, classes=3, where="a.txt")

    assert labels.tolist() == [[0, 0.5, 0.25, 0.1, 0.2], [2, 0.1, 0.9, 0.05, 0.06]]


def test_a_polygon_becomes_its_bounding_box() -> None:
    labels = parse_labels("1 0.2 0.1 0.6 0.3 0.4 0.9", classes=2, where="a.txt")

    np.testing.assert_allclose(labels, [[1, 0.4, 0.5, 0.4, 0.8]], rtol=1e-12)


def test_repeated_and_empty_boxes_are_left_out() -> None:
    text = "0 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.1 0.1\n0 0.5 0.5 0 0.1\n"

    assert len(parse_labels(text, classes=1, where="a.txt")) == 1


def test_an_empty_file_shows_nothing() -> None:
    assert parse_labels("\n", classes=1, where="a.txt").shape == (0, 5)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("3 0.5 0.5 0.1 0.1", r"a\.txt:2: class id out of range, got 3, expected 0 … 2"),
        ("-1 0.5 0.5 0.1 0.1", r"a\.txt:2: class id out of range, got -1"),
        ("0.5 0.5 0.5 0.1 0.1", r"a\.txt:2: class id out of range, got 0\.5"),
        ("0 0.5 0.5 0.1", r"a\.txt:2: wrong count of numbers, got 4"),
        ("0 0.1 0.1 0.2 0.2 0.3", r"a\.txt:2: wrong count of numbers, got 6"),
        ("0 0.5 0.5 0.1 0,1", r"a\.txt:2: not a number: .*'0,1'"),
        ("0 0.5 nan 0.1 0.1", r"a\.txt:2: not a finite number"),
        ("0 120 80 30 30", r"a\.txt:2: coordinate outside the image, got 120"),
        ("0 0.5 0.5 -0.1 0.1", r"a\.txt:2: coordinate outside the image, got -0\.1"),
    ],
)
def test_a_bad_line_is_refused_by_number(line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_labels(f"0 0.5 0.5 0.1 0.1\n{line}\n", classes=3, where="a.txt")


def test_a_binary_label_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"0 0.5\xff")

    with pytest.raises(DataError, match=r"a\.txt: is not text in UTF-8 \(byte 5\)"):
        read_labels(path, classes=1)


def test_a_word_of_pages_is_shown_in_part() -> None:
    for line in ("9" * 5000 + " 0 0 1 1", "x" * 5000 + " 0 0 1 1", "0 0 0 nan " + "1" * 5000):
        with pytest.raises(DataError) as caught:
            parse_labels(line, classes=1, where="a.txt")
        assert str(caught.value).startswith("a.txt:1: ")
        assert len(str(caught.value)) < 200


def test_labels_stand_in_for_the_last_images_folder(tmp_path: Path) -> None:
    image = tmp_path / "images" / "set" / "images" / "val" / "a.b.jpg"
    labels = tmp_path / "images" / "set" / "labels" / "val" / "a.b.txt"
    labels.parent.mkdir(parents=True)
    labels.touch()

    assert label_path(image) == labels


def test_labels_may_stand_beside_the_image(tmp_path: Path) -> None:
    image = tmp_path / "images" / "a.jpg"
    image.parent.mkdir()

    assert label_path(image) is None
    image.with_suffix(".txt").touch()
    assert label_path(image) == image.with_suffix(".txt")
