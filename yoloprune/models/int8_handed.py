"""Calibration pictures for the exporters of Ultralytics, which want a data set.

They get the very pictures that everything else is calibrated on: lossless, at the size of the
network's input, so that nothing is fetched and nothing resized again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from yoloprune.errors import ExportError


def calibration_set(pictures: Tensor, names: Mapping[int, str], folder: Path) -> Path:
    """Write pictures as a data set without labels.

    Args:
        pictures: float ``[N, 3, H, W]`` RGB in 0 … 1.
        names: of the model's classes.
        folder: that is made.

    Returns:
        Its YAML, of which the ``train`` split is meant.

    Raises:
        ExportError: the pictures have another number of channels.
    """
    import cv2
    import yaml

    if pictures.shape[1] != 3:
        raise ExportError(
            f"--precision int8: takes pictures of 3 channels in this format, got "
            f"{pictures.shape[1]}. Export to onnx or openvino."
        )
    images = folder / "images"
    images.mkdir(parents=True)
    for i, picture in enumerate(pictures):
        pixels = (picture * 255).round().byte().permute(1, 2, 0).numpy()[..., ::-1]
        cv2.imwrite(str(images / f"{i:05}.png"), pixels)
    content = {
        "path": str(folder.resolve()), "train": "images", "val": "images",
        "nc": len(names), "names": dict(names),
    }  # fmt: skip
    file = folder / "data.yaml"
    file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return file
