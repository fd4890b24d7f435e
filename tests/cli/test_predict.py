"""``predict``: folders, patterns, videos; pictures at their own size; the rest where one is bad."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from yoloprune.cli.main import app
from yoloprune.measure.videos import Video, writing
from yoloprune.models.door import load, save

DEMO = Path(__file__).parents[2] / "cfg" / "yoloprune-demo.cfg"
COMMON = ("--imgsz", "64", "--device", "cpu", "--conf", "0.0001")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a network and pictures of two sizes, and we in it."""
    monkeypatch.chdir(tmp_path)
    save(load(DEMO, scratch=True)[0], Path("net.cfg"))
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (60, 80)), ("deep/b.jpg", (90, 50))):
        Path("shots", name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(f"shots/{name}", rng.integers(0, 255, (*size, 3), dtype=np.uint8))
    return tmp_path


def predict(*args: object) -> Any:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["predict", *COMMON, *map(str, args)])


def size_of(path: str) -> tuple[int, ...]:
    image = cv2.imread(path)
    assert image is not None, path
    return image.shape[:2]


def test_pictures_keep_their_size_and_form(here: Path) -> None:
    done = predict("net.cfg", "shots")
    assert done.exit_code == 0, done.stderr
    assert {p.name for p in Path("runs/predict").glob("[!.]*")} == {"a.png", "b.jpg"}
    assert size_of("runs/predict/a.png") == (60, 80)
    assert size_of("runs/predict/b.jpg") == (90, 50)
    assert done.stdout.splitlines()[-1] == "results in runs/predict"
    assert predict("net.cfg", "shots").stdout.splitlines()[-1] == "results in runs/predict2"


def test_only_boxes_are_drawn(here: Path) -> None:
    done = predict("net.cfg", "shots/a.png", "--conf", "0.9999")
    assert done.exit_code == 0, done.stderr
    assert "shots/a.png: nothing" in done.stdout
    assert np.array_equal(cv2.imread("runs/predict/a.png"), cv2.imread("shots/a.png"))


def test_the_cfg_and_the_weights_may_be_flags(here: Path) -> None:
    flags = ["--cfg", "net.cfg", "--weights", "net.weights", "--no-save"]
    for pictures in (["shots/a.png", "shots/*/*.jpg"], ["source=shots"]):
        done = predict(*flags, *pictures, "--json", "found.json")
        assert done.exit_code == 0, done.stderr
        record = json.loads(Path("found.json").read_text())
        assert [image["file"] for image in record["images"]] == ["shots/a.png", "shots/deep/b.jpg"]
        assert all(image["boxes"] for image in record["images"])
    assert not Path("runs").exists()


def test_what_cannot_be_read_is_a_line_each_and_the_rest_is_done(here: Path) -> None:
    Path("shots/bad.jpg").write_text("no picture")
    Path("shots/bad.mp4").write_text("no video")
    done = predict("net.cfg", "none.jpg", "shots", "-o", "out", "--json", "found.json", "-q")
    assert done.exit_code == 1
    lines = done.stderr.splitlines()
    assert lines == [
        "yoloprune: none.jpg: no such file.",
        "yoloprune: shots/bad.jpg: not an image that OpenCV can decode (10 bytes).",
        "yoloprune: shots/bad.mp4: not a video that OpenCV can decode.",
    ]
    assert {p.name for p in Path("out").glob("[!.]*")} == {"a.png", "b.jpg"}
    record = json.loads(Path("found.json").read_text())
    assert [f"yoloprune: {error}" for error in record["errors"]] == lines


def test_nothing_is_left_where_nothing_can_be_read(here: Path) -> None:
    done = predict("net.cfg", "none.jpg")
    assert done.exit_code == 1 and done.stderr.count("\n") == 1
    assert not Path("runs").exists()


def test_a_video_is_written_with_boxes_frame_by_frame(here: Path) -> None:
    video = Video(path=Path("clip.avi"), width=80, height=60, fps=5, count=0)
    with writing(Path("clip.mp4"), video) as write:
        for level in range(11):  # more than a pass takes
            write(np.full((60, 80, 3), 20 * level, dtype=np.uint8))
    done = predict("net.cfg", "clip.mp4", "--json", "found.json")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("clip.mp4: 11 frames, something in ")
    capture = cv2.VideoCapture("runs/predict/clip.mp4")
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 11
    assert capture.get(cv2.CAP_PROP_FPS) == 5
    assert capture.read()[1].shape == (60, 80, 3)
    capture.release()
    frames = json.loads(Path("found.json").read_text())["videos"][0]["frames"]
    assert [frame["frame"] for frame in frames] == list(range(11))
    assert frames[10]["seconds"] == 2.0
    assert {p.name for p in Path("runs/predict").glob("[!.]*")} == {"clip.mp4"}


def test_flags_that_contradict_each_other_end_in_two(here: Path) -> None:
    assert predict("net.cfg").exit_code == 2
    assert predict("net.cfg", "shots", "--no-save", "-o", "out").exit_code == 2
