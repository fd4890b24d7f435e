"""The picture of a mask."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from tests.nets import Chain
from yoloprune.mask.masking import mask_model
from yoloprune.mask.spec import MaskSpec
from yoloprune.report.masks import masks_picture, write_masks_picture, write_rounds_of_masks


def test_panels_of_what_there_is(tmp_path: Path) -> None:
    model = Chain()
    masked = mask_model(model, MaskSpec(method="l1_unstructured", amount=0.5))
    both = cv2.imread(str(write_masks_picture(tmp_path / "a.png", model, masked)))
    bare = model.a[0]
    one = cv2.imread(str(write_masks_picture(tmp_path / "b.png", bare, bare)))
    assert both.shape[0] > 1.5 * one.shape[0] and both.shape[1] == one.shape[1]


def test_the_gap_of_a_mask_is_seen() -> None:
    """Blue is what is left, grey what was there; nothing is grey where nothing went."""
    values = np.linspace(-1, 1, 4000, dtype=np.float32)
    gone = np.where(np.abs(values) < 0.5, 0, values).astype(np.float32)

    def grey(after: np.ndarray) -> int:
        data = np.frombuffer(masks_picture([("weights", values, after)]), np.uint8)
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
        return int((np.abs(picture.astype(int) - (0xCD, 0xC3, 0xB9)).max(axis=2) < 3).sum())

    assert grey(gone) > 10 * grey(values)


def test_rounds_and_their_limit(tmp_path: Path) -> None:
    """The limit is a line of its own colour; without one there is none."""
    rows = [
        {"name": f"round{i}", "sparsity": {"overall": 0.2 * i}, "AP": 0.5 - 0.1 * i,
         **({"untrained": {"AP": 0.4 - 0.1 * i}} if i else {})}
        for i in range(3)
    ]  # fmt: skip

    def orange(limit: float | None) -> int:
        path = write_rounds_of_masks(tmp_path / "r.png", rows, "AP", "round1", limit)
        picture = cv2.imread(str(path)).astype(int)
        return int((np.abs(picture - (0x00, 0x5E, 0xD5)).max(axis=2) < 3).sum())

    assert orange(None) == 0 < orange(0.25)
