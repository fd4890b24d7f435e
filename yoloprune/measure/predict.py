"""Boxes on pictures and in videos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from torch import nn

from yoloprune.measure.detect import Detections, DetectOptions, Detector, Unread, detect, fit_of
from yoloprune.measure.images import ImageArray
from yoloprune.measure.tasks import check_boxes
from yoloprune.measure.videos import Video, frames
from yoloprune.progress import progress

_FRAMES = 8
"""A pass; of large videos more would fill the memory."""


def predict_images(
    model: nn.Module, images: Sequence[Path], options: DetectOptions
) -> dict[str, Any]:
    """Detect objects in pictures.

    Args:
        model: a detector; masks and key points of segment and pose models are left out.
        images: picture files.
        options: input size, thresholds, device.

    Returns:
        JSON-able: per picture its file and boxes: name, confidence in [0, 1], ``xyxy`` in
        pixels of the picture.

    Raises:
        DataError: a picture cannot be read.
        MeasureError: the model draws no upright boxes.
    """
    return {"images": list(predicted(model, images, options))}


def predicted(
    model: nn.Module,
    images: Sequence[Path],
    options: DetectOptions,
    unread: Unread | None = None,
) -> Iterator[dict[str, Any]]:
    """As :func:`predict_images`, picture by picture.

    Args:
        model: as there.
        images: as there.
        options: as there.
        unread: told of pictures that cannot be read, which are left out; None ends at the first.

    Yields:
        ``file`` and ``boxes`` of each picture that could be read, in order.

    Raises:
        DataError: a picture cannot be read.
        MeasureError: the model draws no upright boxes.
    """
    check_boxes(model)
    for found in detect(model, images, options, unread):
        boxes = boxes_of(found, model.names)  # type: ignore[arg-type]
        yield {"file": str(found.image), "boxes": boxes}


def predicted_frames(
    model: nn.Module, video: Video, options: DetectOptions
) -> Iterator[tuple[ImageArray, dict[str, Any]]]:
    """Detect objects in a video, frame by frame.

    Args:
        model: a detector.
        video: whose frames are read.
        options: input size, thresholds, device.

    Yields:
        The frame, uint8 ``[H, W, 3]`` BGR; and its number from 0, its time in seconds and its
        boxes, JSON-able.

    Raises:
        DataError: no frame can be decoded.
        MeasureError: the model draws no upright boxes.
    """
    check_boxes(model)
    options = replace(options, batch=min(options.batch, _FRAMES))
    detector, fit = Detector(model, options), fit_of(model, options)
    read, number = frames(video.path), 0
    with progress(video.path.name) as advance:
        while batch := list(islice(read, options.batch)):
            found = detector([(video.path, *fit(frame)) for frame in batch])
            for frame, seen in zip(batch, found, strict=True):
                boxes = boxes_of(seen, model.names)  # type: ignore[arg-type]
                time = round(number / video.fps, 3)
                yield frame, {"frame": number, "seconds": time, "boxes": boxes}
                number += 1
            advance(number, max(video.count, number))


def boxes_of(found: Detections, names: dict[int, str]) -> list[dict[str, Any]]:
    """The boxes of one picture, the surest first, as JSON-able records."""
    return [
        {
            "name": names[int(number)],
            "confidence": round(float(score), 4),
            "xyxy": [round(float(v), 1) for v in box],
        }
        for box, score, number in zip(found.boxes_xyxy, found.scores, found.classes, strict=True)
    ]
