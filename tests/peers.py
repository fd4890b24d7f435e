"""What others make of the files that are written here."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from yoloprune.darknet.network import DarknetModel


def picture_for(model: DarknetModel, dtype: torch.dtype = torch.float32) -> Tensor:
    """A random input, larger than the traced one, that every head accepts."""
    side = max(128, 2 * int(model.stride.max()))
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1)).to(dtype)


def agrees_in_opencv(model: DarknetModel, cfg: Path, weights: Path) -> bool:
    """Compare what enters every head with OpenCV's own reading of the files."""
    cv2.setNumThreads(1)
    try:
        net = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    except cv2.error as exc:
        # No peer then: an unknown layer, or a cfg with more anchors than its num says.
        if "Unknown layer type" in str(exc) or "num_of_anchors" in str(exc):
            pytest.skip(f"OpenCV's importer refuses it: {str(exc).splitlines()[0][-60:]}")
        raise
    layers = list(net.getLayerNames())
    names = [layers[layers.index(f"permute_{i}") - 1] for i in model.heads]
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.eps = 1e-6  # OpenCV's importer; Darknet itself has 1e-5
    image = picture_for(model)
    with torch.no_grad():
        expected = model(image)[1]
    net.setInput(image.numpy())
    return all(
        np.abs(found - raw.numpy()).max() <= 1e-3 * np.abs(raw.numpy()).max()
        for found, raw in zip(net.forward(names), expected, strict=True)
    )
