"""Boxes on pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from yoloprune.measure.detect import Detections, DetectOptions, detect
from yoloprune.measure.tasks import check_boxes


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
    check_boxes(model)
    records = []
    for found in detect(model, images, options):
        boxes = boxes_of(found, model.names)  # type: ignore[arg-type]
        records.append({"file": str(found.image), "boxes": boxes})
    return {"images": records}


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
