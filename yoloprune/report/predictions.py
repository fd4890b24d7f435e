"""Pictures with the boxes that a model found in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yoloprune.files import write_bytes
from yoloprune.measure.images import read_image
from yoloprune.report.plots import Panel, detections_picture


def write_predictions(out: Path, record: Mapping[str, Any]) -> None:
    """Draw what ``predict_images`` found.

    Args:
        out: folder for ``NAME.png`` of every picture.
        record: what it returned.
    """
    for image in record["images"]:
        path = Path(image["file"])
        panel = Panel(read_image(path), image["boxes"], path.name)
        write_bytes(out / f"{path.stem}.png", detections_picture(panel))
