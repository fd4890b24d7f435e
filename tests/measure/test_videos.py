"""Videos: what is written is read again; what is none is refused by name."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from yoloprune.errors import DataError, YoloPruneError
from yoloprune.measure.videos import Video, frames, open_video, writing


def grey(level: int) -> np.ndarray:
    return np.full((48, 64, 3), level, dtype=np.uint8)


def written(path: Path, levels: list[int]) -> Video:
    video = Video(path=path, width=64, height=48, fps=12.5, count=0)
    with writing(path, video) as write:
        for level in levels:
            write(grey(level))
    return video


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.mp4"
    levels = [20, 90, 160, 230]
    written(path, levels)
    found = open_video(path)
    assert (found.width, found.height, found.fps, found.count) == (64, 48, 12.5, 4)
    read = [float(frame.mean()) for frame in frames(path)]
    assert read == pytest.approx(levels, abs=4)
    assert [p.name for p in path.parent.iterdir()] == ["a.mp4"]


def test_a_video_that_came_to_nothing_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"before")
    video = Video(path=path, width=64, height=48, fps=10, count=0)

    def interrupted() -> None:
        with writing(path, video) as write:
            write(grey(7))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("content", [b"", b"no video", bytes(range(256)) * 64])
def test_what_is_no_video_is_refused_without_a_word_of_ffmpeg(
    content: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.mp4"
    path.write_bytes(content)
    with pytest.raises(DataError, match="bad.mp4: not a video that OpenCV can decode"):
        open_video(path)
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


def test_a_missing_one_and_a_folder_are_none(tmp_path: Path) -> None:
    for path in (tmp_path / "none.mp4", tmp_path):
        with pytest.raises(DataError, match="no such video"):
            list(frames(path))


def test_frames_larger_than_any_camera_s_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "a.mp4", [9])
    monkeypatch.setenv("YOLOPRUNE_MAX_PIXELS", "3071")
    with pytest.raises(DataError, match="claims frames of 64x48 pixels, expected at most 3071"):
        open_video(tmp_path / "a.mp4")


def test_a_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(YoloPruneError, match="cannot be written"):
        written(tmp_path / "file" / "a.mp4", [1])


def test_a_level_of_opencv_s_log_is_as_it_was(tmp_path: Path) -> None:
    before = cv2.utils.logging.getLogLevel()
    with pytest.raises(DataError):
        open_video(tmp_path / "none.mp4")
    assert cv2.utils.logging.getLogLevel() == before
