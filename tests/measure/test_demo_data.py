"""The drawn pictures: shapes are what and where their labels say, and a seed fixes them."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from yoloprune.errors import DataError
from yoloprune.measure.demo_data import (
    MAX_OBJECTS,
    NAMES,
    YAML_NAME,
    Shape,
    ShapesSpec,
    draw_picture,
    make_outline,
    paint,
    write_shapes,
)

SMALL = ShapesSpec(images=12, val=5, size=96, seed=3)


def labels(folder: Path, split: str) -> list[list[list[float]]]:
    files = sorted((folder / "labels" / split).glob("*.txt"))
    return [
        [[float(v) for v in line.split()] for line in f.read_text().splitlines()] for f in files
    ]


# Areas over the squared radius of the circumscribed circle.
@pytest.mark.parametrize(
    ("kind", "area"), [("circle", math.pi), ("square", 2.0), ("triangle", 3 * math.sqrt(3) / 4)]
)
@given(
    radius=st.floats(10, 40),
    angle=st.floats(0, 7),
    aspect=st.floats(0.8, 1.25),
    x=st.floats(60, 100),
    y=st.floats(60, 100),
)
def test_a_shape_fills_its_box_and_has_its_area(
    kind: str, area: float, radius: float, angle: float, aspect: float, x: float, y: float
) -> None:
    outline = make_outline(NAMES.index(kind), radius, angle, aspect) + [x, y]
    image = np.zeros((160, 160, 3), np.float32)
    paint(image, outline, np.full(3, 255, np.float32))
    cover = image[..., 0] / 255

    # the circle is a polygon of 48 corners, and outlines are half a fine pixel wide
    assert cover.sum() == pytest.approx(area * radius**2, rel=0.01, abs=1.5 * radius)
    rows, columns = np.nonzero(cover)
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    box = Shape(kind=0, outline=outline).box_xyxy
    assert seen == pytest.approx(box.tolist(), abs=1.2)


@given(seed=st.integers(0, 2**32), size=st.integers(32, 200))
def test_objects_lie_inside_the_picture_and_stand_out(seed: int, size: int) -> None:
    image, shapes = draw_picture(np.random.default_rng(seed), size)
    assert image.shape == (size, size, 3)
    assert image.std() > 5
    assert 1 <= len(shapes) <= MAX_OBJECTS
    for shape in shapes:
        assert (shape.box_xyxy >= 0.5 - 1e-9).all()
        assert (shape.box_xyxy <= size - 0.5 + 1e-9).all()


def test_the_set_is_complete_and_its_labels_are_of_its_pictures(tmp_path: Path) -> None:
    path = write_shapes(tmp_path / "set", SMALL)
    data = yaml.safe_load(path.read_text())
    assert data == {
        "train": "images/train",
        "val": "images/val",
        "names": dict(enumerate(NAMES)),
    }
    for split, count in (("train", 12), ("val", 5)):
        pictures = sorted((path.parent / data[split]).iterdir())
        assert len(pictures) == len(labels(path.parent, split)) == count
        for number, (picture, rows) in enumerate(
            zip(pictures, labels(path.parent, split), strict=True)
        ):
            rng = np.random.default_rng([3, ["train", "val"].index(split), number])
            image, shapes = draw_picture(rng, 96)
            read = cv2.imread(str(picture))
            # JPEG costs noise, so means of 8 by 8 pixels are compared
            assert np.abs(cv2.blur(read, (8, 8)) - cv2.blur(image, (8, 8)).astype(int)).mean() < 3
            assert [row[0] for row in rows] == [shape.kind for shape in shapes]
            for (_, cx, cy, w, h), shape in zip(rows, shapes, strict=True):
                corners = np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]) * 96
                assert corners == pytest.approx(shape.box_xyxy.tolist(), abs=1e-3)


def test_a_seed_fixes_the_pictures_and_more_of_them_begin_the_same(tmp_path: Path) -> None:
    def written(name: str, spec: ShapesSpec) -> list[bytes]:
        folder = write_shapes(tmp_path / name, spec).parent
        return [p.read_bytes() for p in sorted(folder.glob("[il]*/train/*"))]

    first = written("a", ShapesSpec(images=3, val=1, size=64, seed=1))
    assert first == written("b", ShapesSpec(images=3, val=1, size=64, seed=1))
    longer = written("c", ShapesSpec(images=4, val=1, size=64, seed=1))
    assert (longer[:3], longer[4:7]) == (first[:3], first[3:])
    assert all(
        x != y
        for x, y in zip(
            first, written("d", ShapesSpec(images=3, val=1, size=64, seed=2)), strict=True
        )
    )


def test_the_splits_differ_and_the_classes_are_balanced(tmp_path: Path) -> None:
    folder = write_shapes(tmp_path / "set", ShapesSpec(images=120, val=120, size=48)).parent
    train, val = labels(folder, "train"), labels(folder, "val")
    assert train != val
    counts = np.bincount([int(row[0]) for rows in train for row in rows], minlength=3)
    assert counts.min() > 0.8 * counts.mean()
    assert 2.5 < counts.sum() / 120 < 4.5


def test_the_same_set_is_left_alone_and_another_is_not_overwritten(tmp_path: Path) -> None:
    path = write_shapes(tmp_path / "set", SMALL)
    before = path.stat().st_mtime_ns
    assert write_shapes(tmp_path / "set", SMALL).stat().st_mtime_ns == before
    with pytest.raises(DataError, match="holds something else"):
        write_shapes(tmp_path / "set", ShapesSpec(images=13, val=5, size=96, seed=3))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="mine: holds something else"):
        write_shapes(mine, SMALL)
    assert [p.name for p in mine.iterdir()] == ["thesis.txt"]


def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter([True] * 5 + [False])

    def fail_in_time(*args: object) -> tuple[bool, np.ndarray]:
        if next(calls):
            return True, np.zeros(4, np.uint8)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("yoloprune.measure.demo_data.cv2.imencode", fail_in_time)
    with pytest.raises(DataError, match="No space left"):
        write_shapes(tmp_path / "set", SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"images": 0}, {"val": -1}, {"size": 31}, {"seed": -1}])
def test_sizes_that_make_no_set(wrong: dict[str, int]) -> None:
    (name,) = wrong
    with pytest.raises(DataError, match=f"{name} must be at least"):
        ShapesSpec(**wrong)


def test_the_script(repo: Path, tmp_path: Path) -> None:
    def run(*flags: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(repo / "benchmarks" / "shapes.py"), str(tmp_path / "set")]
        return subprocess.run([*command, *flags], capture_output=True, text=True, check=False)

    done = run("--images", "4", "--val", "2", "--size", "64", "--seed", "5")
    assert (done.returncode, done.stderr) == (0, "")
    assert Path(done.stdout.strip()) == tmp_path / "set" / YAML_NAME
    assert len(list((tmp_path / "set" / "images" / "train").iterdir())) == 4
    failed = run("--images", "0")
    assert failed.returncode == 1
    assert failed.stderr == "shapes: images must be at least 1, got 0.\n"
