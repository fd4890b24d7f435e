"""Videos: read frame by frame, written in one piece or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import cv2

from yoloprune.errors import DataError, YoloPruneError
from yoloprune.files import FOLDER
from yoloprune.limits import count_from
from yoloprune.measure.images import MAX_PIXELS, PIXELS_VARIABLE, ImageArray

VIDEO_SUFFIXES = frozenset(
    {".asf", ".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm",
     ".wmv"}
)  # fmt: skip
"""What is taken for a video."""
_USUAL_FPS = 25.0
_FASTEST = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Video:
    """What a video says of itself.

    Attributes:
        path: its file.
        width, height: of a frame, pixels.
        fps: frames a second; 25 where it does not say.
        count: of frames; 0 where it does not say.
    """

    path: Path
    width: int
    height: int
    fps: float
    count: int


def open_video(path: Path) -> Video:
    """Look at a video's first lines.

    Raises:
        DataError: there is none, or OpenCV cannot decode it, or its frames claim too many pixels.
    """
    with _opened(path) as capture:
        width, height, count = (
            int(capture.get(what))
            for what in (
                cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_COUNT
            )
        )  # fmt: skip
        fps = float(capture.get(cv2.CAP_PROP_FPS))
    most = count_from(PIXELS_VARIABLE, MAX_PIXELS, "pixels", DataError)
    if not 0 < width * height <= most:
        raise DataError(
            f"{path}: claims frames of {width}x{height} pixels, expected at most {most} pixels. If "
            f"it is right, set {PIXELS_VARIABLE} higher."
        )
    usual = 0 < fps <= _FASTEST  # neither nan
    return Video(
        path=path, width=width, height=height,
        fps=fps if usual else _USUAL_FPS, count=max(count, 0),
    )  # fmt: skip


def frames(path: Path) -> Iterator[ImageArray]:
    """Frames of a video in order, uint8 ``[H, W, 3]`` BGR.

    Raises:
        DataError: it cannot be decoded, or has no frame.
    """
    with _opened(path) as capture:
        found = False
        while True:
            read, frame = capture.read()
            if not read:
                break
            found = True
            yield cast(ImageArray, frame)
    if not found:
        raise DataError(f"{path}: no frame of it can be decoded.")


@contextmanager
def _opened(path: Path) -> Iterator[cv2.VideoCapture]:
    if not path.is_file():
        raise DataError(f"{path}: no such video.")
    # ffmpeg takes some names for addresses, and OpenCV some for numbered pictures
    with _silent():
        capture = cv2.VideoCapture(str(path.resolve()), cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            raise DataError(f"{path}: not a video that OpenCV can decode.")
        yield capture
    finally:
        capture.release()


@contextmanager
def _silent() -> Iterator[None]:
    """Keep OpenCV and ffmpeg, which write to the terminal by themselves, from doing so."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # looked at once a process
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


@contextmanager
def writing(target: Path, video: Video) -> Iterator[Callable[[ImageArray], None]]:
    """Write a video of the same size and speed, MPEG-4, without sound.

    Args:
        target: ``.mp4``; it is there when the block succeeds, and as it was before where not.
        video: whose size and speed.

    Yields:
        Takes a frame, uint8 ``[height, width, 3]`` BGR.

    Raises:
        YoloPruneError: it cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=FOLDER, dir=target.parent) as folder:
            written = Path(folder, "video.mp4")
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            size = (video.width, video.height)
            with _silent():
                writer = cv2.VideoWriter(str(written), cv2.CAP_FFMPEG, codec, video.fps, size)
            try:
                if not writer.isOpened():
                    raise YoloPruneError(f"{target}: OpenCV cannot write MPEG-4 videos here.")
                yield writer.write
            finally:
                writer.release()
            written.replace(target)
    except OSError as exc:
        raise YoloPruneError(f"{target}: cannot be written: {exc.strerror or exc}.") from exc
